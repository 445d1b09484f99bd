"""The cluster at one moment, as plain values: what every decision of one round is made from.

The informers' copies lag behind our own writes. What we wrote is therefore kept beside them (the answer of
the API server to each write) and counts as the truth until the informer has caught up with it: an allocation
that we made is never forgotten for a moment and given to somebody else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from tessera.scheduler.classes import NO_OBJECTS, Classes, ClassReader
from tessera.scheduler.inventory import Inventory, InventoryReader
from tessera.scheduler.objects import Claim, Key, Node, Pod, read_claim, read_node, read_pod
from tessera.scheduler.reserves import PartitionReserves, ReserveReader
from tessera.scheduler.selectors import SelectorCache

Object = dict[str, Any]
Read = TypeVar("Read")

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
        self._gone: dict[str, bool] = {}
        # UID -> whether the informer listed it the last time.

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
        self._gone[obj["metadata"]["uid"]] = False
        self.forget(_key(obj))
        while len(self._gone) > _MOST_GONE:
            del self._gone[next(iter(self._gone))]

    def forget(self, key: Key) -> None:
        """The store has no such object."""
        self._objects.pop(key, None)
        self._unseen.discard(key)

    def unseen(self) -> list[Key]:
        """Created objects that the informer has not shown yet."""
        return sorted(self._unseen)

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
        uids = {obj["metadata"]["uid"] for obj in listed}
        # What was listed and is not any more has been seen off. What was never listed may still come.
        self._gone = {uid: uid in uids for uid, before in self._gone.items() if uid in uids or not before}
        return [obj for obj in listed if obj["metadata"]["uid"] not in self._gone]


class SnapshotReader:
    """Makes snapshots; reads an object again only when its resourceVersion has changed."""

    def __init__(self) -> None:
        self._pods = _Cache[Pod]()
        self._claims = _Cache[Claim]()
        self._nodes = _Cache[Node]()
        self._inventory = InventoryReader()
        self._classes = ClassReader(SelectorCache())
        self._class_names: frozenset[str] = frozenset()
        self._reserves = ReserveReader()

    def read(
        self,
        *,
        pods: Iterable[Object],
        claims: Iterable[Object],
        nodes: Iterable[Object],
        slices: Iterable[Object],
        now: float,
        classes: Iterable[Object] = (),
        partitions: Iterable[Object] = (),
        gpu_nodes: Iterable[Object] = (),
    ) -> Snapshot:
        """The snapshot of these objects."""
        ours = self._classes.read(classes)
        if self._class_names != ours.keys():
            # Whether a claim is ours depends on the classes.
            self._class_names = frozenset(ours)
            self._claims = _Cache[Claim]()
        read_pods = self._pods.read(pods, read_pod)
        return Snapshot(
            pods={pod.key: pod for pod in read_pods if not pod.finished},
            claims={
                claim.key: claim
                for claim in self._claims.read(claims, lambda obj: read_claim(obj, self._class_names))
            },
            nodes={node.name: node for node in self._nodes.read(nodes, read_node)},
            inventory=self._inventory.read(slices),
            now=now,
            classes=ours,
            reserves=self._reserves.read(partitions, gpu_nodes),
        )


class _Cache(Generic[Read]):
    def __init__(self) -> None:
        self._read: dict[tuple[str, str], Read] = {}

    def read(self, objects: Iterable[Object], reader: Any) -> list[Read]:
        """Each object read once per version; what is not listed any more is dropped."""
        fresh: dict[tuple[str, str], Read] = {}
        for obj in objects:
            version = (obj["metadata"]["uid"], obj["metadata"]["resourceVersion"])
            found = self._read.get(version)
            fresh[version] = reader(obj) if found is None else found
        self._read = fresh
        return list(fresh.values())


def _key(obj: Mapping[str, Any]) -> Key:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _same_life(a: Object, b: Object) -> bool:
    return bool(a["metadata"]["uid"] == b["metadata"]["uid"])


def _version(obj: Object) -> int:
    # Comparable as numbers by the API's own promise since Kubernetes 1.35 (KEP-5504).
    return int(obj["metadata"]["resourceVersion"])
