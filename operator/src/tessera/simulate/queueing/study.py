"""The study of docs/results/queue.md: `python -m tessera.simulate.queueing.study PART`, which prints its
tables.

Parts: `published` (the jobs of MIGBench's published runs, seed 20260914), `policies` (every policy, first
come first served), `orders` (orders, reservations and moves with the default policy). All on 20 seeds but
the first. Tables are Markdown; a star marks a paired difference whose 95 % interval excludes 0.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tessera.gpu.profiles import model
from tessera.placement.policies import DEFAULT_POLICY, POLICIES
from tessera.simulate.queueing.experiment import (
    ARM_KEYS,
    Arm,
    Experiment,
    load_label,
    paired_differences,
    run_all,
)
from tessera.simulate.queueing.moving import MoveRule
from tessera.simulate.queueing.policies import policy_names
from tessera.simulate.queueing.queue import Order
from tessera.simulate.queueing.reservations import ReservationRule
from tessera.simulate.queueing.tables import difference
from tessera.simulate.queueing.workload import mix_of
from tessera.simulate.report import with_interval
from tessera.simulate.statistics import summarise

LOADS = (0.7, 0.9, 1.1, 1.4, None)
SEEDS = 20
H100 = model("H100-80GB")
BASE = Experiment(H100, mix_of(H100))
RESERVE = ReservationRule(after_seconds=1800.0, profiles=frozenset({"7g.80gb"}), backfill=True)
MOVE = MoveRule(most_victims=2, moves_per_100=5.0)

_COLUMNS = (
    ("makespan_seconds", "makespan s", 0),
    ("wait_mean_seconds", "mean wait s", 0),
    ("wait_p95_seconds", "p95 wait s", 0),
    ("utilisation_pct", "util. %", 1),
    ("fragmentation_pct", "phys. frag. %", 2),
    ("stranded_pct", "stranded %", 2),
    ("request_fragmentation", "req. frag.", 0),
)
_WAITS = (
    ("wait_mean_seconds", "mean wait s", 0),
    ("wait_p95_seconds", "p95 wait s", 0),
    ("makespan_seconds", "makespan s", 0),
)


@dataclass(frozen=True, slots=True)
class Variant:
    """One row: an order with or without reservation and moves."""

    name: str
    order: Order = "fifo"
    reservation: ReservationRule = field(default_factory=ReservationRule)
    moves: MoveRule = field(default_factory=MoveRule)


VARIANTS = (
    Variant("fifo"),
    Variant("fifo, reserve", reservation=RESERVE),
    Variant("fifo, moves", moves=MOVE),
    Variant("fifo, reserve, moves", reservation=RESERVE, moves=MOVE),
    Variant("smallest work", "smallest-work"),
    Variant("smallest work aged", "smallest-work-aged"),
    Variant("smallest work, reserve", "smallest-work", RESERVE),
    Variant("smallest work, reserve, moves", "smallest-work", RESERVE, MOVE),
)


def published() -> None:
    """One seed, both geometries, both kinds of load."""
    for load in (1.4, None):
        for geometry in ("gpc-slots", "memory"):
            experiment = replace(BASE, geometry=geometry)
            runs = run_all(experiment, [Arm(name, load=load) for name in policy_names()], seeds=1)
            print(f"\n### load {load_label(load)}, geometry {geometry}\n")
            _print_header("policy", [text for _, text, _ in _COLUMNS])
            for run in runs:
                cells = [with_interval(run[key], None, digits=digits) for key, _, digits in _COLUMNS]
                print("|", " | ".join([run["policy"], *cells]), "|")


def policies() -> None:
    """The engine's policies at every load, first come first served, and their difference to first fit.
    MIGBench's models are best_fit and worst_fit.
    """
    names = sorted(POLICIES, key=lambda name: name != "first_fit")
    for load in LOADS:
        arms = [Arm(name, load=load) for name in names]
        _print_arms(run_all(BASE, arms, seeds=SEEDS), "policy", load, _COLUMNS)


def orders() -> None:
    """Orders, reservations and moves with the default policy."""
    for load in LOADS:
        runs = []
        for variant in VARIANTS:
            experiment = replace(BASE, reservation=variant.reservation, moves=variant.moves)
            for run in run_all(experiment, [Arm(DEFAULT_POLICY, variant.order, load)], seeds=SEEDS):
                waits = run["wait_mean_seconds_by_profile"], run["wait_max_seconds_by_profile"]
                run |= {"order": variant.name, "whole_mean": waits[0].get("7g.80gb", 0.0)}
                run |= {"whole_max": waits[1].get("7g.80gb", 0.0), "small_mean": waits[0].get("1g.10gb", 0.0)}
                runs.append(run)
        extra = (
            ("small_mean", "1g mean s", 0),
            ("whole_mean", "7g mean s", 0),
            ("whole_max", "7g longest s", 0),
            ("wait_max_seconds", "longest s", 0),
            ("utilisation_pct", "util. %", 1),
            ("moves", "moves", 0),
        )
        _print_arms(runs, "order", load, (*_WAITS, *extra))


def _print_header(first: str, columns: Sequence[str]) -> None:
    print("|", " | ".join([first, *columns]), "|")
    print("|---|" + "---:|" * len(columns))


def _print_arms(
    runs: Sequence[dict[str, Any]], named: str, load: float | None, columns: Sequence[tuple[str, str, int]]
) -> None:
    """Means with intervals, then the paired differences to the first arm."""
    valid = sum(run["valid"] for run in runs)
    print(f"\n### load {load_label(load)} ({valid:.0f} of {len(runs)} runs under high load)\n")
    _print_header(named, [text for _, text, _ in columns])
    for name in dict.fromkeys(run[named] for run in runs):
        mean, ci95 = summarise([run for run in runs if run[named] == name])
        cells = [with_interval(mean[key], ci95[key], digits=digits) for key, _, digits in columns]
        print("|", " | ".join([name, *cells]), "|")
    first = runs[0][named]
    print(f"\nDifference to {first}, seed by seed:\n")
    _print_header(named, [text for _, text, _ in _WAITS])
    for arm, summary in paired_differences(runs).items():
        name = dict(zip(ARM_KEYS, arm, strict=True))[named]
        cells = [difference(summary, key, digits=digits) for key, _, digits in _WAITS]
        print("|", " | ".join([name, *cells]), "|", flush=True)


PARTS = {"published": published, "policies": policies, "orders": orders}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in PARTS:
        sys.exit(f"usage: python -m tessera.simulate.queueing.study {{{'|'.join(PARTS)}}}")
    PARTS[sys.argv[1]]()
