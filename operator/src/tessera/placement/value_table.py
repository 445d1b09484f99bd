"""Learned values of layouts, as files.

A table is trained offline for one shape of GPU and one set of profiles (`tessera simulate train`) and
shipped as JSON beside this module, with how it was made. It names layouts by what they cover ("3g4@0
1g1@4": three compute slices over four memory slices at 0, one over one at 4), so that the table of an H100
serves an A100 and an H200, whose profiles have other names but the same geometry.

    {"memory_slices": 8, "compute_slices": 7, "provenance": {…}, "values": {"": 0.0, "1g1@0": 1.27, …}}
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


class MalformedTable(ValueError):
    """The text is not a value table; the message says what is wrong with it."""


@dataclass(frozen=True)
class ValueTable:
    """V by layout shape, and how it was made. Lower is better; only differences matter."""

    memory_slices: int
    compute_slices: int
    values: Mapping[str, float]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def knows(self, geometry: Geometry) -> bool:
        """Whether every single placement of the geometry has a value, on a GPU of the same size."""
        table = layout_table(geometry)
        return (geometry.memory_slices, geometry.compute_slices) == (
            self.memory_slices,
            self.compute_slices,
        ) and all(
            table.shape(table.number_of((index,))) in self.values for index in range(len(geometry.placements))
        )

    def value(self, geometry: Geometry, layout: int) -> float | None:
        """V of a layout, or None when it has none (an overlapping layout)."""
        return self.values.get(layout_table(geometry).shape(layout))

    def dumps(self) -> str:
        """The file's text: one layout a line, sorted, so that two versions can be compared."""
        head = {
            "memory_slices": self.memory_slices,
            "compute_slices": self.compute_slices,
            "provenance": self.provenance,
        }
        body = {**head, "values": dict(sorted(self.values.items()))}
        return json.dumps(body, indent=1, ensure_ascii=False) + "\n"

    @staticmethod
    def loads(text: str) -> ValueTable:
        """Read a file's text. Raises MalformedTable."""
        try:
            body = json.loads(text)
            return ValueTable(
                memory_slices=int(body["memory_slices"]),
                compute_slices=int(body["compute_slices"]),
                values={str(shape): float(value) for shape, value in body["values"].items()},
                provenance=dict(body.get("provenance") or {}),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise MalformedTable(f"not a value table: {error!r}") from error


@cache
def shipped_tables() -> tuple[ValueTable, ...]:
    """The tables in `placement/tables/`, by file name."""
    folder = files("tessera.placement").joinpath("tables")
    if not folder.is_dir():
        return ()
    found = sorted((f for f in folder.iterdir() if f.name.endswith(".json")), key=lambda f: f.name)
    return tuple(ValueTable.loads(f.read_text(encoding="utf-8")) for f in found)
