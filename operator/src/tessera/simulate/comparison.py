"""The tables of `online` and `replay`: every figure of one arm, or one line per policy where there are
several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tessera.simulate.report import cell, print_table, with_interval
from tessera.simulate.statistics import Summary, summarise

ARMS = ("mix", "load", "policy")
IDENTIFY = ("seed",)

_FIGURES = (
    ("slice_acceptance_pct", "slice acceptance, %", 2),
    ("ideal_pool_pct", "the same of the ideal pool, %", 2),
    ("gap_to_pool_pct", "gap to the ideal pool, points", 2),
    ("repacking_gap_to_pool_pct", "the same of free repacking, points", 2),
    ("acceptance_pct", "accepted requests, %", 2),
    ("min_profile_acceptance_pct", "worst profile, %", 2),
    ("moves_per_100", "moves per 100 accepted requests", 2),
    ("gpu_seconds_lost", "GPU-seconds lost by moves", 0),
    ("fragmentation_pct", "fragmentation, %", 2),
    ("utilisation_pct", "occupied memory slices, %", 2),
    ("decisions_per_second", "decisions per second of one core", 0),
)


def print_comparison(runs: Sequence[Mapping[str, Any]], *, title: str) -> None:
    """The tables of these runs: one per mix and load."""
    blocks: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for run in runs:
        blocks.setdefault(tuple(run[key] for key in ("mix", "load") if key in run), []).append(run)
    for key, block in blocks.items():
        heading = ", ".join([title, *([f"{key[0]}, load {key[1]:g}"] if key else [])])
        summaries = {
            policy: summarise([run for run in block if run["policy"] == policy])
            for policy in dict.fromkeys(run["policy"] for run in block)
        }
        if len(summaries) == 1:
            ((policy, summary),) = summaries.items()
            _print_one(f"{heading}, {policy}", *summary)
        else:
            _print_several(heading, summaries)


def _print_one(title: str, mean: Summary, ci95: Summary) -> None:
    rows = [(label, cell(mean, ci95, key, digits=digits)) for key, label, digits in _FIGURES]
    at = next(i for i, row in enumerate(_FIGURES) if row[0] == "min_profile_acceptance_pct")
    half = ci95["per_profile_acceptance_pct"] or {}
    profiles = [
        (f"  accepted {profile}, %", with_interval(value, half.get(profile), digits=2))
        for profile, value in (mean["per_profile_acceptance_pct"] or {}).items()
    ]
    print_table(title, ("figure", _heading(ci95)), [*rows[:at], *profiles, *rows[at:]])


def _print_several(title: str, summaries: Mapping[str, tuple[Summary, Summary]]) -> None:
    rows = []
    for policy, (mean, ci95) in summaries.items():
        rows.append(
            (
                policy,
                cell(mean, ci95, "slice_acceptance_pct"),
                cell(mean, ci95, "gap_to_pool_pct", digits=2),
                with_interval(mean["acceptance_pct"], None),
                with_interval(mean["min_profile_acceptance_pct"], None),
                with_interval(mean["moves_per_100"], None),
                with_interval((mean["decisions_per_second"] or 0.0) / 1000, None, digits=0),
            )
        )
    columns = ("policy", "slices %", "gap to pool", "count %", "worst %", "moves", "k/s")
    pool = next(iter(summaries.values()))
    words = f"ideal pool {cell(*pool, 'ideal_pool_pct')} % of the slices; {_heading(pool[1])}"
    if pool[0]["ideal_repacking_pct"] is not None:
        words += f"; free repacking: gap {cell(*pool, 'repacking_gap_to_pool_pct', digits=2)}"
    print_table(f"{title}\n{words}", columns, rows)


def _heading(ci95: Summary) -> str:
    return "one run" if ci95["slice_acceptance_pct"] is None else "mean ± 95 % interval"
