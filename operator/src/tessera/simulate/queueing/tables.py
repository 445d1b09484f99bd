"""The tables that `tessera simulate queue` prints: one arm in full, or several side by side with their
differences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from tessera.simulate.queueing.experiment import ARM_KEYS, paired_differences
from tessera.simulate.report import arm_label, cell, print_table, varying
from tessera.simulate.statistics import Summary, summarise

# key, heading, digits
_TIMES = (
    ("makespan_seconds", "makespan s", 0),
    ("wait_mean_seconds", "mean wait s", 0),
    ("wait_p95_seconds", "p95 wait s", 0),
    ("utilisation_pct", "util. %", 1),
)
_ROOM = (
    ("throughput_per_hour", "jobs/h", 1),
    ("fragmentation_pct", "fragm. %", 1),
    ("stranded_pct", "stranded %", 1),
    ("request_fragmentation", "req. fr.", 0),
)
_SINGLE = (
    ("makespan_seconds", "makespan, s", 0),
    ("throughput_per_hour", "jobs per hour", 2),
    ("wait_mean_seconds", "wait, mean, s", 0),
    ("wait_p95_seconds", "wait, 95th percentile, s", 0),
    ("wait_p99_seconds", "wait, 99th percentile, s", 0),
    ("wait_max_seconds", "wait, longest, s", 0),
    ("utilisation_pct", "compute in use, %", 2),
    ("memory_utilisation_pct", "memory in use, %", 2),
    ("fragmentation_pct", "physical fragmentation, %", 2),
    ("stranded_pct", "stranded compute, %", 2),
    ("request_fragmentation", "requests blocked by fragmentation", 1),
    ("peak_utilisation_pct", "compute in use, peak, %", 1),
    ("backlog_pct", "time with a waiting job, %", 1),
    ("turnaround_mean_seconds", "from arrival to end, mean, s", 0),
    ("moves", "moves", 1),
    ("gpu_seconds_lost", "GPU-seconds lost by moves", 0),
    ("reservations", "reservations", 1),
)

_ONLY_IF_ANY = ("moves", "gpu_seconds_lost", "reservations")


def print_runs(runs: Sequence[Mapping[str, Any]], *, title: str, validity: Sequence[str]) -> None:
    """Print all about these runs. `validity` says what makes a run valid, one line per kind of load."""
    click.echo(title)
    arms: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for run in runs:
        arms.setdefault(tuple(str(run[key]) for key in ARM_KEYS), []).append(run)
    if len(arms) == 1:
        _print_single(next(iter(arms.values())))
    else:
        _print_arms(runs, list(arms.values()))
    valid = sum(1 for run in runs if run["valid"])
    click.echo(f"Runs under high load: {valid} of {len(runs)}. The conditions:")
    for condition in validity:
        click.echo(f"  {condition}")


def _print_single(runs: Sequence[Mapping[str, Any]]) -> None:
    mean, ci95 = summarise(runs)
    rows = [
        [text, cell(mean, ci95, key, digits=digits)]
        for key, text, digits in _SINGLE
        if mean.get(key) is not None and (mean[key] or key not in _ONLY_IF_ANY)
    ]
    print_table("Measures", ["", "mean ± 95 %" if len(runs) > 1 else "value"], rows)
    profiles = mean["wait_max_seconds_by_profile"]
    waits, spread = "wait_mean_seconds_by_profile", "wait_max_seconds_by_profile"
    print_table(
        "Waits by profile",
        ["profile", "mean s", "longest s"],
        [
            [
                name,
                cell(mean[waits], ci95[waits], name, digits=0),
                cell(mean[spread], ci95[spread], name, digits=0),
            ]
            for name in profiles
        ],
    )


def _print_arms(runs: Sequence[Mapping[str, Any]], arms: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    told_by = varying(runs, ARM_KEYS)
    labels = [arm_label(members[0], told_by) for members in arms]
    summaries = [summarise(members) for members in arms]
    for heading, columns in (("Times and utilisation", _TIMES), ("Throughput and fragmentation", _ROOM)):
        print_table(heading, ["arm", *(c[1] for c in columns)], _rows(labels, summaries, columns))
    differences = paired_differences(runs)
    if differences:
        named = [(dict(zip(ARM_KEYS, arm, strict=True)), summary) for arm, summary in differences.items()]
        print_table(
            "Difference to the first arm of the same load, seed by seed (* = not 0 at 95 %)",
            ["arm", *(c[1] for c in _TIMES)],
            [
                [arm_label(arm, told_by), *(difference(summary, key, digits=d) for key, _, d in _TIMES)]
                for arm, summary in named
            ],
        )


def _rows(
    labels: Sequence[str],
    summaries: Sequence[tuple[Summary, Summary]],
    columns: Sequence[tuple[str, str, int]],
) -> list[list[str]]:
    return [
        [label, *(cell(mean, ci95, key, digits=digits) for key, _, digits in columns)]
        for label, (mean, ci95) in zip(labels, summaries, strict=True)
    ]


def difference(summary: tuple[Summary, Summary], key: str, *, digits: int) -> str:
    """The cell of a paired difference, with a star when its interval excludes 0."""
    mean, ci95 = summary
    half = ci95[key]
    text = cell(mean, ci95, key, digits=digits)
    certain = half is not None and abs(mean[key]) > half
    return f"{'+' if mean[key] > 0 else ''}{text}{'*' if certain else ''}"
