"""Plans in which the victim takes the place of another instance, because no room is free for it.

The request takes the place of one instance, that one the place of a second, and the second goes to a free
room: two moves, as in a plan with two victims side by side, but found where those are not. It is tried last,
when no other plan with so many moves exists.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator

from tessera.placement.move_plans import Move, MovePlan, Victim, one_after_the_other, victims_on
from tessera.placement.move_search import Case, Search
from tessera.placement.openings import Opening, Openings
from tessera.placement.request import Offer
from tessera.placement.state import Gpu

MOST_CHAINS = 8
"""The cheapest of so many plans is taken; more were found not to pay for the time."""

OpeningsFor = Callable[[Offer], Openings]
"""The openings with one victim for an offer."""


class ChainSearch:
    """The search for the cheapest plan of two moves in a chain."""

    def __init__(self, search: Search, openings_for: OpeningsFor) -> None:
        self._search = search
        self._openings_for = openings_for
        self._seconds: dict[str, list[Case]] = {}

    def cheapest(self, allowed: int | None) -> MovePlan | None:
        """The cheapest plan for the request of the search, on the allowed GPUs (as bits; None: all)."""
        search = self._search
        firsts = [
            case
            for offer in search.alternative.offers
            for case in search.opened(offer, self._openings_for(offer), allowed)
        ]
        best: MovePlan | None = None
        tried = 0
        for case in sorted(firsts, key=lambda one: one.price):
            own = self._own_places(case)
            others = self._second_cases(case.opening.profiles[0])
            plan = self._plan(case, own, others) if own or others else None
            if plan is not None:
                tried += 1
                if best is None or plan.price < best.price - 1e-9:
                    best = plan
                if tried == MOST_CHAINS:
                    break
        return best

    def _own_places(self, case: Case) -> list[Opening]:
        """The openings for the first victim on the GPU that it leaves, beside the request."""
        openings: list[Opening] = []
        for offer in self._search.rooms.homes(case.opening.profiles[0]):
            if offer.geometry is case.geometry:
                openings += self._openings_for(offer).of(case.opening.after)
        return [
            one
            for one in openings
            if one.victims != (case.opening.index,) and self._search.least_alone(one.profiles[0]) is not None
        ]

    def _plan(self, case: Case, own: list[Opening], others: list[Case]) -> MovePlan | None:
        """The first plan with the request on a GPU of this case."""
        search = self._search
        for gpu in search.looks.at(case.gpus, case.within):
            first = victims_on(gpu, case.opening, search.movable)
            if first is None:
                continue
            offers = search.offers_of(case.opening.profiles[0], first[0])
            failed: set[Opening] = set()
            for other, opening, growth in self._places(gpu, case, own, others):
                # GPUs of one layout are alike: the next is tried only when the instance there must stay.
                if opening in failed or not _offered(offers, other, opening.index):
                    continue
                second = victims_on(other, opening, search.movable)
                if second is None:
                    continue
                plan = self._chained(gpu, case, first[0], other, opening, second[0], growth)
                if plan is not None:
                    return plan
                failed.add(opening)
        return None

    def _places(
        self, gpu: Gpu, case: Case, own: list[Opening], others: list[Case]
    ) -> Iterator[tuple[Gpu, Opening, float]]:
        """(GPU, opening, growth of V) where the first victim could take the place of a second."""
        value = self._search.rooms.policy.value
        for opening in own:
            yield gpu, opening, value(case.geometry, opening.after) - value(case.geometry, case.opening.after)
        for second in others:
            for other in self._search.looks.at(second.gpus, second.within):
                if other is not gpu:
                    yield other, second.opening, second.growth

    def _chained(
        self,
        gpu: Gpu,
        case: Case,
        first: tuple[Hashable, int, Victim],
        other: Gpu,
        opening: Opening,
        second: tuple[Hashable, int, Victim],
        growth: float,
    ) -> MovePlan | None:
        """The plan, when the second victim finds a room."""
        search = self._search
        changed = {gpu.number: case.opening.after}
        changed[other.number] = opening.after
        filled = search.rooms.fill([search.offers_of(opening.profiles[0], second)], changed)
        if filled is None:
            return None
        last, ((number, target),) = filled
        target_gpu = search.state.gpus[number].name
        moves = [
            Move(second[0], opening.profiles[0], (other.name, second[1]), (target_gpu, target)),
            Move(first[0], case.opening.profiles[0], (gpu.name, first[1]), (other.name, opening.index)),
        ]
        ordered = one_after_the_other(search.state, moves)
        if ordered is None:
            return None
        return search.plan_of(
            gpu,
            case.opening.index,
            ordered,
            change=case.growth + growth + last,
            lost=first[2].gpu_seconds + second[2].gpu_seconds,
        )

    def _second_cases(self, profile: str) -> list[Case]:
        """The cases in which a slice of this profile takes the place of one instance that has a free room,
        cheapest first.
        """
        found = self._seconds.get(profile)
        if found is None:
            found = []
            search = self._search
            for offer in search.rooms.homes(profile):
                for case in search.opened(offer, self._openings_for(offer), None):
                    least = search.least_alone(case.opening.profiles[0])
                    if least is not None:
                        price = case.price + search.price.per_value * least
                        found.append(case._replace(price=price))
            found.sort(key=lambda one: one.price)
            self._seconds[profile] = found
        return found


def _offered(offers: tuple[Offer, ...], gpu: Gpu, index: int) -> bool:
    return any(index in offer.placements and offer.holds_on(gpu) for offer in offers)
