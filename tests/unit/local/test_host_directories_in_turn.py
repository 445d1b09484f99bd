"""Clusters of one machine take turns at the directories that their nodes share as mount targets.

A cluster that goes removes them unless another node runs; one that comes has made them, and its node runs
only a moment later. The turn covers that moment.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tessera.local import mount_namespace
from tessera.local.journal import Entry, Kind
from tessera.local.mount_namespace import (
    SHADOWED,
    remove_orphaned_host_directories,
    turn_at_host_directories,
    undo_host_directory,
)
from tessera.local.state import ClusterState, Identity

IDENTITY = Identity("one", "0" * 32)


def somebody_has_the_turn() -> bool:
    descriptor = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@pytest.fixture
def roles(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Role -> whether the turn was taken when it was looked for; beside the cluster "beside-a-repair"
    another one runs containerd.
    """
    asked: dict[str, bool] = {}

    def runs_elsewhere(role: str, *, identity: Identity) -> bool:
        asked[role] = somebody_has_the_turn()
        return role == "containerd" and identity.name == "beside-a-repair"

    monkeypatch.setattr(mount_namespace, "role_runs_elsewhere", runs_elsewhere)
    return asked


def test_a_directory_is_removed_in_turn(tmp_path: Path, roles: dict[str, bool]) -> None:
    target = tmp_path / "kubelet"
    target.mkdir()
    entry = Entry(Kind.HOST_DIRECTORY, str(target))
    undo_host_directory(entry, IDENTITY)
    assert not target.exists()
    assert roles["mount-namespace"]
    undo_host_directory(entry, IDENTITY)  # Another cluster announced it, too, and was slower.


def test_it_stays_while_another_node_is_repaired(tmp_path: Path, roles: dict[str, bool]) -> None:
    """Its namespace lives on in containerd after the process that made it was killed."""
    undo_host_directory(Entry(Kind.HOST_DIRECTORY, str(tmp_path)), Identity("beside-a-repair", "1" * 32))
    assert tmp_path.exists()


def test_what_a_vanished_cluster_left_goes_with_the_next_one(
    tmp_path: Path, roles: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its processes were killed and its state directory is gone, so no journal names what it made."""
    left, of_the_machine = tmp_path / "kubelet", tmp_path / "cni"
    left.mkdir()
    of_the_machine.mkdir()
    for name in SHADOWED:
        monkeypatch.setitem(SHADOWED, name, str(tmp_path / name))
    monkeypatch.setattr(mount_namespace, "is_ours", left.__eq__)
    remove_orphaned_host_directories(Identity("beside-a-repair", "1" * 32))
    assert left.exists()
    remove_orphaned_host_directories(IDENTITY)
    assert not left.exists()
    assert of_the_machine.exists()


def test_a_namespace_is_made_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From before the first directory until the mounts are made."""
    state = ClusterState.of("one", state_dir=tmp_path)
    state.create(state.journal)
    in_turn: list[bool] = []

    def start(*_: Any, **__: Any) -> SimpleNamespace:
        in_turn.append(somebody_has_the_turn())
        (state.directory / "node" / "mounted").touch()
        return SimpleNamespace(pid=1)

    monkeypatch.setattr(mount_namespace, "find", lambda **_: [])
    monkeypatch.setattr(mount_namespace, "start", start)
    monkeypatch.setattr(
        mount_namespace, "_ensure_host_directory", lambda *_, **__: in_turn.append(somebody_has_the_turn())
    )
    mount_namespace.ensure_namespace(state, identity=IDENTITY, journal=state.journal)
    assert len(in_turn) == len(mount_namespace.SHADOWED) + 1
    assert all(in_turn)


def test_turns_follow_each_other() -> None:
    for _ in range(2):
        with turn_at_host_directories():
            assert somebody_has_the_turn()
