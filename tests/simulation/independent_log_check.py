"""Checks the log of a simulation and counts its figures again, sharing no code with Tessera.

    python tests/simulation/independent_log_check.py REPORT.json LOG.jsonl [PROFILES.csv]

REPORT.json is what `tessera simulate online|replay --json` printed for one run, LOG.jsonl what its `--log`
wrote. The geometry comes from the table of MIG profiles alone. Prints the figures, or says what is illegal.
"""

from __future__ import annotations

import csv
import heapq
import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parents[2] / "operator" / "src" / "tessera" / "gpu" / "mig_profiles.csv"


class Illegal(Exception):
    """The log says something that hardware or logic forbids."""


def check(report: dict[str, Any], lines: Iterable[str], table: Path = TABLE) -> dict[str, Any]:
    """The figures of the log, counted from nothing but its lines. Raises Illegal."""
    profiles: dict[str, dict[str, dict[str, Any]]] = {}
    for row in csv.DictReader(table.open()):
        profiles.setdefault(row["gpu"], {})[row["profile"]] = {
            "compute": int(row["g"]),
            "width": int(row["mem_slices"]),
            "starts": {int(start) for start in row["starts"].split("|")},
            "max": int(row["max"]),
        }
    model_of = [part["model"] for part in report["config"]["cluster"] for _ in range(part["gpus"])]
    slices = {m: max(p["width"] + max(p["starts"]) for p in profiles[m].values()) for m in set(model_of)}
    compute = {m: max(p["compute"] for p in profiles[m].values()) for m in set(model_of)}
    size: dict[str, int] = {}
    for m in set(model_of):
        for name, one in profiles[m].items():
            size[name] = min(one["width"], size.get(name, one["width"]))

    pools = _Pools({m: set(profiles[m]) for m in model_of}, [(m, slices[m]) for m in model_of], size)
    held: dict[Any, tuple[int, str, int]] = {}
    on_gpu: list[dict[Any, tuple[str, int]]] = [{} for _ in model_of]
    started: dict[Any, float] = {}
    seen: set[Any] = set()
    rows = [json.loads(line) for line in lines]
    config = report["config"]
    counted_from = (
        config["counted_from"] if "counted_from" in config else config["arrivals"][0]["counted_from"]
    )
    costs = config["move_costs_seconds"]

    def take(request: Any, gpu: int, profile: str, start: int) -> None:
        model = model_of[gpu]
        kind = profiles[model].get(profile)
        if kind is None or start not in kind["starts"]:
            raise Illegal(f"{profile} at {start} does not exist on {model}")
        cells = set(range(start, start + kind["width"]))
        used = kind["compute"]
        same = 1
        for other, at in on_gpu[gpu].values():
            if cells & set(range(at, at + profiles[model][other]["width"])):
                raise Illegal(f"{request}: {profile} at {start} of GPU {gpu} overlaps {other} at {at}")
            used += profiles[model][other]["compute"]
            same += other == profile
        if used > compute[model]:
            raise Illegal(f"{request}: GPU {gpu} has no {used} compute slices")
        if same > kind["max"]:
            raise Illegal(f"{request}: GPU {gpu} holds {same} {profile}")
        held[request] = (gpu, profile, start)
        on_gpu[gpu][request] = (profile, start)

    def drop(request: Any) -> tuple[int, str, int]:
        if request not in held:
            raise Illegal(f"{request} holds nothing")
        del on_gpu[held[request][0]][request]
        return held.pop(request)

    def fragmentation(gpu: int) -> float:
        width = slices[model_of[gpu]]
        free = [True] * width
        for name, at in on_gpu[gpu].values():
            for cell in range(at, at + profiles[model_of[gpu]][name]["width"]):
                free[cell] = False
        runs = [len(run) for run in "".join("f" if f else " " for f in free).split()]
        return (sum(runs) - max(runs)) / sum(runs) if runs else 0.0

    arrived: dict[str, int] = {}
    accepted: dict[str, int] = {}
    moves = 0
    lost = 0.0
    now = -math.inf
    fragments = [0.0] * len(model_of)
    used_integral = fragment_integral = span = 0.0
    counting = False
    number = 0
    for row in rows:
        if row["t"] < now:
            raise Illegal(f"time goes back to {row['t']}")
        if counting:
            step = row["t"] - now
            span += step
            used = sum(profiles[model_of[gpu]][p]["width"] for gpu, p, _ in held.values())
            used_integral += used * step
            fragment_integral += sum(fragments) * step
        now = row["t"]
        request, op = row["id"], row["op"]
        pools.see(row, counted=number >= counted_from)
        if op in ("place", "reject"):
            if request in seen:
                raise Illegal(f"{request} arrives twice")
            seen.add(request)
            counting = counting or number >= counted_from
            if number >= counted_from:
                arrived[row["profile"]] = arrived.get(row["profile"], 0) + 1
                accepted[row["profile"]] = accepted.get(row["profile"], 0) + (op == "place")
            number += 1
        changed: set[int] = set()
        if op == "release":
            if held.get(request) != (row["gpu"], row["profile"], row["start"]):
                raise Illegal(f"{request} is not on GPU {row['gpu']} at {row['start']}")
            changed.add(drop(request)[0])
        elif op == "place":
            take(request, row["gpu"], row["profile"], row["start"])
            started[request] = now
            changed.add(row["gpu"])
        elif op == "move":
            gpu, profile, _ = drop(request)
            if profile != row["profile"]:
                raise Illegal(f"{request} changes its profile")
            if number >= counted_from:
                moves += 1
                every = costs["checkpoint_every"]
                since = (now - started[request]) % every if every else 0.0
                share = profiles[model_of[gpu]][profile]["width"] / slices[model_of[gpu]]
                lost += share * (since + costs["restart"] + costs["create"] + costs["delete"])
            take(request, row["gpu"], profile, row["start"])
            started[request] = now
            changed |= {gpu, row["gpu"]}
        elif op != "reject":
            raise Illegal(f"unknown op {op}")
        for gpu in changed:
            fragments[gpu] = fragmentation(gpu)

    def weighed(counts: dict[str, int]) -> int:
        return sum(size[profile] * count for profile, count in counts.items())

    total = sum(slices[m] for m in model_of)
    slice_acceptance = 100 * weighed(accepted) / weighed(arrived)
    ideal_pool = 100 * weighed(pools.accepted) / weighed(arrived)
    return {
        "slice_acceptance_pct": slice_acceptance,
        "ideal_pool_pct": ideal_pool,
        "gap_to_pool_pct": slice_acceptance - ideal_pool,
        "acceptance_pct": 100 * sum(accepted.values()) / sum(arrived.values()),
        "per_profile_acceptance_pct": {p: 100 * accepted[p] / arrived[p] for p in arrived},
        "min_profile_acceptance_pct": min(100 * accepted[p] / arrived[p] for p in arrived),
        "moves_per_100": 100 * moves / sum(accepted.values()),
        "gpu_seconds_lost": lost,
        "utilisation_pct": 100 * used_integral / (span * total),
        "fragmentation_pct": 100 * fragment_integral / (span * len(model_of)),
    }


class _Pools:
    """The ideal pools beside the cluster: slices without places; GPUs that share a profile share one."""

    def __init__(
        self, offered: dict[str, set[str]], gpus: list[tuple[str, int]], size: dict[str, int]
    ) -> None:
        group = {m: frozenset(offered[m]) for m in offered}
        for one in offered:
            joined = frozenset().union(*(names for names in group.values() if names & group[one]))
            group |= {m: joined for m, names in group.items() if names & joined}
        self._pool_of = {profile: names for names in group.values() for profile in names}
        self._free = {names: sum(s for m, s in gpus if group[m] == names) for names in group.values()}
        self._size = size
        self._inside: dict[Any, str] = {}
        self._leaving: list[tuple[float, int, Any]] = []
        self.accepted: dict[str, int] = {}

    def see(self, row: dict[str, Any], *, counted: bool) -> None:
        """One line of the log. Whom the cluster rejects may be in the pool until it would have left."""
        while self._leaving and self._leaving[0][0] <= row["t"]:
            self._leave(heapq.heappop(self._leaving)[2])
        request, op, profile = row["id"], row["op"], row["profile"]
        if op == "release":
            self._leave(request)
        if op not in ("place", "reject"):
            return
        if self._free[self._pool_of[profile]] >= self._size[profile]:
            self._free[self._pool_of[profile]] -= self._size[profile]
            self._inside[request] = profile
            self.accepted[profile] = self.accepted.get(profile, 0) + counted
        if op == "reject" and row["leaves"] is not None:
            heapq.heappush(self._leaving, (row["leaves"], len(self._leaving), request))

    def _leave(self, request: Any) -> None:
        profile = self._inside.pop(request, None)
        if profile is not None:
            self._free[self._pool_of[profile]] += self._size[profile]


def differences(report: dict[str, Any], counted: dict[str, Any], *, tolerance: float = 1e-4) -> list[str]:
    """The figures of the report that the log does not bear out."""
    found = []
    for key, value in counted.items():
        said = report["runs"][0][key]
        pairs = value.items() if isinstance(value, dict) else [(key, value)]
        for name, number in pairs:
            claimed = said[name] if isinstance(said, dict) else said
            if not math.isclose(claimed, number, rel_tol=tolerance, abs_tol=tolerance):
                found.append(f"{key} {name}: reported {claimed}, counted {number}")
    return found


if __name__ == "__main__":
    the_report = json.loads(Path(sys.argv[1]).read_text())
    with Path(sys.argv[2]).open() as log:
        figures = check(the_report, log, Path(sys.argv[3]) if len(sys.argv) > 3 else TABLE)
    print(json.dumps(figures, indent=2))
    sys.exit("\n".join(differences(the_report, figures)) or 0)
