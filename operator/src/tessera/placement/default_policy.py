"""The default policy: learned values that follow the mix of requests.

It estimates the shares of the profiles from what came (the decayed histogram of FGD), and takes the
placement that raises the value of a layout under these shares least. The values are learned offline per
geometry class and ship with the package (`values`). A geometry that no table knows is valued by FGD+H,
which needs none.
"""

from __future__ import annotations

from collections.abc import Sequence

from tessera.placement.geometry import Geometry
from tessera.placement.policies_value import FragmentationTenancy
from tessera.placement.score import ArrivalHistogram
from tessera.placement.values.values import MixTable, shipped_mix_tables


class LearnedByMix(FragmentationTenancy):
    """Least growth of the learned value under the shares of the arrivals."""

    name = "table"

    def __init__(
        self, tables: Sequence[MixTable] | None = None, histogram: ArrivalHistogram | None = None
    ) -> None:
        super().__init__(histogram)
        self._tables = shipped_mix_tables() if tables is None else tuple(tables)
        self._chosen: dict[Geometry, MixTable | None] = {}

    def table_of(self, geometry: Geometry) -> MixTable | None:
        """The table that values this geometry, or None."""
        if geometry not in self._chosen:
            self._chosen[geometry] = next((t for t in self._tables if t.knows(geometry)), None)
        return self._chosen[geometry]

    def _value(self, geometry: Geometry, layout: int) -> float:
        table = self.table_of(geometry)
        learned = None if table is None else table.value(geometry, layout, self.weights(geometry))
        return super()._value(geometry, layout) if learned is None else learned
