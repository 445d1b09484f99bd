"""The cluster at one moment, as plain values: what every decision of one round is made from.

The informers' copies lag behind our own writes. What we wrote is therefore kept beside them (the answer of
the API server to each write) and counts as the truth until the informer has caught up with it: an allocation
that we made is never forgotten for a moment and given to somebody else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tessera.scheduler.changes import Changes, Table, differing
from tessera.scheduler.classes import NO_OBJECTS, Classes, ClassReader
from tessera.scheduler.inventory import Inventory
from tessera.scheduler.objects import Claim, Key, Node, Pod, read_claim, read_node, read_pod
from tessera.scheduler.published import InventoryReader
from tessera.scheduler.reserves import PartitionReserves, ReserveReader
from tessera.scheduler.selectors import SelectorCache

Object = dict[str, Any]

_MOST_GONE = 1000
"""Deleted objects that are remembered. The informer catches up in milliseconds, so a few would do."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Pods that have not finished, claims, nodes, the published GPUs, the device classes that mean them, and
    the room that partitions keep free. `now` is in seconds since the epoch.
    """

    pods: Mapping[Key, Pod]
    claims: Mapping[Key, Claim]
    nodes: Mapping[str, Node]
    inventory: Inventory
    now: float
    classes: Classes = field(default_factory=lambda: NO_OBJECTS)
    reserves: tuple[PartitionReserves, ...] = ()
    changes: Changes = field(default=Changes(), repr=False)
    """Since the reader's snapshot before."""
    before: object = field(default=None, repr=False, compare=False)
    mark: object = field(default_factory=object, repr=False, compare=False)
    """Stand for the reader's snapshot before, and for this one."""

    def changes_since(self, earlier: Snapshot | None) -> Changes:
        """In what this may differ from an earlier snapshot; None: from an empty cluster. Costs a pass over
        everything unless it is the snapshot just before.
        """
        if earlier is None:
            return Changes(tuple(self.pods), tuple(self.claims), tuple(self.nodes))
        if self.before is earlier.mark:
            return self.changes
        return Changes(
            differing(earlier.pods, self.pods),
            differing(earlier.claims, self.claims),
            differing(earlier.nodes, self.nodes),
        )

    def claim_of(self, pod: Pod, name: str | None) -> Claim | None:
        """The claim of a pod by the claim's name, when it exists and, if made from a template, is the pod's
        own.
        """
        return None if name is None else self.claims.get((pod.key[0], name))


class Written:
    """Objects as we last wrote them, until the informer shows the same or a newer version.

    An object that the informer does not list may be one that we have just created, or one that is gone. The
    list cannot tell these apart, so a created object stands beside the list until the informer has shown it
    once, or until the store says that it does not exist (`unseen` are those to ask about). An object that we
    have deleted is hidden, by its UID, however long the informer still lists it or lists it again.
    """

    def __init__(self) -> None:
        self._objects: dict[Key, Object] = {}
        self._unseen: set[Key] = set()
        self._gone: dict[tuple[Key, str], bool] = {}
        # Key and UID -> whether the informer listed it the last time.

    def put(self, obj: Object, *, created: bool = False) -> None:
        """Remember the API server's answer to a write, or what the store says; `created`: the informer may
        not know the object yet.
        """
        key = _key(obj)
        ours = self._objects.get(key)
        # Answers to writes of one round may come in any order.
        if ours is None or not _same_life(ours, obj) or _version(ours) <= _version(obj):
            self._objects[key] = obj
        if created:
            self._unseen.add(key)

    def remove(self, obj: Mapping[str, Any]) -> None:
        """The object was deleted, by us: it is not shown any more."""
        self.forget(_key(obj))
        self._hide(obj)

    def forget(self, key: Key) -> None:
        """The store has no object of that name: what we have written there is gone."""
        ours = self._objects.pop(key, None)
        self._unseen.discard(key)
        if ours is not None:
            self._hide(ours)

    def _hide(self, obj: Mapping[str, Any]) -> None:
        self._gone[_life(obj)] = False
        while len(self._gone) > _MOST_GONE:
            del self._gone[next(iter(self._gone))]

    def unseen(self) -> list[Key]:
        """Created objects that the informer has not shown yet."""
        return sorted(self._unseen)

    def keys(self) -> set[Key]:
        """Those of all objects of which more is known here than the informer may show."""
        return {*self._objects, *(key for key, _ in self._gone)}

    def over(self, objects: Iterable[Object]) -> list[Object]:
        """The informer's objects with newer versions of our own in their place, without those that we have
        deleted, and with those that we have created; drops what the informer has caught up with.
        """
        listed = self._without_gone(list(objects))
        if not self._objects:
            return listed
        newer: dict[Key, Object] = {}
        for at, obj in enumerate(listed):
            key = _key(obj)
            ours = self._objects.get(key)
            if ours is None:
                continue
            # Of two lives of one name the later one counts; ours is the later one while it is unseen.
            if _version(ours) > _version(obj) and (_same_life(ours, obj) or key in self._unseen):
                listed[at] = newer[key] = ours
            if _same_life(ours, obj) or key not in newer:
                self._unseen.discard(key)
        for key in self._unseen - newer.keys():
            newer[key] = self._objects[key]
            listed.append(newer[key])
        self._objects = newer
        return listed

    def _without_gone(self, listed: list[Object]) -> list[Object]:
        if not self._gone:
            return listed
        lives = {_life(obj) for obj in listed}
        # What was listed and is not any more has been seen off. What was never listed may still come.
        self._gone = {
            life: life in lives for life, before in self._gone.items() if life in lives or not before
        }
        return [obj for obj in listed if _life(obj) not in self._gone]


@dataclass(frozen=True, slots=True)
class News:
    """Objects that may have changed since the last snapshot, by key (None: the object is gone). Where the
    cluster has few objects of a kind, all of them.
    """

    pods: Mapping[Key, Mapping[str, Any] | None]
    claims: Mapping[Key, Mapping[str, Any] | None]
    nodes: Mapping[Key, Mapping[str, Any] | None]
    slices: Mapping[Key, Mapping[str, Any] | None]
    classes: Sequence[Mapping[str, Any]] = ()
    partitions: Sequence[Mapping[str, Any]] = ()
    gpu_nodes: Sequence[Mapping[str, Any]] = ()


class SnapshotReader:
    """Makes snapshots; reads an object again only when its resourceVersion has changed."""

    def __init__(self) -> None:
        self._class_names: frozenset[str] = frozenset()
        self._pods: Table[Key, Pod] = Table(read=_unfinished, name=lambda key: key)
        self._claims: Table[Key, Claim] = Table(
            read=lambda obj: read_claim(obj, self._class_names), name=lambda key: key
        )
        self._nodes: Table[str, Node] = Table(read=read_node, name=lambda key: key[1])
        self._inventory = InventoryReader()
        self._classes = ClassReader(SelectorCache())
        self._reserves = ReserveReader()
        self._mark: object = None

    def read(
        self,
        *,
        pods: Iterable[Mapping[str, Any]],
        claims: Iterable[Mapping[str, Any]],
        nodes: Iterable[Mapping[str, Any]],
        slices: Iterable[Mapping[str, Any]],
        now: float,
        classes: Iterable[Mapping[str, Any]] = (),
        partitions: Iterable[Mapping[str, Any]] = (),
        gpu_nodes: Iterable[Mapping[str, Any]] = (),
    ) -> Snapshot:
        """The snapshot of these objects, which are all that there are."""
        news = News(
            pods=self._pods.against(pods),
            claims=self._claims.against(claims),
            nodes=self._nodes.against(nodes),
            slices=self._inventory.against(slices),
            classes=list(classes),
            partitions=list(partitions),
            gpu_nodes=list(gpu_nodes),
        )
        return self.update(news, now=now)

    def read_devices(self, slices: Mapping[Key, Mapping[str, Any] | None]) -> None:
        """Read a part of the ResourceSlices before the snapshot of which they will be: all of a large cluster
        take seconds.
        """
        self._inventory.take_note(slices)

    def update(self, news: News, *, now: float) -> Snapshot:
        """The snapshot after these changes."""
        ours = self._classes.read(news.classes)
        claims: dict[Key, None] = {}
        if self._class_names != ours.keys():
            # Whether a claim is ours depends on the classes.
            self._class_names = frozenset(ours)
            claims |= dict.fromkeys(self._claims.read_again(lambda claim: claim.raw))
        claims |= dict.fromkeys(self._claims.update(news.claims))
        changes = Changes(self._pods.update(news.pods), tuple(claims), self._nodes.update(news.nodes))
        snapshot = Snapshot(
            pods=self._pods.values,
            claims=self._claims.values,
            nodes=self._nodes.values,
            inventory=self._inventory.update(news.slices),
            now=now,
            classes=ours,
            reserves=self._reserves.read(news.partitions, news.gpu_nodes),
            changes=changes,
            before=self._mark,
        )
        self._mark = snapshot.mark
        return snapshot


def _unfinished(obj: Mapping[str, Any]) -> Pod | None:
    pod = read_pod(obj)
    return None if pod.finished else pod


def _key(obj: Mapping[str, Any]) -> Key:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _life(obj: Mapping[str, Any]) -> tuple[Key, str]:
    return _key(obj), obj["metadata"]["uid"]


def _same_life(a: Object, b: Object) -> bool:
    return bool(a["metadata"]["uid"] == b["metadata"]["uid"])


def _version(obj: Object) -> int:
    # Comparable as numbers by the API's own promise since Kubernetes 1.35 (KEP-5504).
    return int(obj["metadata"]["resourceVersion"])
