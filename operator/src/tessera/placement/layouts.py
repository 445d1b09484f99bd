"""The layouts of a GPU as small numbers, so that states are lists and changes are look-ups.

A *layout* is the set of placements on one GPU. Two GPUs of one model with the same layout are the same to
every policy; two with the same occupancy mask are not, because one may hold a 3g where the other holds
three 1g, and they will come free in different ways. Each layout gets a number when it is first met (0 is
the empty one), and what follows from it (its key, its tenants, the layout after one more or one fewer) is
computed once.

Layouts that overlap, which only an error elsewhere in the cluster can make, have numbers too: their room
must stay closed until the error is resolved.
"""

from __future__ import annotations

from functools import cache

from tessera.placement.geometry import Geometry, LegalPlacement

EMPTY = 0
"""The number of the layout without placements, of every geometry."""


class DoesNotFit(ValueError):
    """The placement overlaps the layout, or exceeds what the GPU has of a counted resource."""


class LayoutTable:
    """The layouts of one geometry. Get it by `layout_table`, so that numbers mean the same everywhere."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.indices: list[tuple[int, ...]] = []
        """Layout -> its placements as sorted indices into the geometry."""
        self.keys: list[int] = []
        """Layout -> its key in the geometry (the occupancy mask and what rides with it)."""
        self.tenants: list[int] = []
        """Layout -> the number of placements on the GPU."""
        self.overlapping: list[bool] = []
        """Layout -> whether placements of it exclude each other."""
        self.placed: list[dict[int, int]] = []
        """Layout -> placement -> layout after it is taken, as far as asked for; see `after_placed`."""
        self.released: list[dict[int, int]] = []
        """Layout -> placement -> layout after it is given back, as far as asked for."""
        self._numbers: dict[tuple[int, ...], int] = {}
        self.number_of(())

    def __len__(self) -> int:
        return len(self.indices)

    def number_of(self, indices: tuple[int, ...]) -> int:
        """The layout with these placements (in any order)."""
        indices = tuple(sorted(indices))
        found = self._numbers.get(indices)
        if found is None:
            found = self._numbers[indices] = len(self.indices)
            self.indices.append(indices)
            self.keys.append(self.geometry.key_of(indices))
            self.tenants.append(len(indices))
            self.overlapping.append(not self._is_legal(indices))
            self.placed.append({})
            self.released.append({})
        return found

    def after_placed(self, layout: int, index: int) -> int:
        """The layout after a placement is taken. Raises DoesNotFit."""
        found = self.placed[layout].get(index)
        if found is None:
            if not self.fits(layout, index):
                placement = self.geometry.placements[index]
                raise DoesNotFit(
                    f"{placement.profile} at {placement.start} does not fit beside "
                    f"{self.text(layout) or 'nothing'} on a {self.geometry.model}"
                )
            found = self.placed[layout][index] = self.number_of((*self.indices[layout], index))
        return found

    def after_forced(self, layout: int, index: int) -> int:
        """The layout after a placement is taken, though it may overlap."""
        return self.number_of((*self.indices[layout], index))

    def after_released(self, layout: int, index: int) -> int:
        """The layout after a placement is given back. Raises ValueError when the layout does not have it."""
        found = self.released[layout].get(index)
        if found is None:
            left = list(self.indices[layout])
            left.remove(index)
            found = self.released[layout][index] = self.number_of(tuple(left))
        return found

    def fits(self, layout: int, index: int) -> bool:
        """Whether a placement may be taken beside this layout."""
        return self.geometry.fits(self.keys[layout], index)

    def fitting(self, layout: int) -> tuple[int, ...]:
        """Every placement that may be taken beside this layout."""
        return self.geometry.occupancy(self.keys[layout]).fitting

    def free(self, layout: int) -> int:
        """Free memory slices."""
        return self.geometry.occupancy(self.keys[layout]).free

    def text(self, layout: int) -> str:
        """The layout by the profiles' names: "3g.40gb@0 1g.10gb@4"; "" for the empty one."""
        return " ".join(f"{p.profile}@{p.start}" for p in self._by_start(layout))

    def shape(self, layout: int) -> str:
        """The layout by what it covers, the same for boards whose profiles have other names: "3g4@0 1g1@4" is
        three compute slices over four memory slices at 0, and one over one at 4.
        """
        return " ".join(f"{p.shape}@{p.start}" for p in self._by_start(layout))

    def _by_start(self, layout: int) -> list[LegalPlacement]:
        return sorted((self.geometry.placements[i] for i in self.indices[layout]), key=lambda p: p.start)

    def _is_legal(self, indices: tuple[int, ...]) -> bool:
        key = 0
        for index in indices:
            if not self.geometry.fits(key, index):
                return False
            key = self.geometry.with_placed(key, index)
        return True


@cache
def layout_table(geometry: Geometry) -> LayoutTable:
    """The layouts of a geometry; one table per geometry in a process."""
    return LayoutTable(geometry)
