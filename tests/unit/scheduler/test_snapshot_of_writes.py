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
    first = reader.read(**world.objects(), now=1.0)
    second = reader.read(**world.objects(), now=1.0)
    assert first.pods["default", "p"] is second.pods["default", "p"]
    assert first.inventory is second.inventory
    world.pods["p"]["spec"]["priority"] = 7
    world.touch(world.pods["p"])
    assert reader.read(**world.objects(), now=1.0).pods["default", "p"].priority == 7


def test_finished_pods_are_left_out(world: Any) -> None:
    world.add_pod("p")
    world.pods["p"]["status"]["phase"] = "Succeeded"
    assert world.snapshot().pods == {}


def test_a_created_object_is_there_at_once_and_until_the_informer_shows_it() -> None:
    written = Written()
    written.put(obj("new", 10), created=True)
    assert written.over([obj("a", 1)]) == [obj("a", 1), obj("new", 10)]
    assert written.unseen() == [("d", "new")]
    written.put(obj("new", 12))
    assert written.over([]) == [obj("new", 12)]
    # The informer has it, in an older version: from now on its word counts.
    assert written.over([obj("new", 10)]) == [obj("new", 12)]
    assert written.unseen() == []
    assert written.over([]) == []


def test_a_created_object_that_the_store_does_not_have_is_not_waited_for() -> None:
    written = Written()
    written.put(obj("new", 10), created=True)
    written.forget(("d", "new"))
    assert written.over([]) == []
    assert written.unseen() == []


def test_of_two_lives_of_one_name_the_later_one_counts() -> None:
    written = Written()
    written.put(obj("m", 20, uid="second"), created=True)
    assert written.over([obj("m", 9, uid="first")]) == [obj("m", 20, uid="second")]
    assert written.over([obj("m", 30, uid="third")]) == [obj("m", 30, uid="third")]
    assert written.over([]) == []


def test_a_deleted_object_is_hidden_however_late_the_informer_is() -> None:
    written = Written()
    other = obj("a", 1, uid="a")
    written.put(obj("m", 10), created=True)
    written.remove(obj("m", 10))
    assert written.over([other]) == [other]
    assert written.over([obj("m", 10), other]) == [other]
    assert written.over([obj("m", 11), other]) == [other]
    assert written.over([other]) == [other]
    # Another one of that name is another one.
    assert written.over([obj("m", 12, uid="second")]) == [obj("m", 12, uid="second")]


def test_answers_that_come_out_of_order_do_not_bring_back_the_past() -> None:
    written = Written()
    written.put(obj("a", 12))
    written.put(obj("a", 11))
    assert written.over([obj("a", 9)]) == [obj("a", 12)]
