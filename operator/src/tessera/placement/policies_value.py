"""Policies that put a number on every layout: what it costs the future. They take the placement that raises
it least.

| policy | V(layout) |
|---|---|
| fgd | F_slice - 1e-6 CC: expected free slices that the next request cannot use, then legal placements left |
| fgd-h | the same + H(tenants): the n-th tenant costs 1/n, so that GPUs with few tenants are left to empty |
| mfi | F_MFI: blocked starts of the profiles that would fit by size |
| mcc | -CC: legal placements lost |

The default one, with learned values, is in `default_policy`.

F_slice needs to know what may come next. It is estimated from what came (`ArrivalHistogram`), and the
estimate in use is replaced only when it is off by more than three standard errors for some profile, because
each replacement makes the engine rank all layouts anew.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod

from tessera.placement.geometry import Geometry
from tessera.placement.layouts import layout_table
from tessera.placement.policies_fit import Rank
from tessera.placement.score import (
    ArrivalHistogram,
    blocked_starts,
    configuration_capability,
    tenancy,
    unusable_slices,
)

_LEAST_DRIFT = 3.0
_CAPABILITY_WEIGHT = 1e-6
_FIRST_LOOK = 8
_MOST_BETWEEN_LOOKS = 125


class ValuePolicy(ABC):
    """Takes the placement with the least V(after) - V(before). Values hold until `version` changes."""

    name: str
    version = 0
    chance: random.Random | None = None
    turn: int | None = None

    def __init__(self) -> None:
        self._values: dict[Geometry, dict[int, float]] = {}

    @abstractmethod
    def _value(self, geometry: Geometry, layout: int) -> float:
        """V of a layout, computed."""

    def value(self, geometry: Geometry, layout: int) -> float:
        """V of a layout: what it costs the future, in free memory slices for the FGD policies."""
        values = self._values.get(geometry)
        if values is None:
            values = self._values[geometry] = {}
        found = values.get(layout)
        if found is None:
            found = values[layout] = self._value(geometry, layout)
        return found

    def delta(self, geometry: Geometry, layout: int, index: int) -> float:
        """V(after) - V(before) of taking a placement. Raises DoesNotFit."""
        after = layout_table(geometry).after_placed(layout, index)
        return self.value(geometry, after) - self.value(geometry, layout)

    def rank(self, geometry: Geometry, layout: int, index: int) -> Rank:
        # Sums of equal weights in another order differ in the last bits; such places are ties.
        return (round(self.delta(geometry, layout, index), 9),)

    def preference(self, geometry: Geometry, layout: int, index: int) -> Rank:
        return ()

    def record(self, profile: str) -> None:  # noqa: B027 - a default, not a demand
        """Nothing to learn."""

    def chosen(self, number: int) -> None:  # noqa: B027 - the same
        """Nothing to learn."""

    def _forget_values(self) -> None:
        self._values.clear()
        self.version += 1


class FragmentationGradient(ValuePolicy):
    """FGD on slices: the least growth of unusable slices, then the least loss of legal placements."""

    name = "fgd"

    def __init__(self, histogram: ArrivalHistogram | None = None) -> None:
        super().__init__()
        self.histogram = histogram or ArrivalHistogram()
        self._next_look = _FIRST_LOOK
        self._weights: dict[Geometry, dict[str, float]] = {}

    def record(self, profile: str) -> None:
        """Count the arrival. From time to time the weights in use are compared with the histogram."""
        histogram = self.histogram
        histogram.record(profile)
        if histogram.arrivals >= self._next_look:
            self._next_look += max(_FIRST_LOOK, min(histogram.arrivals // 8, _MOST_BETWEEN_LOOKS))
            self._follow_histogram()

    def weights(self, geometry: Geometry) -> dict[str, float]:
        """The chances of the profiles to be asked for next that are in use now."""
        found = self._weights.get(geometry)
        if found is None:
            found = self._weights[geometry] = self.histogram.weights(geometry)
        return found

    def fragmentation(self, geometry: Geometry, layout: int) -> float:
        """F_slice of a layout under the weights in use: expected free slices that the next request cannot
        use.
        """
        return unusable_slices(geometry, layout_table(geometry).keys[layout], self.weights(geometry))

    def _value(self, geometry: Geometry, layout: int) -> float:
        key = layout_table(geometry).keys[layout]
        lost = self.fragmentation(geometry, layout)
        return lost - _CAPABILITY_WEIGHT * configuration_capability(geometry, key)

    def _follow_histogram(self) -> None:
        for geometry, used in self._weights.items():
            seen = self.histogram.weights(geometry)
            error = self.histogram.standard_error
            if any(abs(weight - used[p]) > _LEAST_DRIFT * error(weight) for p, weight in seen.items()):
                self._weights.clear()
                self._forget_values()
                return


class FragmentationTenancy(FragmentationGradient):
    """FGD+H: FGD on slices, and each further tenant of a GPU costs less than the one before."""

    name = "fgd-h"

    def _value(self, geometry: Geometry, layout: int) -> float:
        return super()._value(geometry, layout) + tenancy(layout_table(geometry).tenants[layout])


class MinimumFragmentationIncrease(ValuePolicy):
    """MFI: the least growth of blocked starts."""

    name = "mfi"

    def _value(self, geometry: Geometry, layout: int) -> float:
        return blocked_starts(geometry, layout_table(geometry).keys[layout])


class MaximumCapability(ValuePolicy):
    """MCC: the least loss of legal placements."""

    name = "mcc"

    def _value(self, geometry: Geometry, layout: int) -> float:
        return -configuration_capability(geometry, layout_table(geometry).keys[layout])
