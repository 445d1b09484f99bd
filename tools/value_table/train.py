"""Trains the value table of a geometry class, and writes the files that ship with the placement core.

    python tools/value_table/train.py W8 --out operator/src/tessera/placement/values

Two steps: relative values by policy iteration (`joint`), then a direct search of how much of each part
(`direct_search`). Every random number comes from --seed, and no workload of the training is one of those
that results are quoted for (their seeds are below 100, those of the training above a million). W12 has
the layouts of W4, three memory slices for one; it gets the values of W4 in its own slices.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import terms
from direct_search import Search, Values, search
from joint import Iteration, iterate
from layouts import W4, W8, LayoutTables, Shape, tables_of
from simulator import accepted, accepted_by_pool, ranking, slice_share
from tessera.placement.values.values import MixTable
from traces import Workload, draw, named_mixes

CLASSES: dict[str, tuple[tuple[Shape, ...], dict[str, int]]] = {
    "W8": (W8, {"w8.json": 1}),
    "W4": (W4, {"w4.json": 1, "w12.json": 3}),
}
"""What is trained, and the files that are written from it: how many memory slices of the board make one."""
DIGITS = 4
CHECK_SEEDS = range(900, 904)
"""For the log of the training only."""


def main() -> None:
    """Parse, train, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("geometry_class", choices=sorted(CLASSES))
    parser.add_argument("--out", type=Path, required=True, help="directory for the files")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    started = time.process_time()
    shapes, names = CLASSES[options.geometry_class]
    tables = tables_of(shapes)
    values = train(tables, seed=options.seed)
    provenance = {
        "command": f"tools/value_table/train.py {options.geometry_class} --seed {options.seed}",
        "date": datetime.now(UTC).date().isoformat(),
        "processor_seconds": round(time.process_time() - started),
        "versions": {
            "python": platform.python_version(),
            "numpy": version("numpy"),
            "numba": version("numba"),
        },
        "iteration": asdict(Iteration()),
        "search": asdict(Search()),
        "gap_to_pool_pct": score(tables, values, range(5)),
        "gap_to_pool_conditions": "100 GPUs, load 1.0, 40,000 arrivals, seeds 0 to 4, shares known",
    }
    for name, scale in names.items():
        text = _file(tables, values, scale, provenance).dumps()
        (options.out / name).write_text(text, encoding="utf-8")
        print(f"{name}: {len(tables.layouts)} layouts, gaps {provenance['gap_to_pool_pct']}")


def train(tables: LayoutTables, *, seed: int) -> Values:
    """The values of a class."""
    random = np.random.default_rng(seed)
    named = tuple(named_mixes(tables.profiles).values())

    def some_mix(source: np.random.Generator) -> tuple[float, ...]:
        return tuple(source.dirichlet(np.full(tables.profiles, source.choice([0.8, 1.5]))))

    def any_mix(source: np.random.Generator) -> tuple[float, ...]:
        return named[source.integers(len(named))] if source.random() < 0.25 else some_mix(source)

    def tell_iteration(turn: int, values: np.ndarray[Any, np.dtype[np.float64]]) -> None:
        _tell(tables, f"iteration {turn}", Values(values, np.zeros_like(values)))

    def tell_search(turn: int, values: Values) -> None:
        if turn % 20 == 0:
            _tell(tables, f"search {turn}", values)

    learned = iterate(
        terms.fgd_h(tables), tables, Iteration(), draw_mix=any_mix, random=random, report=tell_iteration
    )
    return search(learned, tables, Search(), named=named, draw_mix=some_mix, seed=seed, report=tell_search)


def score(tables: LayoutTables, values: Values, seeds: range) -> dict[str, float]:
    """Mean paired gap to the ideal pool by named mix, in points of slice acceptance."""
    gaps = {}
    for name, mix in named_mixes(tables.profiles).items():
        decisions = ranking(values.under(mix, tables), tables)
        found = []
        for seed in seeds:
            trace = draw(Workload(mix), size=tables.size, slices=tables.slices, seed=seed)
            ours, pool = accepted(decisions, tables, trace), accepted_by_pool(tables, trace)
            found.append(slice_share(ours, tables, trace) - slice_share(pool, tables, trace))
        gaps[name] = round(float(np.mean(found)), 2)
    return gaps


def _tell(tables: LayoutTables, what: str, values: Values) -> None:
    seconds = time.process_time()
    print(f"[{seconds:6.0f} s] {what}: {score(tables, values, CHECK_SEEDS)}", file=sys.stderr, flush=True)


def _file(tables: LayoutTables, values: Values, scale: int, provenance: dict[str, Any]) -> MixTable:
    """The table for boards whose memory slices are `scale` times as fine as those of the training."""
    geometry = tables.geometry
    names = [f"{p.compute}g{p.width * scale}@{p.start * scale}" for p in geometry.placements]
    shapes = list(dict.fromkeys(name.partition("@")[0] for name in names))
    rows = np.concatenate([values.by_requests, values.by_slices]).T * scale
    rows = rows - rows[0]
    return MixTable(
        memory_slices=geometry.memory_slices * scale,
        compute_slices=geometry.compute_slices,
        shapes=tuple(shapes),
        values={
            " ".join(names[i] for i in sorted(held, key=lambda i: geometry.placements[i].start)): tuple(
                float(x) for x in row.round(DIGITS)
            )
            for held, row in zip(tables.layouts, rows, strict=True)
        },
        provenance=provenance,
    )


if __name__ == "__main__":
    main()
