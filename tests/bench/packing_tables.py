"""The tables of docs/results/packing.md: static packing of 500 requests, and ParvaGPU's six scenarios.

Run `python tests/bench/packing_tables.py static` or `... services`; each prints a table, with `--json` one
object. Static packing: requests drawn from four mixes on GPUs of 8 memory slices, 10 seeds; how many GPUs the
exact plan needs, how many packers need that see one request at a time, and how long the solver took.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
import time
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from tessera.boards import plain_profiles
from tessera.gpu.profiles import GPUModel, model
from tessera.packing.boards import Pool
from tessera.packing.comparison import PACKERS
from tessera.packing.errors import WrongPlan
from tessera.packing.greedy import greedy_gpus
from tessera.packing.online import gpus_online
from tessera.packing.plan import Tile, check_layout
from tessera.packing.program import solver_name
from tessera.packing.requests import pack_requests
from tessera.packing.service_file import parse_services
from tessera.packing.service_plan import pack_services
from tessera.simulate.cluster import parse_cluster
from tessera.simulate.mixes import NAMED_MIXES, named_mix
from tessera.simulate.report import cell, print_table
from tessera.simulate.statistics import summarise

DATA = Path(__file__).resolve().parents[2] / "data" / "parvagpu"
BOARD = "H100-80GB"


def static(requests: int, seeds: int) -> dict[str, Any]:
    """Per mix: the ratios of all packers, the optimum, its bound by slices, and the time of the solver."""
    cluster = parse_cluster([BOARD], gpus=1)
    plain = [model(BOARD).profile(name) for name in plain_profiles(model(BOARD))]
    pool = Pool(GPUModel.from_profiles("8 slices", plain))
    size = {profile.name: profile.memory_slices for profile in plain}
    table: dict[str, Any] = {}
    for mix in NAMED_MIXES:
        shares = named_mix(mix, cluster).shares
        runs = []
        for seed in range(seeds):
            arrivals = random.Random(f"{mix} {seed}").choices(list(shares), list(shares.values()), k=requests)
            before = time.process_time()
            plan = pack_requests([pool], Counter(arrivals))
            cpu = time.process_time() - before
            run: dict[str, float] = {
                "gpus": plan.gpus,
                "slices_bound": -(-sum(size[profile] for profile in arrivals) // 8),
                "proven": plan.proof.optimal,
                "certified": plan.proof.certified,
                "solver_ms": plan.proof.seconds * 1000,
                "whole_cpu_ms": cpu * 1000,
            }
            for packer in PACKERS:
                run[packer] = gpus_online(pool.geometry, arrivals, packer=packer) / plan.gpus
            runs.append(run)
        mean, ci95 = summarise(runs)
        table[mix] = {"runs": runs, "mean": mean, "ci95": ci95}
    return table


def services(time_limit: float) -> list[dict[str, Any]]:
    """Per scenario: GPUs of the published deployment, of a greedy planner, and of the exact plans."""
    published: dict[int, dict[str, list[Tile]]] = defaultdict(lambda: defaultdict(list))
    with (DATA / "published.csv").open() as source:
        for row in csv.DictReader(source):
            published[int(row["scenario"])][row["gpu"]].append(Tile(int(row["start"]), row["profile"]))
    rows = []
    for number in range(1, 7):
        name = f"slo{number}.yaml"
        question = parse_services(
            (DATA / name).read_text(), source=name, read=lambda file: (DATA / file).read_text()
        )
        before = time.process_time()
        own = pack_services(question, time_limit_seconds=time_limit)
        between = time.process_time()
        shared = pack_services(replace(question, share_slices=True), time_limit_seconds=time_limit)
        after = time.process_time()
        deployed = published[number].values()
        rows.append(
            {
                "scenario": number,
                "services": len(question.services),
                "published": len(deployed),
                "published_illegal": sum(not _legal(question.pools[0].board, tiles) for tiles in deployed),
                "greedy": greedy_gpus(question),
                "gpus": own.gpus,
                "gap_pct": own.proof.gap_pct,
                "solver_ms": own.proof.seconds * 1000,
                "whole_cpu_ms": (between - before) * 1000,
                "shared_gpus": shared.gpus,
                "shared_gap_pct": shared.proof.gap_pct,
                "shared_solver_ms": shared.proof.seconds * 1000,
                "shared_whole_cpu_ms": (after - between) * 1000,
            }
        )
    return rows


def _legal(board: GPUModel, tiles: list[Tile]) -> bool:
    try:
        check_layout(board, tiles)
    except WrongPlan:
        return False
    return True


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=["static", "services"])
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    solver_name()  # loads the solver, so that no time below holds it
    if options.table == "services":
        rows = services(options.time_limit)
        if options.json:
            json.dump(rows, sys.stdout, indent=2)
            return
        print_table(
            f"ParvaGPU's scenarios, {solver_name()}",
            ["", *(str(row["scenario"]) for row in rows)],
            [[key, *(f"{row[key]:.4g}" for row in rows)] for key in rows[0] if key != "scenario"],
        )
        return
    table = static(options.requests, options.seeds)
    if options.json:
        json.dump(table, sys.stdout, indent=2)
        return
    keys = [*PACKERS, "gpus", "slices_bound", "proven", "certified", "solver_ms", "whole_cpu_ms"]
    print_table(
        f"{options.requests} requests, {options.seeds} seeds, {solver_name()}",
        ["", *table],
        [[key, *(cell(t["mean"], t["ci95"], key, digits=3) for t in table.values())] for key in keys],
    )
    for key in ("solver_ms", "whole_cpu_ms"):
        print(f"largest {key}: {max(run[key] for t in table.values() for run in t['runs']):.1f}")


if __name__ == "__main__":
    main()
