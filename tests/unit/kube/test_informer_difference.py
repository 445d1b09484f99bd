"""What an informer tells after it had to list again."""

from __future__ import annotations

from typing import Any

from tessera.kube.informer import difference, key_of

Object = dict[str, Any]


def obj(name: str, uid: str, version: str) -> Object:
    return {
        "metadata": {"namespace": "default", "name": name, "uid": uid, "resourceVersion": version},
    }


def told(old: list[Object], new: list[Object]) -> list[tuple[str, str, str]]:
    changes = difference({key_of(item): item for item in old}, {key_of(item): item for item in new})
    return [(kind, item["metadata"]["name"], item["metadata"]["uid"]) for kind, item, _ in changes]


def test_unchanged_objects_are_not_told() -> None:
    assert told([obj("a", "1", "5")], [obj("a", "1", "5")]) == []


def test_each_change_is_told_once() -> None:
    old = [obj("kept", "1", "5"), obj("changed", "2", "5"), obj("gone", "3", "5")]
    new = [obj("kept", "1", "5"), obj("changed", "2", "9"), obj("new", "4", "9")]
    assert told(old, new) == [("DELETED", "gone", "3"), ("MODIFIED", "changed", "2"), ("ADDED", "new", "4")]


def test_an_object_made_anew_under_its_old_name_is_two_changes() -> None:
    assert told([obj("a", "1", "5")], [obj("a", "2", "9")]) == [("DELETED", "a", "1"), ("ADDED", "a", "2")]


def test_the_old_object_comes_with_the_change() -> None:
    before, after = obj("a", "1", "5"), obj("a", "1", "6")
    assert difference({key_of(before): before}, {key_of(after): after}) == [("MODIFIED", after, before)]


def test_cluster_scoped_objects_have_an_empty_namespace() -> None:
    assert key_of({"metadata": {"name": "n1"}}) == ("", "n1")
