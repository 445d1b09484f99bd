"""Emptying GPUs by moving what runs on them, within a number of moves.

Instances that come and go leave many GPUs half used. An empty GPU is worth more than the same slices spread
over several: it takes the largest request, can be drained, or switched off. Compaction empties one GPU after
the other, each time the one that takes the fewest moves:

- every instance of the GPU goes to the room on another GPU in use where the policy's value V grows least;
- where there is none, one instance of another GPU may step aside first, which costs one more move.

It stops when the moves are used up, when nothing more can be emptied at a price that pays, or when as few
GPUs are in use as the instances need at least; that number comes from the integer program (`tessera pack`)
and is an argument here. Of GPUs with equal layouts the one that loses least is tried.

Moves are carried out in the order of the plan, one at a time: stop the instance, start it at its target. Each
target is free at that moment; when nobody steps aside, all of them are from the beginning. The search is
greedy, so it may stop above the exact minimum; docs/moves.md has how far above it was found to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from tessera.placement.gpu_sets import union_bits
from tessera.placement.layouts import EMPTY
from tessera.placement.move_plans import Movable, Move, PlanPrice, Victim
from tessera.placement.move_search import MOST_GPUS_OF_A_LAYOUT
from tessera.placement.moves import MovePlanner
from tessera.placement.policies_value import ValuePolicy
from tessera.placement.request import Alternative, Feasible, Offer, Request
from tessera.placement.rooms import Rooms
from tessera.placement.state import ClusterState, Gpu

LEAST_GAIN = 1.0
"""By so many slices V must fall for what one move costs, so that a compaction pays."""
_COMPARED = 8
"""GPUs with equal layouts of which the one that loses least is tried."""


@dataclass(frozen=True, slots=True)
class CompactionPlan:
    """Moves in the order in which they are carried out, and what they reach: GPUs in use before and after,
    the GPUs that become empty, and the GPU-seconds that the moved instances lose.
    """

    moves: tuple[Move, ...]
    emptied: tuple[str, ...]
    used_before: int
    used_after: int
    gpu_seconds: float


@dataclass(frozen=True, slots=True)
class Step:
    """The moves that empty one GPU, how much V grows by them, and the GPU-seconds that are lost."""

    gpu: str
    moves: tuple[Move, ...]
    growth: float
    gpu_seconds: float


class Purse(Protocol):
    """An account of moves (`budget`)."""

    def worth(self, *, size: int, moves: int, value_change: float) -> bool:
        """Whether it pays for moves that place `size` slices and change the sum of V."""


def pays(step: Step, purse: Purse, *, price: PlanPrice) -> bool:
    """Whether emptying a GPU is worth its moves, and the purse has them to spare: nobody is placed by it, so
    that its whole gain is the fall of V.
    """
    moves = len(step.moves)
    cost = price.per_victim * moves + price.per_gpu_second * step.gpu_seconds
    return -step.growth >= LEAST_GAIN * cost and purse.worth(size=0, moves=moves, value_change=step.growth)


def plan_compaction(
    state: ClusterState,
    policy: ValuePolicy,
    *,
    most_moves: int,
    movable: Movable,
    fewest_gpus: int = 0,
    feasible: Feasible | None = None,
    worth: Callable[[Step], bool] = lambda _: True,
    step_aside: bool = True,
) -> CompactionPlan:
    """Moves that empty GPUs, at most `most_moves`; none when nothing can be emptied.

    `fewest_gpus` is how many GPUs the instances need at least (0: not known). `feasible` restricts the GPUs
    that take part, as sources and as targets. A GPU is emptied only when that is `worth` it. Without
    `step_aside` an instance leaves only the GPU that is emptied. The state is not changed: the search works
    on a copy.
    """
    search = _Compaction(
        state, policy, movable=movable, feasible=feasible, worth=worth, step_aside=step_aside
    )
    used_before = search.used()
    emptied: list[str] = []
    while search.used() > fewest_gpus:
        step = search.cheapest_step(most_moves - len(search.moves))
        if step is None:
            break
        search.carry_out(step)
        emptied.append(step.gpu)
    return CompactionPlan(
        moves=tuple(search.moves),
        emptied=tuple(emptied),
        used_before=used_before,
        used_after=search.used(),
        gpu_seconds=search.gpu_seconds,
    )


class _Compaction:
    """A copy of the state in which the moves so far have been made."""

    def __init__(
        self,
        state: ClusterState,
        policy: ValuePolicy,
        *,
        movable: Movable,
        feasible: Feasible | None,
        worth: Callable[[Step], bool],
        step_aside: bool,
    ) -> None:
        self.moves: list[Move] = []
        self.gpu_seconds = 0.0
        self._copy = _copy_of(state)
        self._policy = policy
        self._movable = movable
        self._worth = worth
        self._step_aside = step_aside
        self._allowed = state.all_bits() if feasible is None else feasible.gpus
        self._rooms = Rooms(policy)
        self._planner = MovePlanner(policy)

    def used(self) -> int:
        """GPUs in use."""
        return len(self._copy.gpus) - self._empty_gpus().bit_count()

    def _empty_gpus(self) -> int:
        return union_bits(pool.buckets[EMPTY] for pool in self._copy.pools.values())

    def cheapest_step(self, most_moves: int) -> Step | None:
        """The step with the fewest moves, at most so many; then the one with the least growth of V."""
        best: Step | None = None
        for tenants, candidates in self._candidates(most_moves):
            if best is not None and len(best.moves) <= tenants:
                break
            for gpu in candidates:
                step = self._empty(gpu, most_moves)
                if step is not None and (best is None or _rank(step) < _rank(best)) and self._worth(step):
                    best = step
        return best

    def carry_out(self, step: Step) -> None:
        """Make the moves of a step in the copy, and count them."""
        for move in step.moves:
            self._make(move)
        self.moves += step.moves
        self.gpu_seconds += step.gpu_seconds

    def _candidates(self, most_moves: int) -> Iterator[tuple[int, list[Gpu]]]:
        """GPUs that could be emptied by so many moves, by number of tenants: of each layout the one that
        loses least, of the lowest on which everything may be moved.
        """
        by_tenants: dict[int, list[Gpu]] = {}
        for pool in self._copy.pools.values():
            for layout, gpus in pool.layouts():
                tenants = pool.table.tenants[layout]
                if layout == EMPTY or tenants > most_moves or pool.table.overlapping[layout]:
                    continue
                ours = (self._copy.gpus[number] for number in gpus if self._allowed >> number & 1)
                asked = islice(ours, MOST_GPUS_OF_A_LAYOUT)
                whole = (gpu for gpu in asked if all(map(self._movable, gpu.held)))
                least = min(islice(whole, _COMPARED), key=lambda gpu: self._lost(gpu.held), default=None)
                if least is not None:
                    by_tenants.setdefault(tenants, []).append(least)
        return iter(sorted(by_tenants.items()))

    def _lost(self, owners: Iterable[Hashable]) -> float:
        """GPU-seconds that are lost when these move."""
        return sum(victim.gpu_seconds for victim in map(self._movable, owners) if victim is not None)

    def _empty(self, gpu: Gpu, most_moves: int) -> Step | None:
        """The moves that empty a GPU, tried in the copy and taken back."""
        placements = gpu.geometry.placements
        widest_first = sorted(gpu.held, key=lambda owner: -placements[gpu.held[owner]].width)
        targets = self._targets(gpu)
        before = self._value(gpu)
        made: list[Move] = []
        growth = 0.0
        for owner in widest_first:
            moves, grown = self._leave(gpu, owner, targets)
            if not moves or len(made) + len(moves) > most_moves:
                break
            for move in moves:
                self._make(move)
            made += moves
            growth += grown
        emptied = not gpu.held
        for move in reversed(made):
            self._make(replace(move, source=move.target, target=move.source))
        lost = self._lost(move.owner for move in made)
        return Step(gpu.name, tuple(made), growth - before, lost) if emptied else None

    def _leave(self, gpu: Gpu, owner: Hashable, targets: int) -> tuple[list[Move], float]:
        """How one instance leaves its GPU for one of the targets: by itself, or after another has stepped
        aside. No moves when it cannot.
        """
        profile = gpu.geometry.placements[gpu.held[owner]].profile
        source = (gpu.name, gpu.held[owner])
        self._rooms.follow(self._copy)
        victim = self._movable(owner)
        homes = self._within(profile, victim, targets)
        found = self._rooms.fill([homes], {})
        if found is not None:
            growth, ((number, index),) = found
            return [Move(owner, profile, source, (self._copy.gpus[number].name, index))], growth
        if not self._step_aside:
            return [], 0.0
        plan = self._planner.plan(
            self._copy,
            Request("room", (Alternative(name="room", label=profile, offers=homes),)),
            most_victims=1,
            movable=lambda other: self._aside(other, targets),
            price=PlanPrice(),
        )
        if plan is None:
            return [], 0.0
        target = (plan.placement.gpu, plan.placement.index)
        return [*plan.moves, Move(owner, profile, source, target)], plan.value_change

    def _aside(self, owner: Hashable, targets: int) -> Victim | None:
        """What may step aside: what may be moved, to GPUs that stay in use."""
        victim = self._movable(owner)
        holds = self._copy.holds(owner)
        if victim is None or holds is None:
            return None
        gpu, index = holds
        return replace(victim, offers=self._within(gpu.geometry.placements[index].profile, victim, targets))

    def _within(self, profile: str, victim: Victim | None, targets: int) -> tuple[Offer, ...]:
        """Where an instance may go, of the targets."""
        offers = None if victim is None else victim.offers
        return tuple(
            replace(offer, gpus=targets if offer.gpus is None else targets & offer.gpus)
            for offer in (self._rooms.homes(profile) if offers is None else offers)
        )

    def _targets(self, source: Gpu) -> int:
        """The GPUs that are in use and take part, but for the one that is emptied."""
        return self._allowed & ~self._empty_gpus() & ~(1 << source.number)

    def _value(self, gpu: Gpu) -> float:
        value = self._policy.value
        return value(gpu.geometry, gpu.layout) - value(gpu.geometry, EMPTY)

    def _make(self, move: Move) -> None:
        self._copy.release(move.owner)
        self._copy.occupy(*move.target, owner=move.owner)


def _rank(step: Step) -> tuple[int, float, str]:
    return (len(step.moves), round(step.growth, 9), step.gpu)


def _copy_of(state: ClusterState) -> ClusterState:
    copy = ClusterState()
    for gpu in state.gpus:
        copy.add_gpu(gpu.name, node=gpu.node, geometry=gpu.geometry)
        for owner, index in gpu.held.items():
            copy.occupy(gpu.name, index, owner=owner, force=True)
    return copy
