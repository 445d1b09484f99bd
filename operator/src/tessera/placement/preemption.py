"""Making room for a request of higher priority, by evicting instances of lower priority.

The search is that of `moves`, but the victims are not placed again; they go back to the queue. What counts is
therefore whom it hits, in this order: the least of the highest priorities among the victims, the fewest
victims, the fewest GPU-seconds lost, then the least growth of the policy's value V, the lowest GPU and start.
Moving costs nobody a place, so a caller asks the `MovePlanner` first.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from tessera.placement.gpu_sets import filter_of_given
from tessera.placement.move_plans import Movable, Victim, victims_on
from tessera.placement.move_search import Looks
from tessera.placement.openings import Opening, Openings
from tessera.placement.policies_value import ValuePolicy
from tessera.placement.request import Feasible, Offer, Placement, Request, placement_on
from tessera.placement.state import ClusterState, Gpu


@dataclass(frozen=True, slots=True)
class PreemptionPlan:
    """A place for a request and the owners that must leave it. `highest_priority` is that of the most
    important victim.
    """

    placement: Placement
    victims: tuple[Hashable, ...]
    highest_priority: int
    gpu_seconds: float
    value_change: float


def plan_preemption(
    state: ClusterState,
    policy: ValuePolicy,
    request: Request,
    *,
    most_victims: int,
    evictable: Movable,
    feasible: Feasible | None = None,
) -> PreemptionPlan | None:
    """The plan that hits least, with 1 to `most_victims` victims, or None. `evictable` says of an owner what
    its eviction costs and its priority, or None when it must stay (because its priority is not lower).

    Earlier alternatives of the request win over later ones; those of several slices are passed over. Of each
    layout at most MOST_GPUS_OF_A_LAYOUT GPUs are asked about, the lowest first.
    """
    for alternative in request.alternatives:
        if alternative.count != 1:
            continue
        search = _Search(state, policy, request.name, alternative.name, evictable, Looks(state))
        ranked = [
            found
            for offer in alternative.offers
            for found in search.plans(offer, most_victims, None if feasible is None else feasible.gpus)
        ]
        if ranked:
            return min(ranked, key=lambda found: found[0])[1]
    return None


@dataclass(slots=True)
class _Search:
    """One search, and the GPUs that it looks at."""

    state: ClusterState
    policy: ValuePolicy
    request: str
    alternative: str
    evictable: Movable
    looks: Looks

    def plans(
        self, offer: Offer, most_victims: int, allowed: int | None
    ) -> Iterator[tuple[tuple[float, ...], PreemptionPlan]]:
        """(rank, plan) for every opening that may be made."""
        pool = self.state.pools.get(offer.geometry)
        if pool is None:
            return
        within = filter_of_given(allowed, offer.gpus)
        openings = Openings(offer.geometry, offer.placements, most_victims=most_victims)
        for layout, found in openings.among(pool.present):
            for gpu in self.looks.at(pool.buckets[layout], within):
                for opening in found:
                    victims = victims_on(gpu, opening, self.evictable)
                    if victims is not None:
                        yield self._plan(gpu, opening, victims)

    def _plan(
        self, gpu: Gpu, opening: Opening, victims: list[tuple[Hashable, int, Victim]]
    ) -> tuple[tuple[float, ...], PreemptionPlan]:
        value = self.policy.value
        plan = PreemptionPlan(
            placement=placement_on(gpu, opening.index, request=self.request, alternative=self.alternative),
            victims=tuple(owner for owner, _, _ in victims),
            highest_priority=max(victim.priority for _, _, victim in victims),
            gpu_seconds=sum(victim.gpu_seconds for _, _, victim in victims),
            value_change=value(gpu.geometry, opening.after) - value(gpu.geometry, gpu.layout),
        )
        rank = (
            plan.highest_priority,
            len(victims),
            plan.gpu_seconds,
            round(plan.value_change, 9),
            gpu.number,
            plan.placement.legal.start,
        )
        return rank, plan
