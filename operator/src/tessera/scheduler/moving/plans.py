"""What would be done to make room for one pod: the search of the placement core, within one MIGPartition.

First moves: the cheapest plan of which every target is free at this moment, because a target is held before
its victim leaves (a plan in which victims take each other's places is not carried out here). When there is
none, and the partition says so, preemption of pods of lower priority. Neither may take room that a reserve
keeps free. Pure but for the books of the round, which are as before when a function returns.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tessera.placement.move_plans import UNDER_BUDGET, Victim
from tessera.placement.moves import MovePlanner
from tessera.placement.policies_value import ValuePolicy
from tessera.placement.preemption import plan_preemption
from tessera.placement.request import Feasible, Placement, Request
from tessera.placement.state import AlreadyOccupied
from tessera.scheduler.moving.ration import Account
from tessera.scheduler.moving.under_way import may_preempt
from tessera.scheduler.moving.victims import Candidate, candidate_of, grace_seconds, seconds_lost, targets_of
from tessera.scheduler.objects import Pod
from tessera.scheduler.placing import Placing
from tessera.scheduler.reserves import MoveRule

PRICE = replace(UNDER_BUDGET, per_gpu_second=1 / 3600)
"""An hour of a whole GPU lost weighs as much as one more move."""
MOST_ASKED = 512
"""Slices that one search looks at as possible victims."""
RELUCTANT_SECONDS = 10 * 3600.0
"""GPU-seconds that are added to the cost of a victim whose namespace did not let another one go: as much as
ten moves, so that others are asked first unless they lose ten hours of a GPU more. A preemption looks at
priorities and at the number of victims before.
"""


@dataclass(frozen=True, slots=True)
class Leaving:
    """A victim, and the (GPU, placement index) that is held for its replacement; None: it is preempted."""

    candidate: Candidate
    profile: str
    target: tuple[str, int] | None


@dataclass(frozen=True, slots=True)
class Plan:
    """The place that is opened for a pod, and who leaves it."""

    partition: str
    placement: Placement
    victims: tuple[Leaving, ...]
    price: float


@dataclass(frozen=True, slots=True)
class Asked:
    """For whom others are to leave (None: nobody waits). `spared` are identities that are no victims,
    `reluctant` namespaces whose pods could not be evicted of late.
    """

    pod: Pod | None
    spared: Collection[Hashable]
    reluctant: Collection[Hashable]


@dataclass(frozen=True, slots=True)
class Question(Asked):
    """What a pod asks for, and within which bounds. `busy` are GPUs that take part in a move under way."""

    request: Request
    feasible: Feasible
    busy: int


class PlanFinder:
    """Finds plans by the values of a policy."""

    def __init__(self, policy: ValuePolicy) -> None:
        self._policy = policy
        self._moves = MovePlanner(policy)

    def moves(self, asked: Question, partition: str, account: Account, placing: Placing) -> Plan | None:
        """The cheapest plan of moves that the ration of the partition allows now, or None."""
        most = account.movable_now(placing.snapshot.now)
        within = self._within(asked, partition, placing)
        if not most or not within:
            return None
        targets_within = placing.reserves.movable[partition][0] & ~asked.busy
        victims = Victims(asked, placing, account.rule, targets_within=targets_within)
        found = self._moves.plan(
            placing.state,
            asked.request,
            most_victims=most,
            movable=victims.to_move,
            feasible=Feasible(within),
            price=PRICE,
        )
        if found is None:
            return None
        targets, owners = [m.target for m in found.moves], [m.owner for m in found.moves]
        if not can_be_made(targets, owners, found.placement, placing):
            return None
        size = found.placement.legal.width
        if not account.worth(size=size, moves=len(found.moves), value_change=found.value_change):
            return None
        leaving = tuple(Leaving(victims.found[m.owner], m.profile, m.target) for m in found.moves)
        return Plan(partition, found.placement, leaving, found.price)

    def preemption(self, asked: Question, partition: str, account: Account, placing: Placing) -> Plan | None:
        """The plan that hits least, when the partition allows preemption, or None."""
        most = account.preemptable_now(placing.snapshot.now)
        within = self._within(asked, partition, placing)
        if not most or not within:
            return None
        victims = Victims(asked, placing, account.rule, targets_within=0)
        found = plan_preemption(
            placing.state,
            self._policy,
            asked.request,
            most_victims=most,
            evictable=victims.to_preempt,
            feasible=Feasible(within),
        )
        if found is None or not can_be_made((), found.victims, found.placement, placing):
            return None
        leaving = tuple(Leaving(victims.found[owner], "", None) for owner in found.victims)
        return Plan(partition, found.placement, leaving, float(found.highest_priority))

    @staticmethod
    def _within(asked: Question, partition: str, placing: Placing) -> int:
        return asked.feasible.gpus & placing.reserves.movable[partition][0] & ~asked.busy


class Victims:
    """Answers the search: what may leave, and at what cost."""

    def __init__(self, asked: Asked, placing: Placing, rule: MoveRule, *, targets_within: int) -> None:
        self.found: dict[Hashable, Candidate] = {}
        self._asked = asked
        self._placing = placing
        self._rule = rule
        self._targets_within = targets_within
        self._known: dict[Hashable, Victim | None] = {}

    def to_move(self, owner: Hashable) -> Victim | None:
        """A victim that gets another place."""
        return self._look(owner, preempts=False)

    def to_preempt(self, owner: Hashable) -> Victim | None:
        """A victim that goes back to the queue."""
        return self._look(owner, preempts=True)

    def _look(self, owner: Hashable, *, preempts: bool) -> Victim | None:
        if owner not in self._known:
            if len(self._known) >= MOST_ASKED:
                return None
            self._known[owner] = self._judge(owner, preempts=preempts)
        return self._known[owner]

    def _judge(self, owner: Hashable, *, preempts: bool) -> Victim | None:
        placing = self._placing
        found = candidate_of(owner, placing.snapshot)
        if found is None or found.identity in self._asked.spared:
            return None
        if grace_seconds(found.pod) > self._rule.replacement_seconds:
            return None  # It may still be ending when its place and the room are given up.
        held = placing.state.holds(owner)
        assert held is not None
        gpu, index = held
        placement = gpu.geometry.placements[index]
        lost = seconds_lost(found, gpu.geometry, placement, now=placing.snapshot.now)
        if found.pod.key[0] in self._asked.reluctant:
            lost += RELUCTANT_SECONDS
        if preempts:
            if self._asked.pod is None or not may_preempt(self._asked.pod, found.pod):
                return None
            self.found[owner] = found
            return Victim(gpu_seconds=lost, priority=found.pod.priority)
        if self._asked.pod is not None and found.pod.priority > self._asked.pod.priority:
            return None  # A move is a restart; nobody is disturbed for somebody less important.
        targets = targets_of(
            found,
            profile=placement.profile,
            home=(gpu.number, index),
            within=self._targets_within,
            placing=placing,
        )
        if not targets:
            return None
        self.found[owner] = found
        return Victim(gpu_seconds=lost, priority=found.pod.priority, offers=targets)


def can_be_made(
    targets: Sequence[tuple[str, int]],
    victims: Sequence[Hashable],
    placement: Placement | None,
    placing: Placing,
) -> bool:
    """Whether all targets are free at this moment and no reserve suffers at the end, when the request (None:
    nobody waits) has its place.
    """
    before = placing.reserves.rooms()
    try:
        with _imagined(targets, victims, placement, placing):
            after = placing.reserves.rooms()
    except AlreadyOccupied:
        return False
    own = None if placement is None else placement.legal.profile
    return all(
        now >= min(count, then) or profile == own
        for (_, profile, count, then), (_, _, _, now) in zip(before, after, strict=True)
    )


@contextmanager
def _imagined(
    targets: Sequence[tuple[str, int]],
    victims: Sequence[Hashable],
    placement: Placement | None,
    placing: Placing,
) -> Iterator[None]:
    """The books as they will be: targets taken, victims gone, the request in its place. Raises
    AlreadyOccupied when a target is not free at this moment.
    """
    state = placing.state
    taken: list[Hashable] = []
    gone: list[tuple[Hashable, str, int]] = []
    try:
        for at, (gpu, index) in enumerate(targets):
            state.occupy(gpu, index, owner=("imagined", at))
            taken.append(("imagined", at))
        for owner in victims:
            held = state.holds(owner)
            assert held is not None
            gone.append((owner, held[0].name, held[1]))
            state.release(owner)
        if placement is not None:
            state.occupy(placement.gpu, placement.index, owner=("imagined", "request"))
            taken.append(("imagined", "request"))
        yield
    finally:
        for owner in taken:
            state.release(owner)
        for owner, gpu_name, index in gone:
            state.occupy(gpu_name, index, owner=owner)
