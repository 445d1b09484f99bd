"""Where slices that leave their place could go: best first by a policy's values, in a state of which a few
GPUs are thought to be changed already.

The GPUs that are as the state says stand in the engine's order of layouts (`ranking`), so that the best one
is found at its front. The few that differ are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import islice

from tessera.placement.geometry import Geometry
from tessera.placement.gpu_sets import Filter, GpuSet, filter_of_given, first_of
from tessera.placement.layouts import layout_table
from tessera.placement.policies_value import ValuePolicy
from tessera.placement.ranking import Rankings
from tessera.placement.request import Offer, request_for_profile
from tessera.placement.state import ClusterState

Room = tuple[float, int, int]
"""Growth of V, GPU number, placement index."""


class Rooms:
    """The rooms of a state for any offers. Follows the state and the policy's values by itself."""

    def __init__(self, policy: ValuePolicy) -> None:
        self.policy = policy
        self._rankings = Rankings(policy)
        self._additions: dict[tuple[Geometry, tuple[int, ...]], dict[int, tuple[float, int] | None]] = {}
        self._homes: dict[str, tuple[Offer, ...]] = {}

    def follow(self, state: ClusterState) -> None:
        """Work on this state from now on, under the values that the policy has now."""
        if self._rankings.follow(state):
            self._additions.clear()
            self._homes.clear()

    @property
    def state(self) -> ClusterState:
        """The state that is followed."""
        state = self._rankings.state
        if state is None:
            raise ValueError("no state is followed yet; call follow first")
        return state

    def homes(self, profile: str) -> tuple[Offer, ...]:
        """Where a slice of this profile may go: on any GPU that offers it."""
        found = self._homes.get(profile)
        if found is None:
            offers = request_for_profile(self.state, profile).alternatives[0].offers
            found = self._homes[profile] = offers
        return found

    def addition(
        self, geometry: Geometry, layout: int, placements: tuple[int, ...]
    ) -> tuple[float, int] | None:
        """The least growth of V by taking one of the placements on a layout, and its index; None when none
        fits.
        """
        case = (geometry, placements)
        known = self._additions.get(case)
        if known is None:
            known = self._additions[case] = {}
        if layout not in known:
            known[layout] = min(self._growths(geometry, layout, placements), default=None)
        return known[layout]

    def _growths(
        self, geometry: Geometry, layout: int, placements: tuple[int, ...]
    ) -> Iterator[tuple[float, int]]:
        table = layout_table(geometry)
        for index in placements:
            if table.fits(layout, index):
                # Sums in another order differ in the last bits; such values are equal.
                yield (round(self.policy.delta(geometry, layout, index), 9), index)

    def least(self, offers: tuple[Offer, ...]) -> float | None:
        """The least growth of V at which a slice can be placed in the state as it is, or None."""
        first = next(self._unchanged(offers, {}), None)
        return None if first is None else first[0]

    def least_joined(self, first: tuple[Offer, ...], second: tuple[Offer, ...]) -> float | None:
        """The least growth at which a second slice can go to the GPU that a first one has gone to, or None.
        That GPU is the best one, or the second best where the best is taken.
        """
        found: list[float] = []
        for _, number, index in islice(self._unchanged(first, {}), 2):
            gpu = self.state.gpus[number]
            layout = gpu.table.after_placed(gpu.layout, index)
            for geometry, placements in self._offered_on(second, number):
                best = self.addition(geometry, layout, placements)
                if best is not None:
                    found.append(best[0])
        return min(found, default=None)

    def fill(
        self, wanted: Sequence[tuple[Offer, ...]], changed: dict[int, int]
    ) -> tuple[float, tuple[tuple[int, int], ...]] | None:
        """Place slices one after the other, each where V grows least, then on the lowest GPU. None when one
        of them fits nowhere.

        `changed` maps GPU numbers to layouts that differ from the state; the layouts after the slices are
        added to it. Returns the sum of growths and (GPU number, placement index) for each.
        """
        total = 0.0
        places: list[tuple[int, int]] = []
        for offers in wanted:
            best = self._best(offers, changed)
            if best is None:
                return None
            growth, number, index = best
            total += growth
            places.append((number, index))
            gpu = self.state.gpus[number]
            changed[number] = gpu.table.after_placed(changed.get(number, gpu.layout), index)
        return total, tuple(places)

    def _best(self, offers: tuple[Offer, ...], changed: dict[int, int]) -> Room | None:
        """The room where V grows least, on changed GPUs and on those that are as the state says."""
        best = next(self._unchanged(offers, changed), None)
        for number, layout in changed.items():
            for geometry, placements in self._offered_on(offers, number):
                near = self.addition(geometry, layout, placements)
                if near is not None and (best is None or (near[0], number, near[1]) < best):
                    best = (near[0], number, near[1])
        return best

    def _unchanged(self, offers: tuple[Offer, ...], changed: dict[int, int]) -> Iterator[Room]:
        """For each rank, the room on the lowest of its GPUs that are as the state says."""
        if len(offers) == 1:
            return self._unchanged_of(offers[0], changed)
        return merge(*(self._unchanged_of(offer, changed) for offer in offers))

    def _unchanged_of(self, offer: Offer, changed: dict[int, int]) -> Iterator[Room]:
        ranking = self._rankings.of(offer)
        within = filter_of_given(offer.gpus)
        gpus = self.state.gpus
        for rank, buckets in ranking.classes():
            number = _lowest(buckets, within, changed)
            if number is not None:
                yield (rank[-1], number, ranking.index_for[gpus[number].layout])

    def _offered_on(
        self, offers: tuple[Offer, ...], number: int
    ) -> Iterator[tuple[Geometry, tuple[int, ...]]]:
        gpu = self.state.gpus[number]
        return ((offer.geometry, offer.placements) for offer in offers if offer.holds_on(gpu))


def _lowest(buckets: list[GpuSet], within: Filter | None, without: dict[int, int]) -> int | None:
    """The lowest GPU of the buckets that passes the filter and is not a key of `without`."""
    if within is None and len(buckets) == 1:
        number: int | None = buckets[0].lowest()
    else:
        number = first_of(buckets, within=within)
    while number is not None and number in without:
        number = first_of(buckets, within=within, start=number + 1)
    return number
