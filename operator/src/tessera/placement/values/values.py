"""Learned values of layouts that follow the mix of requests.

What a layout costs the future depends on what will be asked for: a GPU cut into small slices is worthless
where whole GPUs are wanted, and fine where they are not. So a layout has not one learned number but two per
shape of profile, and its value is their mean under the shares of the arrivals:

    V(layout) = sum over shapes s of  (share of s in the requests) x first(layout, s)
                                    + (share of s in the slices asked for) x second(layout, s)

This has the form of FGD's F_slice, whose numbers are "all free slices when s fits nowhere, else none"; here
they are learned (`make value-table`; how, and how good: docs/results/value-table.md). When the mix of
requests changes, the values follow at once, without training anew.

A file serves all boards of one geometry class: shapes and layouts are named by what they cover ("3g4@0
1g1@4": three compute slices over four memory slices at 0, and one over one at 4), never by profiles or ids
of one board, so that what was learned for an H100-80GB holds for an A100-40GB and a B200-180GB.

    {"memory_slices": 8, "compute_slices": 7, "shapes": ["1g1", …], "provenance": {…},
     "values": {"": [0, …], "1g1@0": [1.27, …], …}}        first of each shape, then second of each shape
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from tessera.placement.geometry import Geometry
from tessera.placement.layouts import layout_table


class MalformedMixTable(ValueError):
    """The text is not a table of values by mix; the message says what is wrong with it."""


@dataclass(frozen=True)
class MixTable:
    """Values by layout and shape, and how they were made. Lower is better; only differences matter."""

    memory_slices: int
    compute_slices: int
    shapes: tuple[str, ...]
    values: Mapping[str, tuple[float, ...]]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def knows(self, geometry: Geometry) -> bool:
        """Whether the geometry is of this class: a GPU of the same size, and no placement is foreign to the
        table.
        """
        if (geometry.memory_slices, geometry.compute_slices) != (self.memory_slices, self.compute_slices):
            return False
        table = layout_table(geometry)
        return all(
            table.shape(table.number_of((index,))) in self.values for index in range(len(geometry.placements))
        )

    def value(self, geometry: Geometry, layout: int, weights: Mapping[str, float]) -> float | None:
        """V of a layout when profiles are asked for with these weights (their sum is 1), or None when the
        layout has none (an overlapping layout).

        A profile that differs from another one of its shape by an engine of which a GPU has one (`+me`) can
        be shut out where its shape is not; then all free slices are useless to it, as in FGD.
        """
        table = layout_table(geometry)
        learned = self.values.get(table.shape(layout))
        if learned is None:
            return None
        profiles = _profiles(geometry)
        asked = sum(weights[name] * width for name, _, width in profiles)
        occupancy = geometry.occupancy(table.keys[layout])
        fitting = {shape for name, shape, _ in profiles if name in occupancy.profiles}
        value = 0.0
        for name, shape, width in profiles:
            at = self.shapes.index(shape)
            by_slices = width / asked * learned[len(self.shapes) + at]
            shut_out = occupancy.free if name not in occupancy.profiles and shape in fitting else 0
            value += weights[name] * (learned[at] + by_slices + shut_out)
        return value

    def dumps(self) -> str:
        """The file's text: one layout a line, sorted, so that two versions can be compared."""
        head = {
            "memory_slices": self.memory_slices,
            "compute_slices": self.compute_slices,
            "shapes": list(self.shapes),
            "provenance": self.provenance,
        }
        text = json.dumps(head, indent=1, ensure_ascii=False)
        lines = (
            f"  {json.dumps(name)}: {json.dumps(list(self.values[name]))}" for name in sorted(self.values)
        )
        return text.removesuffix("\n}") + ',\n "values": {\n' + ",\n".join(lines) + "\n }\n}\n"

    @staticmethod
    def loads(text: str) -> MixTable:
        """Read a file's text. Raises MalformedMixTable."""
        try:
            body = json.loads(text)
            table = MixTable(
                memory_slices=int(body["memory_slices"]),
                compute_slices=int(body["compute_slices"]),
                shapes=tuple(str(shape) for shape in body["shapes"]),
                values={str(name): tuple(map(float, row)) for name, row in body["values"].items()},
                provenance=dict(body["provenance"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise MalformedMixTable(f"not a table of values by mix: {error!r}") from error
        for name, row in table.values.items():
            if len(row) != 2 * len(table.shapes):
                raise MalformedMixTable(
                    f"layout {name!r} has {len(row)} values, not two for each of {len(table.shapes)} shapes"
                )
        return table


@cache
def _profiles(geometry: Geometry) -> tuple[tuple[str, str, int], ...]:
    """Name, shape and width of each profile."""
    return tuple(dict.fromkeys((p.profile, p.shape, p.width) for p in geometry.placements))


@cache
def shipped_mix_tables() -> tuple[MixTable, ...]:
    """The tables beside this module, by file name."""
    folder = files("tessera.placement.values")
    found = sorted((f for f in folder.iterdir() if f.name.endswith(".json")), key=lambda f: f.name)
    return tuple(MixTable.loads(f.read_text(encoding="utf-8")) for f in found)
