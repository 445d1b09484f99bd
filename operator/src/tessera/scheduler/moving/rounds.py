"""One round's view of moves: what is under way, and what of GPUs and nodes is closed in the books for it."""

from __future__ import annotations

from dataclasses import dataclass, field

from tessera.placement.reservation import closing_placements
from tessera.placement.state import ClusterState
from tessera.scheduler.actions import FreeTarget
from tessera.scheduler.barred import Only
from tessera.scheduler.move_records import MoveRecord
from tessera.scheduler.moving.under_way import UnderWay
from tessera.scheduler.objects import Claim, Resources
from tessera.scheduler.placing import Placing


@dataclass(frozen=True, slots=True)
class Closer:
    """Keeps a part of a GPU closed for the rest of the round."""

    claim_uid: str
    number: int

    def __str__(self) -> str:
        return "what is kept for another pod"


class Closed:
    """What is closed in the state for waiting claims, by their UID, or for none (""). Opened again before the
    round ends.
    """

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._closers: dict[str, list[Closer]] = {}

    def close(self, claim_uid: str, place: Only) -> None:
        """Nothing more can be placed that overlaps the place, beside those that are there."""
        gpu = self._state.gpus[place.gpu]
        if gpu.overlapping:
            return  # Somebody's error; nothing is placed there anyway.
        for index in closing_placements(gpu.geometry, list(gpu.held.values()), place.index):
            self.take(claim_uid, gpu.name, index)

    def fill(self, number: int) -> None:
        """Nothing more can be placed on the GPU, whoever waits."""
        gpu = self._state.gpus[number]
        while fitting := gpu.table.fitting(gpu.layout):
            self.take("", gpu.name, fitting[0])

    def take(self, claim_uid: str, gpu: str, index: int) -> None:
        """Take one placement. Raises AlreadyOccupied."""
        closers = self._closers.setdefault(claim_uid, [])
        closer = Closer(claim_uid, len(closers))
        self._state.occupy(gpu, index, owner=closer)
        closers.append(closer)

    def open(self, claim_uid: str) -> None:
        """Give back what was closed for this claim."""
        for closer in self._closers.pop(claim_uid, ()):
            self._state.release(closer)

    def open_all(self) -> None:
        """Give back everything."""
        for claim_uid in list(self._closers):
            self.open(claim_uid)


@dataclass(slots=True)
class MovingRound:
    """What one round knows of moves. `busy` are GPUs that take part in one (a bit set), `planned` partitions
    with a new plan; `frees` are placeholders that go for a placement, by the pod's UID, and `lost` those that
    turned out to be of no use.
    """

    placing: Placing
    under_way: UnderWay
    closed: Closed
    busy: int
    planned: set[str] = field(default_factory=set)
    searches: int = 0
    frees: dict[str, tuple[Claim, ...]] = field(default_factory=dict)
    lost: list[FreeTarget] = field(default_factory=list)
    kept: dict[str, tuple[str, Resources]] = field(default_factory=dict)
    """What nodes keep for replacements, by the name of the placeholder, and for reservations, by the UID of
    the claim: (node, what of it).
    """

    def keep(self, name: str, record: MoveRecord, place: Only) -> None:
        """Keep CPU and memory for a replacement too, from when its victim does not count there any more."""
        load = self.placing.load
        node = self.placing.state.gpus[place.gpu].node
        victim = self.placing.snapshot.pods.get((record.victim_pod.namespace, record.victim_pod.name))
        still_there = victim is not None and victim.uid == record.victim_pod.uid
        if record.requests and not (victim is not None and still_there and load.node_of(victim) == node):
            self.kept[name] = (node, dict(record.requests))
            load.hold(*self.kept[name])

    def reserve(self, claim: Claim, place: Only, requests: Resources) -> None:
        """Whoever is served later in the round gets neither the place that is reserved for a claim nor what
        its pod asks of the node; nor is anything moved on that GPU.
        """
        self.closed.close(claim.uid, place)
        self.busy |= 1 << place.gpu
        self.kept[claim.uid] = (self.placing.state.gpus[place.gpu].node, requests)
        self.placing.load.hold(*self.kept[claim.uid])

    def let_go(self, name: str) -> bool:
        """Give it back, and say whether there was anything."""
        kept = self.kept.pop(name, None)
        if kept is not None:
            self.placing.load.let_go(*kept)
        return kept is not None

    def end(self) -> None:
        """The books say again what is there."""
        self.closed.open_all()
        for name in list(self.kept):
            self.let_go(name)

    @property
    def in_flight(self) -> set[str]:
        """Partitions in which room is being made, or a GPU emptied, so that no other plan begins there."""
        now = self.placing.snapshot.now
        rooms = self.under_way.rooms.values()
        leaving = (c for c in self.under_way.compactions.values() if c.staying and not c.outcome)
        return {one.partition for one in (*rooms, *leaving) if not one.is_stuck(now)} | self.planned
