"""A geometry class as arrays: every layout has a number, and tables say which layout a placement leads to.

A geometry class is what a value table is learned for: the shapes of the profiles (width, compute slices,
legal starts), not their names, so that an A100-40GB, an H100-80GB and a B200-180GB are one class.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from tessera.placement.geometry import Geometry, LegalPlacement, geometry_of

Shape = tuple[int, int, tuple[int, ...]]
"""Width in memory slices, compute slices, legal starts."""

W8: tuple[Shape, ...] = (
    (1, 1, (0, 1, 2, 3, 4, 5, 6)),
    (2, 1, (0, 2, 4, 6)),
    (2, 2, (0, 2, 4)),
    (4, 3, (0, 4)),
    (4, 4, (0,)),
    (8, 7, (0,)),
)
W4: tuple[Shape, ...] = ((1, 1, (0, 1, 2, 3)), (2, 2, (0, 2)), (4, 4, (0,)))


@dataclass(frozen=True)
class LayoutTables:
    """L layouts (number 0 is the empty one), A placements (by width, compute, start), P profiles (one per
    shape)."""

    geometry: Geometry
    slices: int
    layouts: tuple[frozenset[int], ...]
    size: NDArray[np.int64]
    """[P] width of each profile in memory slices."""
    profile_of: NDArray[np.int64]
    """[A] profile number of each placement."""
    placed: NDArray[np.int64]
    """[L, A] the layout after a placement is taken, -1 where it does not fit."""
    removed: NDArray[np.int64]
    """[L, A] the layout after a placement is given back, -1 where it is not held."""
    free: NDArray[np.int64]
    """[L] free memory slices."""
    capability: NDArray[np.int64]
    """[L] number of placements that still fit."""
    fits: NDArray[np.bool_]
    """[L, P] whether any placement of the profile fits."""

    @property
    def profiles(self) -> int:
        return len(self.size)


def geometry_of_shapes(shapes: tuple[Shape, ...]) -> Geometry:
    """A geometry with one profile per shape, named by its number."""
    return geometry_of(
        model="class",
        memory_slices=max(width + max(starts) for width, _, starts in shapes),
        compute_slices=max(compute for _, compute, _ in shapes),
        placements=tuple(
            LegalPlacement(str(number), start, width, compute)
            for number, (width, compute, starts) in enumerate(shapes)
            for start in starts
        ),
    )


@cache
def tables_of(shapes: tuple[Shape, ...]) -> LayoutTables:
    """All layouts of a class and how they lead to each other."""
    geometry = geometry_of_shapes(shapes)
    layouts = tuple(sorted(geometry.layouts(), key=lambda held: (len(held), sorted(held))))
    number = {held: at for at, held in enumerate(layouts)}
    count = len(geometry.placements)
    placed = np.full((len(layouts), count), -1, dtype=np.int64)
    removed = np.full((len(layouts), count), -1, dtype=np.int64)
    for held, at in number.items():
        for index in range(count):
            if index in held:
                removed[at, index] = number[held - {index}]
            elif (after := number.get(held | {index})) is not None:
                placed[at, index] = after
    profile_of = np.array([int(p.profile) for p in geometry.placements])
    fitting = placed >= 0
    return LayoutTables(
        geometry=geometry,
        slices=geometry.memory_slices,
        layouts=layouts,
        size=np.array([width for width, _, _ in shapes]),
        profile_of=profile_of,
        placed=placed,
        removed=removed,
        free=np.array([geometry.occupancy(geometry.key_of(held)).free for held in layouts]),
        capability=fitting.sum(axis=1),
        fits=np.stack([fitting[:, profile_of == p].any(axis=1) for p in range(len(shapes))], axis=1),
    )
