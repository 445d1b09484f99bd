"""Undoes what a journal announces, in reverse; also after the cluster's maker was killed in the middle.

Each kind of resource has one undo function here. It looks for the resource by the mark that the resource
itself carries, so it does nothing when the resource was never made, is already gone, or belongs to somebody
else.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable

from tessera.local.cgroups import undo_cgroup
from tessera.local.journal import Entry, Kind, refuse_foreign_directory
from tessera.local.mount_namespace import remove_orphaned_host_directories, undo_host_directory
from tessera.local.network import undo_bridge, undo_rule
from tessera.local.processes import find, kill_all
from tessera.local.progress import Progress
from tessera.local.state import ClusterState, Identity

Undo = Callable[[Entry, Identity], None]


def tear_down(state: ClusterState, *, progress: Progress) -> bool:
    """Removes every trace of the cluster; returns False when there was none. May be repeated after a failure.

    Raises:
        NotOursError: the directory was not made by `tessera local`.
        LocalClusterError: something resists (a process stuck in the kernel, a busy mount).
    """
    refuse_foreign_directory(state.directory)
    if not state.directory.exists():
        return False
    with state.exclusively(progress=progress):
        identity = state.identity()
        if identity is not None:
            with progress.step(f"removing cluster {identity.name}"):
                _undo_all(state, identity)
        # The journal goes last: a teardown that is killed here can be repeated.
        for path in state.directory.iterdir():
            if path != state.journal.path:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        state.journal.path.unlink(missing_ok=True)
        state.directory.rmdir()
    return True


def _undo_all(state: ClusterState, identity: Identity) -> None:
    for entry in reversed(state.journal.entries()):
        undo = UNDO.get(entry.kind)
        if undo is not None:
            undo(entry, identity)
    remove_orphaned_host_directories(identity)
    # Children that a process started, under a role of nobody's line.
    kill_all(lambda: find(identity=identity), identity=identity)


def _undo_process(entry: Entry, identity: Identity) -> None:
    kill_all(lambda: find(identity=identity, role=entry.name), identity=identity)


UNDO: dict[Kind, Undo] = {
    Kind.PROCESS: _undo_process,
    Kind.HOST_DIRECTORY: undo_host_directory,
    Kind.BRIDGE: undo_bridge,
    Kind.FIREWALL_RULE: undo_rule,
    Kind.CGROUP: undo_cgroup,
}
