"""The cluster's own subtree of control groups, in which all of its pods run.

The subtree's name holds the cluster's uid, so everything inside it is ours: pods, which do not carry the mark
of the cluster's processes, are found and ended through it. Version 1 has one tree per controller, version 2 a
single one; both are handled, and a machine with both (hybrid) too.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tessera.local.errors import LocalClusterError
from tessera.local.journal import Entry, Journal, Kind
from tessera.local.state import Identity

REMOVAL_TIMEOUT_SECONDS = 20.0
# What kubelet requires of the root of a version 2 tree.
CONTROLLERS = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids")


def is_version_1() -> bool:
    """Whether pods are governed by version 1 controllers here (true on hybrid machines)."""
    return not Path("/sys/fs/cgroup/cgroup.controllers").exists()


def ensure_cgroup(*, identity: Identity, journal: Journal) -> str:
    """Makes the subtree in every mounted tree and returns its path from their roots, such as
    `/tessera-demo-1f3c9a2e`.
    """
    journal.announce(Kind.CGROUP, identity.short)
    for root, version in _trees(Path("/proc/self/mountinfo").read_text()):
        if version == 2 and not is_version_1():
            _delegate_controllers(root)
        directory = root / identity.short
        directory.mkdir(exist_ok=True)
        _inherit_cpuset(directory)
    return f"/{identity.short}"


def undo_cgroup(entry: Entry, _identity: Identity) -> None:
    """Ends every process in the subtree and removes it.

    Raises:
        LocalClusterError: a process does not die.
    """
    deadline = time.monotonic() + REMOVAL_TIMEOUT_SECONDS
    for root, _version in _trees(Path("/proc/self/mountinfo").read_text()):
        directory = root / entry.name
        while directory.exists():
            for procs in directory.rglob("cgroup.procs"):
                with suppress(OSError):
                    for pid in procs.read_text().split():
                        _kill(int(pid), cgroup=entry.name)
            _remove(directory)
            if directory.exists():
                if time.monotonic() > deadline:
                    raise LocalClusterError(f"{directory} cannot be removed: a process in it does not end")
                time.sleep(0.02)


def _trees(mountinfo: str) -> Iterator[tuple[Path, int]]:
    """The mount point and version of every cgroup tree."""
    seen = set()
    for line in mountinfo.splitlines():
        fields = line.split()
        filesystem = fields[fields.index("-") + 1]
        if filesystem in ("cgroup", "cgroup2") and fields[4] not in seen:
            seen.add(fields[4])
            yield Path(fields[4]), 2 if filesystem == "cgroup2" else 1


def _delegate_controllers(root: Path) -> None:
    available = (root / "cgroup.controllers").read_text().split()
    enabled = (root / "cgroup.subtree_control").read_text().split()
    for controller in CONTROLLERS:
        if controller in available and controller not in enabled:
            (root / "cgroup.subtree_control").write_text(f"+{controller}")


def _inherit_cpuset(directory: Path) -> None:
    # In version 1 a new group has no CPUs at all, and no process can enter it.
    for name in ("cpuset.cpus", "cpuset.mems"):
        mine = directory / name
        if is_version_1() and mine.exists() and not mine.read_text().strip():
            mine.write_text((directory.parent / name).read_text())


def _kill(pid: int, *, cgroup: str) -> None:
    with suppress(ProcessLookupError, FileNotFoundError):
        descriptor = os.pidfd_open(pid)
        try:
            # The descriptor pins the process; only now look whether it is the one that was listed.
            if cgroup in Path(f"/proc/{pid}/cgroup").read_text():
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


def _remove(directory: Path) -> None:
    """Removes the tree bottom up as far as it is empty; the kernel frees a group a moment after its last
    process.
    """
    for path, _names, _files in os.walk(directory, topdown=False):
        with suppress(OSError):
            Path(path).rmdir()
