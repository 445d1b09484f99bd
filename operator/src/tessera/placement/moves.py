"""Making room for a request that fits nowhere, by moving a few instances.

On a busy cluster a request is often turned away although enough slices are free: they are not neighbours.
Moving one or two instances then makes room. A *plan* names the place for the request, the victims in its way,
and where each of them goes:

- over every (GPU, start) of the request that 1 to K movable instances overlap,
- take the victims away, place the request, and place the victims again, widest first, each where the
  policy's value V grows least, on any GPU (on its own too, which counts as a move all the same);
- of the plans where every victim finds a place, the cheapest is taken.

When no such plan exists, a victim may take the place of another instance that has a free room
(`move_chains`). The moves of a plan stand in an order in which the target of each is free when its turn
comes; two instances that would wait for each other's place make no plan. Nothing is changed here; the caller
carries out the plan or leaves it.

What is cheapest is said by `PlanPrice`, and how it is found by `move_search`.
"""

from __future__ import annotations

from operator import itemgetter

from tessera.placement.geometry import Geometry
from tessera.placement.gpu_sets import positions
from tessera.placement.move_chains import ChainSearch
from tessera.placement.move_plans import (
    UNDER_BUDGET,
    Movable,
    Move,
    MovePlan,
    PlanPrice,
    Victim,
    gpu_seconds_lost,
)
from tessera.placement.move_search import Search
from tessera.placement.openings import Openings
from tessera.placement.policies_value import ValuePolicy
from tessera.placement.request import Alternative, Feasible, Offer, Request
from tessera.placement.rooms import Rooms
from tessera.placement.state import ClusterState

__all__ = [
    "UNDER_BUDGET",
    "Movable",
    "Move",
    "MovePlan",
    "MovePlanner",
    "PlanPrice",
    "Victim",
    "gpu_seconds_lost",
]


class MovePlanner:
    """Finds plans by the values of a policy. Keeps what it has learned of a state and its layouts."""

    def __init__(self, policy: ValuePolicy) -> None:
        self._rooms = Rooms(policy)
        self._openings: dict[tuple[Geometry, tuple[int, ...], int], Openings] = {}

    def plan(
        self,
        state: ClusterState,
        request: Request,
        *,
        most_victims: int,
        movable: Movable,
        feasible: Feasible | None = None,
        price: PlanPrice | None = None,
    ) -> MovePlan | None:
        """The cheapest plan that places one slice of the request with 1 to `most_victims` moves, or None.

        Earlier alternatives of the request win over later ones; those of several slices are passed over.
        `feasible` restricts where the request goes, not where victims go (their offers do). Equal prices
        are decided by the GPU-seconds lost, then by the lowest GPU and start.
        """
        if most_victims < 1:
            return None
        self._rooms.follow(state)
        price = price or PlanPrice()
        allowed = None if feasible is None else feasible.gpus
        for alternative in request.alternatives:
            if alternative.count != 1 or not _enough_free(state, alternative):
                continue
            search = Search(request.name, alternative, rooms=self._rooms, movable=movable, price=price)
            cases = [
                case
                for offer in alternative.offers
                for case in search.cases(offer, self._openings_for(offer, most_victims), allowed)
            ]
            cases.sort(key=itemgetter(0))
            for level in range(1, most_victims + 1) if price.fewest_first else (None,):
                plan = search.cheapest(c for c in cases if level in (None, len(c.opening.victims)))
                if plan is not None:
                    return plan
            if most_victims >= 2:
                chains = ChainSearch(search, lambda offer: self._openings_for(offer, 1))
                if (plan := chains.cheapest(allowed)) is not None:
                    return plan
        return None

    def _openings_for(self, offer: Offer, most_victims: int) -> Openings:
        case = (offer.geometry, offer.placements, most_victims)
        found = self._openings.get(case)
        if found is None:
            found = Openings(offer.geometry, offer.placements, most_victims=most_victims)
            self._openings[case] = found
        return found


def _enough_free(state: ClusterState, alternative: Alternative) -> bool:
    """Whether the slices that are free would do, if they were neighbours. On GPUs of several models slices
    cannot be compared, and the search says it.
    """
    if len(state.pools) != 1:
        return True
    (pool,) = state.pools.values()
    placements = pool.geometry.placements
    needed = min((placements[i].width for o in alternative.offers for i in o.placements), default=0)
    for layout in positions(pool.present):
        if free := pool.table.free(layout):
            needed -= free * pool.buckets[layout].count()
            if needed <= 0:
                return True
    return False
