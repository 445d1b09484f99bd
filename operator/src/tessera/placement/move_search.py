"""The search for the cheapest plan of moves, for one request that asks for one slice.

GPUs with equal layouts are searched as one: a *case* is a layout with an opening. Cases are tried from the
cheapest on, and those that cannot be cheaper than the best plan so far are left out. Only to learn what may
be moved, and at what cost, single GPUs are looked at: the lowest of a layout, and at most
`MOST_GPUS_OF_A_LAYOUT` of them where costs differ or nothing may be moved.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple

from tessera.placement.geometry import Geometry
from tessera.placement.gpu_sets import Filter, GpuSet, filter_of_given
from tessera.placement.layouts import layout_table
from tessera.placement.move_plans import (
    Movable,
    Move,
    MovePlan,
    PlanPrice,
    Victim,
    one_after_the_other,
    victims_on,
)
from tessera.placement.openings import Opening, Openings
from tessera.placement.request import Alternative, Offer, placement_on
from tessera.placement.rooms import Rooms
from tessera.placement.state import ClusterState, Gpu

MOST_GPUS_OF_A_LAYOUT = 64
MOST_GPUS_OF_A_SEARCH = 4096
"""How many GPUs one search asks about, whatever the size of the cluster."""

MOST_BEYOND_THE_BEST = 32
"""What three victims or more cost together is known only when all have a place. So many openings are tried
that look dearer than the best plan.
"""


class Case(NamedTuple):
    """A layout with an opening, and the GPUs that have it. A plan costs `price` or more with one victim or
    two, and about as much with several. `growth` is what placing the request adds to V.
    """

    price: float
    geometry: Geometry
    opening: Opening
    growth: float
    gpus: GpuSet
    within: Filter | None


class Looks:
    """The single GPUs that one search asks about: the lowest of each layout, and so many in all."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._looked_at = 0

    def at(self, gpus: GpuSet, within: Filter | None) -> Iterator[Gpu]:
        """The GPUs of a layout that pass the filter, lowest first, as far as the search may look."""
        number = gpus.lowest_from(within=within)
        for _ in range(MOST_GPUS_OF_A_LAYOUT):
            if number is None or self._looked_at == MOST_GPUS_OF_A_SEARCH:
                return
            self._looked_at += 1
            yield self._state.gpus[number]
            number = gpus.lowest_from(number + 1, within=within)


class Search:
    """One search: what was asked, and what it has found out about the cluster."""

    def __init__(
        self, request: str, alternative: Alternative, *, rooms: Rooms, movable: Movable, price: PlanPrice
    ) -> None:
        self.request = request
        self.alternative = alternative
        self.rooms = rooms
        self.state = rooms.state
        self.movable = movable
        self.price = price
        self.looks = Looks(self.state)
        self._alone: dict[str, float | None] = {}
        self._joined: dict[tuple[str, str], float | None] = {}

    def cases(self, offer: Offer, openings: Openings, allowed: int | None) -> Iterator[Case]:
        """Every layout with every opening that no lack of room rules out."""
        price = self.price
        for case in self.opened(offer, openings, allowed):
            moved = self._least_growth(case.geometry, case.opening)
            if moved is not None:
                change = case.growth + moved
                least = price.per_victim * len(case.opening.victims) + price.per_value * change
                yield case._replace(price=least)

    def opened(self, offer: Offer, openings: Openings, allowed: int | None) -> Iterator[Case]:
        """Every layout with every opening, wherever the victims may go. The price counts the request only."""
        geometry, value = offer.geometry, self.rooms.policy.value
        pool = self.state.pools.get(geometry)
        if pool is None:
            return
        within = filter_of_given(allowed, offer.gpus)
        for layout, found in openings.among(pool.present):
            gpus = pool.buckets[layout]
            if within is not None and gpus.lowest_from(within=within) is None:
                continue
            before = value(geometry, layout)
            for opening in found:
                placed = value(geometry, opening.after) - before
                yield Case(self.price.per_value * placed, geometry, opening, placed, gpus, within)

    def _least_growth(self, geometry: Geometry, opening: Opening) -> float | None:
        """A bound of what placing the victims again adds to V, or None when there is no room for one. Exact
        for one victim; for two it allows for the second to join the first, for more it is an estimate.
        """
        total = 0.0
        rooms = self.rooms
        earlier: list[str] = []
        own = [opening.after]
        for profile in opening.profiles:
            choices = [self.least_alone(profile), *(self._least_joined(one, profile) for one in earlier)]
            for offer in rooms.homes(profile):
                if offer.geometry is geometry:
                    here = [rooms.addition(geometry, layout, offer.placements) for layout in own]
                    choices += [one[0] for one in here if one is not None]
                    if here[0] is not None and len(opening.profiles) > 1:
                        own.append(layout_table(geometry).after_placed(opening.after, here[0][1]))
            fitting = [one for one in choices if one is not None]
            if not fitting:
                return None
            total += min(fitting)
            earlier.append(profile)
        return total

    def least_alone(self, profile: str) -> float | None:
        """The least growth of V at which a slice of this profile can go to a GPU as it is."""
        if profile not in self._alone:
            self._alone[profile] = self.rooms.least(self.rooms.homes(profile))
        return self._alone[profile]

    def _least_joined(self, first: str, second: str) -> float | None:
        """The least growth at which the second can go to the GPU that takes the first."""
        case = (first, second)
        if case not in self._joined:
            homes = self.rooms.homes
            self._joined[case] = self.rooms.least_joined(homes(first), homes(second))
        return self._joined[case]

    def cheapest(self, cases: Iterable[Case]) -> MovePlan | None:
        """The cheapest plan of these cases."""
        best: MovePlan | None = None
        best_rank: tuple[float, float, int, int] | None = None
        estimated = 0
        for case in cases:
            if best is not None and case.price > best.price + 1e-9:
                if len(case.opening.victims) <= 2:
                    continue
                estimated += 1
                if estimated > MOST_BEYOND_THE_BEST:
                    continue
            for number, plan in self._plans(case):
                start = case.geometry.placements[case.opening.index].start
                rank = (round(plan.price, 9), plan.gpu_seconds, number, start)
                if best_rank is None or rank < best_rank:
                    best, best_rank = plan, rank
        return best

    def _plans(self, case: Case) -> Iterator[tuple[int, MovePlan]]:
        """The plans on the GPUs of a case, with the GPU's number, each cheaper for its victims than those
        before. GPUs of one layout differ in nothing else, unless a victim says where it may go.
        """
        least_lost = math.inf
        for gpu in self.looks.at(case.gpus, case.within):
            victims = victims_on(gpu, case.opening, self.movable)
            if victims is None:
                continue
            alike = all(victim.offers is None for _, _, victim in victims)
            lost = sum(victim.gpu_seconds for _, _, victim in victims)
            if lost < least_lost or not alike:
                plan = self._plan(gpu, case, victims)
                if plan is not None:
                    least_lost = min(lost, least_lost)
                    yield (gpu.number, plan)
                if alike and (plan is None or not lost):
                    return

    def _plan(self, gpu: Gpu, case: Case, victims: list[tuple[Hashable, int, Victim]]) -> MovePlan | None:
        profiles = case.opening.profiles
        wanted = [self.offers_of(*one) for one in zip(profiles, victims, strict=True)]
        filled = self.rooms.fill(wanted, {gpu.number: case.opening.after})
        if filled is None:
            return None
        growth, places = filled
        moves = [
            Move(owner, profile, (gpu.name, index), (self.state.gpus[number].name, target))
            for profile, (owner, index, _), (number, target) in zip(profiles, victims, places, strict=True)
        ]
        ordered = one_after_the_other(self.state, moves)
        if ordered is None:
            return None
        lost = sum(victim.gpu_seconds for _, _, victim in victims)
        return self.plan_of(gpu, case.opening.index, ordered, change=case.growth + growth, lost=lost)

    def offers_of(self, profile: str, victim: tuple[Hashable, int, Victim]) -> tuple[Offer, ...]:
        """Where a victim of this profile may go."""
        offers = victim[2].offers
        return self.rooms.homes(profile) if offers is None else offers

    def plan_of(self, gpu: Gpu, index: int, moves: Sequence[Move], *, change: float, lost: float) -> MovePlan:
        """The plan that places the request there after these moves."""
        price = self.price
        return MovePlan(
            placement=placement_on(gpu, index, request=self.request, alternative=self.alternative.name),
            moves=tuple(moves),
            value_change=change,
            gpu_seconds=lost,
            price=price.per_victim * len(moves) + price.per_value * change + price.per_gpu_second * lost,
        )
