"""What differs between one snapshot and the next, so that a round costs what has changed, not what there is.

A `Table` holds the objects of one kind as they were last read. It is told which objects may have changed,
reads those again, and says which really have. The values of a snapshot are a dict of their own, so that an
older snapshot stays what it was; copying it costs microseconds per thousand objects.

Who keeps books over snapshots (`Index`, `Occupancy`, `NodeLoad` ...) is told the keys that may differ and
compares them with its own books. Keys that do not differ do no harm, so that more may always be told than
has changed: after a round that failed, or for a snapshot of another reader, simply all that is not the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Object = Mapping[str, Any]
Key = tuple[str, str]
ObjectVersion = tuple[str, str]
Read = TypeVar("Read")
Name = TypeVar("Name")


@dataclass(frozen=True, slots=True)
class Changes:
    """Keys of the objects in which two snapshots may differ: added, changed and gone ones, each once."""

    pods: tuple[Key, ...] = ()
    claims: tuple[Key, ...] = ()
    nodes: tuple[str, ...] = ()


def differing(before: Mapping[Name, Read], after: Mapping[Name, Read]) -> tuple[Name, ...]:
    """The names under which the two do not hold the same object."""
    if before is after:
        return ()
    changed = [name for name, value in after.items() if before.get(name) is not value]
    return (*changed, *(name for name in before if name not in after))


def key_of(obj: Object) -> Key:
    """(namespace or "", name) of an API object."""
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def against(known: Iterable[Key], objects: Iterable[Object]) -> dict[Key, Object | None]:
    """The objects by key, and None for those known ones that are not among them."""
    listed = {key_of(obj): obj for obj in objects}
    return {**listed, **{key: None for key in known if key not in listed}}


def version_of(obj: Object | None) -> ObjectVersion | None:
    """(UID, resourceVersion): equal for equal objects only."""
    return None if obj is None else (obj["metadata"]["uid"], obj["metadata"]["resourceVersion"])


class Table(Generic[Name, Read]):
    """The objects of one kind, each read once per resourceVersion. `read` may return None: the object is of
    no interest. `name` is what a snapshot calls an object of this key.
    """

    def __init__(self, *, read: Callable[[Object], Read | None], name: Callable[[Key], Name]) -> None:
        self.values: Mapping[Name, Read] = {}
        """The same mapping as before while nothing in it has changed."""
        self._read = read
        self._name = name
        self._versions: dict[Key, ObjectVersion] = {}

    def against(self, objects: Iterable[Object]) -> dict[Key, Object | None]:
        """What to update with when these are all objects that there are."""
        return against(self._versions, objects)

    def update(self, changed: Mapping[Key, Object | None]) -> tuple[Name, ...]:
        """These objects may have changed (None: the object is gone). Returns what has."""
        news: dict[Name, Read | None] = {}
        for key, obj in changed.items():
            version = version_of(obj)
            if version == self._versions.get(key):
                continue
            if obj is None or version is None:
                del self._versions[key]
                news[self._name(key)] = None
            else:
                self._versions[key] = version
                news[self._name(key)] = self._read(obj)
        return self._take(news)

    def read_again(self, raw: Callable[[Read], Object]) -> tuple[Name, ...]:
        """The rules of reading have changed. `raw` gives the object that a value was read from."""
        return self._take({name: self._read(raw(value)) for name, value in self.values.items()})

    def _take(self, news: Mapping[Name, Read | None]) -> tuple[Name, ...]:
        values = self.values
        # An equal value that was read from a newer object says nothing new: a node's heartbeat, say.
        news = {name: value for name, value in news.items() if values.get(name) != value}
        if not news:
            return ()
        fresh = dict(values)
        for name, value in news.items():
            if value is None:
                del fresh[name]
            else:
                fresh[name] = value
        self.values = fresh
        return tuple(news)
