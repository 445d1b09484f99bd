"""Our own writes count until the informer has caught up with them."""

from __future__ import annotations

from typing import Any

from tessera.scheduler.snapshot import SnapshotReader, Written


def obj(name: str, version: int, *, uid: str = "u") -> dict[str, Any]:
    return {"metadata": {"namespace": "d", "name": name, "uid": uid, "resourceVersion": str(version)}}


def test_a_newer_version_of_ours_replaces_the_informers() -> None:
    written = Written()
    written.put(obj("a", 10))
    assert written.over([obj("a", 9), obj("b", 1)]) == [obj("a", 10), obj("b", 1)]
    assert written.over([obj("a", 9)]) == [obj("a", 10)]


def test_versions_are_numbers_not_texts() -> None:
    written = Written()
    written.put(obj("a", 10))
    assert written.over([obj("a", 9)]) == [obj("a", 10)]
    written.put(obj("a", 99))
    assert written.over([obj("a", 100)]) == [obj("a", 100)]


def test_ours_is_forgotten_once_the_informer_has_it_or_the_object_is_gone_or_made_anew() -> None:
    for later in ([obj("a", 10)], [obj("a", 11)], [], [obj("a", 5, uid="other")]):
        written = Written()
        written.put(obj("a", 10))
        assert written.over(later) == later
        assert written.over([obj("a", 1)]) == [obj("a", 1)]


def test_an_unchanged_object_is_read_once(world: Any) -> None:
    reader = SnapshotReader()
    world.add_pod("p")
    arguments: dict[str, Any] = {
        "claims": [],
        "nodes": world.nodes.values(),
        "slices": world.slices,
        "now": 1.0,
    }
    first = reader.read(pods=world.pods.values(), **arguments)
    second = reader.read(pods=world.pods.values(), **arguments)
    assert first.pods["default", "p"] is second.pods["default", "p"]
    assert first.inventory is second.inventory
    world.pods["p"]["spec"]["priority"] = 7
    world.touch(world.pods["p"])
    assert reader.read(pods=world.pods.values(), **arguments).pods["default", "p"].priority == 7


def test_finished_pods_are_left_out(world: Any) -> None:
    world.add_pod("p")
    world.pods["p"]["status"]["phase"] = "Succeeded"
    assert world.snapshot().pods == {}
