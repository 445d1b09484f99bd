"""Measures the shipped values against FGD and FGD+H on many workloads: the table of
docs/results/value-table.md.

    python tools/value_table/evidence.py

Every figure is the gap to the ideal pool on the same trace, in points of slice acceptance, mean over the
seeds with its 95 % interval; the last column is the difference of the learned values from FGD on the same
traces. All policies know the shares of the profiles here. The scheduler and `tessera simulate` estimate
them from the arrivals.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import terms
from layouts import W4, W8, LayoutTables, tables_of
from numpy.typing import NDArray
from simulator import accepted, accepted_by_pool, ranking, slice_share
from tessera.placement.layouts import layout_table
from tessera.placement.values.values import MixTable, shipped_mix_tables
from tessera.simulate.statistics import summarise
from traces import Weights, Workload, draw, named_mixes

Floats = NDArray[np.float64]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10, help="seeds 0 to N-1 (default 10)")
    options = parser.parse_args()
    print("| workload | FGD | FGD+H | learned | learned - FGD |\n|---|---|---|---|---|")
    for class_name, shapes in (("", W8), ("4 slices (A30), ", W4)):
        tables = tables_of(shapes)
        table = next(t for t in shipped_mix_tables() if t.memory_slices == tables.slices)
        for name, workload in workloads(tables):
            print(f"| {class_name}{name} | {_row(workload, tables, table, options.seeds)} |", flush=True)


def workloads(tables: LayoutTables) -> Iterator[tuple[str, Workload]]:
    """What is measured: the named mixes, then one property changed at a time, then other mixes."""
    named = {name: Workload(mix) for name, mix in named_mixes(tables.profiles).items()}
    yield from named.items()
    if tables.profiles == 6:
        for name, workload in named.items():
            for load in (0.8, 1.2):
                yield f"{name}, load {load}", replace(workload, load=load)
            yield f"{name}, lifetimes lognormal 1.5", replace(workload, sigma=1.5)
            yield f"{name}, 104 GPUs (13 x 8)", replace(workload, gpus=104)
            yield f"{name}, 1,000 GPUs", replace(workload, gpus=1000)
    zipf = 1 / np.arange(1, tables.profiles + 1)
    yield "zipf, small first", Workload(_shares(zipf))
    yield "zipf, big first", Workload(_shares(zipf[::-1]))
    random = np.random.default_rng(2026)
    yield "zipf, shuffled", Workload(_shares(random.permutation(zipf)))
    for number in range(1, 13 if tables.profiles == 6 else 5):
        mix = _shares(random.dirichlet(np.ones(tables.profiles)))
        yield f"random {number}: " + " ".join(f".{round(100 * share):02d}" for share in mix), Workload(mix)


def _shares(weights: Floats) -> Weights:
    return tuple(float(x) for x in weights / weights.sum())


def _row(workload: Workload, tables: LayoutTables, table: MixTable, seeds: int) -> str:
    shares = np.array(workload.weights)
    values = {
        "fgd": shares @ terms.fgd(tables),
        "fgd_h": shares @ terms.fgd_h(tables),
        "learned": learned_values(table, tables, workload.weights),
    }
    decisions = {name: ranking(value, tables) for name, value in values.items()}
    runs = []
    for seed in range(seeds):
        trace = draw(workload, size=tables.size, slices=tables.slices, seed=seed)
        pool = slice_share(accepted_by_pool(tables, trace), tables, trace)
        run = {
            name: slice_share(accepted(d, tables, trace), tables, trace) - pool
            for name, d in decisions.items()
        }
        runs.append({**run, "better": run["learned"] - run["fgd"]})
    mean, ci95 = summarise(runs)
    return " | ".join(f"{mean[key]:+.2f} ±{ci95[key]:.2f}" for key in ("fgd", "fgd_h", "learned", "better"))


def learned_values(table: MixTable, tables: LayoutTables, weights: Weights) -> Floats:
    """[L] V of a shipped table, by the code that the scheduler uses."""
    geometry = tables.geometry
    numbers = layout_table(geometry)
    by_name = {profile: weights[int(profile)] for profile in geometry.profiles}
    found = [table.value(geometry, numbers.number_of(tuple(held)), by_name) for held in tables.layouts]
    return np.array(found, dtype=np.float64)


if __name__ == "__main__":
    main()
