"""A private view of the file system for kubelet, containerd and everything they start.

kubelet and containerd have paths compiled in (`/run/containerd/s`, `/var/lib/kubelet/device-plugins`,
`/var/log/containers`), and mount hundreds of things while they run. In a mount namespace of their own those
paths are bind mounts of directories in the cluster's state directory. So clusters stand side by side, charts
find the standard paths of a real node, and not one mount is visible to the rest of the machine: the kernel
drops all of them with the last process of the namespace, however it ends.

The bind mounts need the directories as targets on the machine. Those that do not exist are made, empty, and
marked with an extended attribute; the last cluster on the machine removes them. One cluster at a time makes
and mounts them, or removes them: otherwise the one that goes could take them from under the one that comes,
whose node does not run yet.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tessera.local.errors import LocalClusterError
from tessera.local.host import find_tool
from tessera.local.journal import Entry, Journal, Kind
from tessera.local.processes import find, main_process, role_runs_elsewhere, start
from tessera.local.state import ClusterState, Identity

ROLE = "mount-namespace"
TENANTS = ("containerd", "kubelet")
SHADOWED = {
    "kubelet": "/var/lib/kubelet",
    "run": "/run/containerd",
    "cdi": "/run/cdi",
    "cni": "/var/lib/cni",
    "pod-logs": "/var/log/pods",
    "container-logs": "/var/log/containers",
    "tessera": "/var/lib/tessera",
}
"""Directory under `<state>/node` -> the path at which the node's processes see it."""

# kubelet sets these for the whole machine when they differ. It is shown files that hold what it wants.
SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
OWNER_ATTRIBUTE = "trusted.tessera.local"
START_TIMEOUT_SECONDS = 10.0


def node_directory(state: ClusterState, name: str) -> Path:
    """Where this machine finds what the node sees at `SHADOWED[name]`."""
    return state.directory / "node" / name


def ensure_namespace(state: ClusterState, *, identity: Identity, journal: Journal) -> list[str]:
    """The command prefix that runs a program inside the namespace, which is made if it is not there.

    Raises:
        LocalClusterError: the mounts could not be made.
    """
    # Whoever is inside keeps the namespace; after a repair all must be in the same one.
    inside = [process for role in (ROLE, *TENANTS) for process in find(identity=identity, role=role)]
    pid = inside[0].pid if inside else _create(state, identity=identity, journal=journal)
    enter = [str(find_tool("nsenter")), f"--mount=/proc/{pid}/ns/mnt", "--"]
    if inside and main_process(ROLE, identity=identity) is None:
        log = state.logs / f"{ROLE}.log"
        start(ROLE, [*enter, "sleep", "infinity"], identity=identity, journal=journal, log=log)
    return enter


def undo_host_directory(entry: Entry, identity: Identity) -> None:
    """Removes a directory that a cluster made as mount target, when it is empty and no other node runs.

    Removing it earlier would detach the mount that the other cluster has there; that one removes it later,
    because it has announced it too.
    """
    path = Path(entry.name)
    with turn_at_host_directories():
        if not path.is_dir() or any(path.iterdir()):
            return
        # While a namespace is repaired, its tenants are all that is left in it.
        if not any(role_runs_elsewhere(role, identity=identity) for role in (ROLE, *TENANTS)):
            path.rmdir()


def remove_orphaned_host_directories(identity: Identity) -> None:
    """Removes the marked ones that are in no journal here: say, of a cluster that was killed and whose state
    directory was then removed by hand.
    """
    for target in SHADOWED.values():
        if is_ours(Path(target)):
            undo_host_directory(Entry(Kind.HOST_DIRECTORY, target), identity)


@contextmanager
def turn_at_host_directories() -> Iterator[None]:
    """Makes the clusters of this machine wait for each other, whatever their state directories.

    The root directory is the lock file: nothing has to be made for it, and whoever sees another one sees
    other directories, too. The kernel drops the lock when its holder dies.
    """
    descriptor = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@turn_at_host_directories()
def _create(state: ClusterState, *, identity: Identity, journal: Journal) -> int:
    script = ["mount --make-rshared /"]
    for name, target in SHADOWED.items():
        source = node_directory(state, name)
        source.mkdir(parents=True, exist_ok=True)
        _ensure_host_directory(Path(target), journal=journal)
        script.append(f"mount --bind {shlex.quote(str(source))} {target}")
    for name, value in SYSCTLS.items():
        if Path("/proc/sys", name).exists():
            source = state.directory / "node" / "sysctl" / name.replace("/", "-")
            source.parent.mkdir(exist_ok=True)
            source.write_text(f"{value}\n")
            script.append(f"mount --bind {shlex.quote(str(source))} /proc/sys/{name}")
    log = state.logs / f"{ROLE}.log"
    done = state.directory / "node" / "mounted"
    done.unlink(missing_ok=True)
    script += [f"touch {shlex.quote(str(done))}", "exec sleep infinity"]
    child = start(
        ROLE,
        [str(find_tool("unshare")), "--mount", "--propagation", "slave", "sh", "-ec", "\n".join(script)],
        identity=identity,
        journal=journal,
        log=log,
    )
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not done.exists():
        if child.poll() is not None or time.monotonic() > deadline:
            raise LocalClusterError(
                f"a mount namespace for the node could not be made: {log.read_text().strip()}; "
                "this needs CAP_SYS_ADMIN: use `--nodes N` for simulated nodes"
            )
        time.sleep(0.01)
    return child.pid


def _ensure_host_directory(path: Path, *, journal: Journal) -> None:
    if path.is_dir() and not is_ours(path):
        return  # The machine's own; nothing is written to it.
    journal.announce(Kind.HOST_DIRECTORY, str(path))
    path.mkdir(exist_ok=True)
    os.setxattr(path, OWNER_ATTRIBUTE, b"1")


def is_ours(path: Path) -> bool:
    """Whether a local cluster made this directory of the machine. Only root sees (and makes) the mark."""
    with suppress(OSError):
        return os.getxattr(path, OWNER_ATTRIBUTE) == b"1"
    return False
