"""Starts the cluster's processes and finds them again, whoever started them and however that one ended.

A process is known by two things. Its environment carries the cluster's mark, which every child inherits, so
the shims and plugins that a killed containerd leaves behind are found too, and a child whose parent died
before it could write down the pid. And a signal goes through a pidfd that was opened before the mark was
read, so that a pid which the kernel has given to somebody else in the meantime is never hit.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tessera.local.errors import LocalClusterError
from tessera.local.journal import Journal, Kind
from tessera.local.state import Identity

CLUSTER_VARIABLE = "TESSERA_CLUSTER"
PROCESS_VARIABLE = "TESSERA_CLUSTER_PROCESS"

EXEC_SECONDS = 2.0
"""How long a process may be found in the midst of execve, far above what a busy machine needs."""

ENV_START_FIELD = 47
"""Where `env_start` stands in `/proc/PID/stat` after the command's name (proc(5): field 50)."""


@dataclass(frozen=True)
class FoundProcess:
    """A living process with our mark: its pid, when it started (clock ticks since boot), role and session."""

    pid: int
    started_ticks: int
    role: str
    session: int


def start(
    role: str,
    command: Sequence[str],
    *,
    identity: Identity,
    journal: Journal,
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a process of the cluster in a session of its own, so that it outlives this command.

    Args:
        role: the name under which `status` and `logs` show it; also its journal line.
        command: program and arguments.
        log: appended to by both of its output streams.
        environment: added to this process's own environment.
    """
    journal.announce(Kind.PROCESS, role)
    marks = {CLUSTER_VARIABLE: identity.mark, PROCESS_VARIABLE: role}
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {}), **marks},
            cwd="/",
            start_new_session=True,
        )


def find(*, identity: Identity, role: str | None = None) -> list[FoundProcess]:
    """All living processes with the cluster's mark (and role, if given), oldest first."""
    found = [
        process
        for mark, process in _marked_processes()
        if mark == identity.mark and (role is None or process.role == role)
    ]
    return sorted(found, key=lambda process: (process.started_ticks, process.pid))


def main_process(role: str, *, identity: Identity) -> FoundProcess | None:
    """The process that was started for `role`, if it lives.

    It leads its session; what it has started (a shim, say, which outlives its containerd) does not.
    """
    candidates = find(identity=identity, role=role)
    return next((process for process in candidates if process.session == process.pid), None)


def inspect(pid: int, *, identity: Identity) -> FoundProcess | None:
    """The process `pid`, when it lives and carries the cluster's mark; None otherwise."""
    marked = _marked(Path("/proc") / str(pid))
    return marked[1] if marked is not None and marked[0] == identity.mark else None


def role_runs_elsewhere(role: str, *, identity: Identity) -> bool:
    """Whether any other local cluster on this machine has a living process in this role."""
    return any(mark != identity.mark and process.role == role for mark, process in _marked_processes())


def _marked_processes() -> Iterator[tuple[str, FoundProcess]]:
    """All living processes of any local cluster, with that cluster's mark."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (marked := _marked(entry)) is not None:
            yield marked


def _marked(directory: Path) -> tuple[str, FoundProcess] | None:
    """A cluster's mark and the process, when that of a `/proc` directory lives and carries one."""
    try:
        variables = _environment(directory)
        if CLUSTER_VARIABLE not in variables:
            return None
        state, session, started_ticks = parse_stat((directory / "stat").read_text())
    except (OSError, ValueError):
        return None  # Gone, or somebody else's.
    if state in "ZX":
        return None
    role = variables.get(PROCESS_VARIABLE, "")
    return variables[CLUSTER_VARIABLE], FoundProcess(int(directory.name), started_ticks, role, session)


def _environment(directory: Path) -> dict[str, str]:
    """The environment of the process of a `/proc` directory.

    In the midst of execve a process has its new memory and no environment in it yet. Who took that for an
    unmarked process would leave one alive, so the end of the call is waited for: microseconds, but longer
    when the processor goes to somebody else just then.

    Raises:
        OSError: the process has gone or is another user's.
    """
    deadline = time.monotonic() + EXEC_SECONDS
    block = (directory / "environ").read_bytes()
    while not block:
        # In this order: a call that ends between the two looks is seen as under way and looked at again.
        under_way = in_execve(directory)
        block = (directory / "environ").read_bytes()
        if not under_way or time.monotonic() > deadline:
            break
        os.sched_yield()
    return parse_environment(block)


def in_execve(directory: Path) -> bool:
    """Whether the process has a program (unlike a zombie or a kernel thread) but no environment's address.

    An environment that is merely empty has an address. Other users' processes show none either, but then
    their program is hidden too.
    """
    if int(_stat_fields((directory / "stat").read_text())[ENV_START_FIELD]) != 0:
        return False
    try:
        (directory / "exe").readlink()
    except OSError:
        return False
    return True


def parse_environment(block: bytes) -> dict[str, str]:
    """`/proc/PID/environ` as a mapping.

    >>> parse_environment(b"A=1\\0B=x=y\\0")
    {'A': '1', 'B': 'x=y'}
    """
    pairs = (item.split("=", 1) for item in block.decode(errors="replace").split("\0") if "=" in item)
    return dict(pairs)


def parse_stat(line: str) -> tuple[str, int, int]:
    """State letter, session id and start time (clock ticks since boot) from `/proc/PID/stat`."""
    fields = _stat_fields(line)
    return fields[0], int(fields[3]), int(fields[19])


def _stat_fields(line: str) -> list[str]:
    """What follows the command's name in `/proc/PID/stat`.

    The name stands in parentheses and may itself hold spaces and parentheses, so fields count from the last
    one.
    """
    return line[line.rindex(")") + 2 :].split()


def kill_all(
    processes: Callable[[], Iterable[FoundProcess]], *, identity: Identity, timeout_seconds: float = 20.0
) -> int:
    """Kills what `processes()` finds, again and again until it finds nothing; returns how many were killed.

    SIGKILL at once: the state directory goes away together with the processes, so there is nothing to save,
    and a process that is asked politely may start another one meanwhile.

    Raises:
        LocalClusterError: something is still there after `timeout_seconds` (a process stuck in the kernel).
    """
    killed: set[tuple[int, int]] = set()
    deadline = time.monotonic() + timeout_seconds
    while True:
        living = list(processes())
        if not living:
            return len(killed)
        if time.monotonic() > deadline:
            names = ", ".join(f"{process.role} (pid {process.pid})" for process in living)
            raise LocalClusterError(
                f"{names} did not end within {timeout_seconds:.0f} s of SIGKILL: look at dmesg"
            )
        for process in living:
            if _signal(process, signal.SIGKILL, identity=identity):
                killed.add((process.pid, process.started_ticks))


def _signal(process: FoundProcess, number: signal.Signals, *, identity: Identity) -> bool:
    """Signals exactly this process and waits up to a second for its end; False when it is no longer the
    same.
    """
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        # The descriptor pins the process: what is read now is about the one that will be signalled.
        now = inspect(process.pid, identity=identity)
        if now is None or now.started_ticks != process.started_ticks:
            return False
        signal.pidfd_send_signal(descriptor, number)
        select.select([descriptor], [], [], 1.0)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    with suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)  # Our own child: do not leave a zombie.
    return True
