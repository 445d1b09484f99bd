"""One round's view of moves: what is under way, and which parts of GPUs are closed in the books for it."""

from __future__ import annotations

from dataclasses import dataclass, field

from tessera.placement.reservation import closing_placements
from tessera.placement.state import ClusterState
from tessera.scheduler.actions import FreeTarget
from tessera.scheduler.barred import Only
from tessera.scheduler.moving.under_way import UnderWay
from tessera.scheduler.objects import Claim
from tessera.scheduler.placing import Placing


@dataclass(frozen=True, slots=True)
class Closer:
    """Keeps a part of a GPU closed for the rest of the round."""

    claim_uid: str
    number: int


class Closed:
    """What is closed in the state for waiting claims, by their UID. Opened again before the round ends."""

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

    @property
    def in_flight(self) -> set[str]:
        """Partitions in which room is being made, so that no other plan begins there."""
        now = self.placing.snapshot.now
        rooms = self.under_way.rooms.values()
        return {room.partition for room in rooms if not room.is_stuck(now)} | self.planned
