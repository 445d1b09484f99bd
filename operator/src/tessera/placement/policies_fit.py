"""Policies that look at a GPU as it is, without a thought for what comes next.

They are the baselines: what schedulers that ship today do. Keys as in "minimise lexicographically over all
legal (GPU, start)"; `m` is the occupancy before, `n` after.

| policy | key |
|---|---|
| first_fit | GPU, start |
| best_fit | free(m), GPU, start |
| best_fit_hami | free(m), GPU, highest start for 1g and 3g and lowest for others (HAMi v2.10) |
| best_fit_hami_master | free(m), GPU, -longest free run(n), -CC(n), start (HAMi's rule after v2.10) |
| best_fit_mfi | free(m), F_MFI(n) - F_MFI(m), GPU, start |
| worst_fit | -free(m), GPU, start |
| round_robin | the first GPU that fits, cyclically from the one after the last used; start |
| random | any GPU that fits; start |
"""

from __future__ import annotations

import random

from tessera.placement.geometry import Geometry
from tessera.placement.layouts import layout_table
from tessera.placement.score import blocked_starts

Rank = tuple[float, ...]


class FirstFit:
    """The first GPU with room, at the lowest start."""

    name = "first_fit"
    version = 0
    chance: random.Random | None = None
    turn: int | None = None

    def rank(self, geometry: Geometry, layout: int, index: int) -> Rank:
        return ()

    def preference(self, geometry: Geometry, layout: int, index: int) -> Rank:
        return ()

    def record(self, profile: str) -> None:
        """Nothing to learn."""

    def chosen(self, number: int) -> None:
        """Nothing to learn."""


class BestFit(FirstFit):
    """The GPU with the fewest free slices that still has room."""

    name = "best_fit"

    def rank(self, geometry: Geometry, layout: int, index: int) -> Rank:
        return (layout_table(geometry).free(layout),)


class BestFitHami(BestFit):
    """Best fit with the start order of HAMi v2.10: 1g and 3g from the high end, all others from the low end.

    Two profiles that start at opposite ends meet in the middle, as in a heap and a stack.
    """

    name = "best_fit_hami"

    def preference(self, geometry: Geometry, layout: int, index: int) -> Rank:
        placement = geometry.placements[index]
        return (-placement.start if placement.compute in (1, 3) else placement.start,)


class BestFitHamiMaster(BestFit):
    """Best fit; on the GPU the start that leaves the longest free run, then the most legal placements."""

    name = "best_fit_hami_master"

    def preference(self, geometry: Geometry, layout: int, index: int) -> Rank:
        table = layout_table(geometry)
        after = geometry.occupancy(table.keys[table.after_placed(layout, index)])
        return (-after.longest_run, -len(after.fitting))


class BestFitMfi(BestFit):
    """Best fit; among equally full GPUs the placement that blocks the fewest starts."""

    name = "best_fit_mfi"

    def rank(self, geometry: Geometry, layout: int, index: int) -> Rank:
        table = layout_table(geometry)
        after = table.keys[table.after_placed(layout, index)]
        growth = blocked_starts(geometry, after) - blocked_starts(geometry, table.keys[layout])
        return (table.free(layout), growth)


class WorstFit(FirstFit):
    """The GPU with the most free slices."""

    name = "worst_fit"

    def rank(self, geometry: Geometry, layout: int, index: int) -> Rank:
        return (-layout_table(geometry).free(layout),)


class RoundRobin(FirstFit):
    """The first GPU with room after the one that was used last, cyclically."""

    name = "round_robin"

    def __init__(self) -> None:
        self.turn = 0

    def chosen(self, number: int) -> None:
        """The next search starts behind this GPU."""
        self.turn = number + 1


class RandomFit(FirstFit):
    """Any GPU with room, by chance, at the lowest start; seeded, so that a run can be repeated."""

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self.chance = random.Random(seed)
