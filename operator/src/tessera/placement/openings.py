"""What could be opened for a request on a GPU by taking instances away.

An *opening* is a legal place on a layout together with the instances in its way. It belongs to the layout,
not to the GPU, so it is found once: a search then looks at some hundred layouts, whatever the number of GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from tessera.placement.geometry import Geometry
from tessera.placement.gpu_sets import positions
from tessera.placement.layouts import LayoutTable, layout_table


@dataclass(frozen=True, slots=True)
class Opening:
    """Placement `index` on a layout after `victims` (placement indices, widest first) are taken away, which
    leaves the layout `after`. `profiles` are those of the victims.
    """

    index: int
    victims: tuple[int, ...]
    profiles: tuple[str, ...]
    after: int


class Openings:
    """The openings of a geometry's layouts for a set of placements, with 1 to `most_victims` victims."""

    def __init__(self, geometry: Geometry, placements: tuple[int, ...], *, most_victims: int) -> None:
        self._table = layout_table(geometry)
        self._placements = placements
        self._most = most_victims
        self._of: dict[int, tuple[Opening, ...]] = {}
        self._seen = 0
        self._some = 0

    def of(self, layout: int) -> tuple[Opening, ...]:
        """The openings of a layout."""
        found = self._of.get(layout)
        if found is None:
            found = tuple(one for index in self._placements for one in self._open(layout, index))
            self._of[layout] = found
            if found:
                self._some |= 1 << layout
        return found

    def among(self, layouts: int) -> Iterator[tuple[int, tuple[Opening, ...]]]:
        """(layout, its openings) for those of a set of layouts (as bits) that have some."""
        for layout in positions(layouts & ~self._seen):
            self.of(layout)
        self._seen |= layouts
        return ((layout, self._of[layout]) for layout in positions(layouts & self._some))

    def _open(self, layout: int, index: int) -> Iterator[Opening]:
        """What overlaps the place must go. Where a counted resource (compute slices, media engines) is then
        still short, as few of the others as give enough.
        """
        table = self._table
        if table.overlapping[layout]:
            return  # Somebody's error must be resolved first.
        geometry = table.geometry
        held = table.indices[layout]
        in_the_way = tuple(i for i in held if geometry.overlap(i, index))
        others = tuple(i for i in held if i not in in_the_way)
        for more in range(self._most - len(in_the_way) + 1):
            found = False
            for extra in combinations(others, more):
                victims = (*in_the_way, *extra)
                rest = layout
                for victim in victims:
                    rest = table.after_released(rest, victim)
                if table.fits(rest, index):
                    found = True
                    if victims:
                        yield _opening(table, rest, index, victims)
            if found:
                return


def _opening(table: LayoutTable, rest: int, index: int, victims: tuple[int, ...]) -> Opening:
    placements = table.geometry.placements

    def size(victim: int) -> tuple[int, int, int]:
        return (-placements[victim].width, -placements[victim].compute, placements[victim].start)

    widest_first = tuple(sorted(victims, key=size))
    return Opening(
        index=index,
        victims=widest_first,
        profiles=tuple(placements[victim].profile for victim in widest_first),
        after=table.after_placed(rest, index),
    )
