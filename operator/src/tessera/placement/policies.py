"""Placement policies: how a place for a slice is ranked. The lowest rank wins, over all GPUs of the cluster.

A policy ranks (geometry, key of the GPU, placement), never a particular GPU or node, so that a rank is
computed once per bucket. Ties go to the GPU with the lowest number, then to the lowest start; `random`
breaks ties by chance instead.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from tessera.placement.geometry import Geometry
from tessera.placement.score import ArrivalHistogram, configuration_capability, unusable_slices

Rank = tuple[float, ...]


class Policy(Protocol):
    """What the engine asks of a policy."""

    name: str

    @property
    def version(self) -> int:
        """Ranks hold as long as this number does not change."""

    @property
    def chance(self) -> random.Random | None:
        """Breaks ties between GPUs by chance when it is set."""

    def rank(self, geometry: Geometry, key: int, index: int) -> Rank:
        """The rank of taking placement `index` on a GPU with this key; lowest wins."""

    def record(self, profile: str) -> None:
        """Learn that a slice of this profile was asked for."""


class FragmentationGradient:
    """FGD on slices: the least growth of unusable slices, then the least loss of legal placements.

    key: F_slice(after) - F_slice(before), CC(before) - CC(after), GPU, start.
    """

    name = "fgd"
    chance: random.Random | None = None

    def __init__(self, histogram: ArrivalHistogram | None = None) -> None:
        self.histogram = histogram or ArrivalHistogram()
        self.version = 0
        self._fresh_until = 8
        self._weights: dict[Geometry, dict[str, float]] = {}
        self._values: dict[tuple[Geometry, int], float] = {}

    def record(self, profile: str) -> None:
        """Count the arrival. Weights are refreshed when the histogram has grown by an eighth, at most every
        125 arrivals.
        """
        self.histogram.record(profile)
        if self.histogram.arrivals >= self._fresh_until:
            self._fresh_until = self.histogram.arrivals + max(8, min(self.histogram.arrivals, 1000) // 8)
            self._weights.clear()
            self._values.clear()
            self.version += 1

    def value(self, geometry: Geometry, key: int) -> float:
        """F_slice of a key under the current weights."""
        found = self._values.get((geometry, key))
        if found is None:
            weights = self._weights.get(geometry)
            if weights is None:
                weights = self._weights[geometry] = self.histogram.weights(geometry)
            found = self._values[geometry, key] = unusable_slices(geometry, key, weights)
        return found

    def rank(self, geometry: Geometry, key: int, index: int) -> Rank:
        after = geometry.with_placed(key, index)
        # Sums of equal weights in another order differ in the last bits; such places are ties.
        growth = round(self.value(geometry, after) - self.value(geometry, key), 9)
        return (growth, configuration_capability(geometry, key) - configuration_capability(geometry, after))


class _Fixed:
    """A policy that learns nothing."""

    version = 0
    chance: random.Random | None = None

    def record(self, profile: str) -> None:
        """Nothing to learn."""


class FirstFit(_Fixed):
    """The first GPU with room, at the lowest start."""

    name = "first_fit"

    def rank(self, geometry: Geometry, key: int, index: int) -> Rank:
        return ()


class BestFit(_Fixed):
    """The GPU with the fewest free slices that still has room."""

    name = "best_fit"

    def rank(self, geometry: Geometry, key: int, index: int) -> Rank:
        return (geometry.occupancy(key).free,)


class RandomFit(_Fixed):
    """Any GPU with room, by chance, at the lowest start; seeded, so that a run can be repeated."""

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self.chance = random.Random(seed)

    def rank(self, geometry: Geometry, key: int, index: int) -> Rank:
        return ()


POLICIES: dict[str, Callable[[], Policy]] = {
    "fgd": FragmentationGradient,
    "first_fit": FirstFit,
    "best_fit": BestFit,
    "random": RandomFit,
}
