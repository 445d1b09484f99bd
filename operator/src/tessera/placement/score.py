"""How good the free room of a GPU is: the numbers that the policies compare.

F_slice is the FGD measure ("Beware of Fragmentation", USENIX ATC'23) on memory slices: the free slices that
the next request cannot use, averaged over what the next request may be. A profile that fits at no legal
start makes all free slices useless to it, one that fits makes none useless. What may come next is estimated
by a histogram of what came, in which old arrivals fade.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log, sqrt

from tessera.placement.geometry import Geometry


class ArrivalHistogram:
    """Counts of requested profiles in which an arrival loses half its weight after `half_life` further
    arrivals.

    Every profile of a geometry starts with one arrival's worth of belief, so that a new cluster treats all
    alike.
    """

    def __init__(self, *, half_life: int = 1000) -> None:
        if half_life <= 0:
            raise ValueError("half_life must be positive")
        self._growth = 2.0 ** (1.0 / half_life)
        # So many equally weighted arrivals would give an estimate of the same variance, in the long run.
        self._sample = 2.0 * half_life / log(2.0)
        self._unit = 1.0
        self._counts: dict[str, float] = {}
        self.arrivals = 0

    def record(self, profile: str) -> None:
        """Count one request for a profile."""
        # Raising the unit is the same as lowering all older counts, at the cost of one number.
        self._unit *= self._growth
        self._counts[profile] = self._counts.get(profile, 0.0) + self._unit
        self.arrivals += 1
        if self._unit > 1e100:
            self._counts = {name: count / self._unit for name, count in self._counts.items()}
            self._unit = 1.0

    def standard_error(self, weight: float) -> float:
        """By how much chance alone puts an estimated weight off, as a standard deviation."""
        return sqrt(weight * (1.0 - weight) / max(1.0, min(self.arrivals, self._sample)))

    def weights(self, geometry: Geometry) -> dict[str, float]:
        """The chance of each profile of a geometry to be asked for next; the sum is 1."""
        counts = {name: 1.0 + self._counts.get(name, 0.0) / self._unit for name in geometry.profiles}
        total = sum(counts.values())
        return {name: count / total for name, count in counts.items()}


def unusable_slices(geometry: Geometry, key: int, weights: Mapping[str, float]) -> float:
    """F_slice: expected free memory slices that the next request cannot use. 0 when all profiles fit or
    none is free.
    """
    occupancy = geometry.occupancy(key)
    if not occupancy.free:
        return 0.0
    blocked = sum(weight for profile, weight in weights.items() if profile not in occupancy.profiles)
    return occupancy.free * blocked


def configuration_capability(geometry: Geometry, key: int) -> int:
    """CC: the number of legal placements left, over all profiles."""
    return len(geometry.occupancy(key).fitting)


def blocked_starts(geometry: Geometry, key: int) -> int:
    """F_MFI (own reading of arXiv 2511.18906): sum over the profiles that the free slices could hold of
    size x number of its starts that are blocked.
    """
    occupancy = geometry.occupancy(key)
    open_starts = frozenset(occupancy.fitting)
    return sum(
        placement.width
        for index, placement in enumerate(geometry.placements)
        if placement.width <= occupancy.free and index not in open_starts
    )


def tenancy(tenants: int) -> float:
    """H(n) = 1 + 1/2 + ... + 1/n: the n-th tenant of a GPU costs 1/n, so the first one most.

    It keeps empty GPUs empty and fills those that already have several tenants.
    """
    return sum(1.0 / n for n in range(1, tenants + 1))
