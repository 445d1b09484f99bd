"""What a simulation prints: one JSON object for machines, or tables of at most 80 columns for people.

The object is `{"config": {...}, "runs": [{...}], "mean": {...}, "ci95": {...}}`. When the runs belong to
several arms (policies, loads, mixes), `mean` and `ci95` have one entry per arm under its label.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from tessera.simulate.statistics import Summary, summarise

WIDTH = 80
"""Columns of a table: what the narrowest usual terminal shows."""

Run = Mapping[str, Any]


def report_object(
    config: Mapping[str, Any],
    runs: Sequence[Run],
    *,
    identify: Sequence[str] = ("seed",),
    arms: Sequence[str] = (),
) -> dict[str, Any]:
    """The JSON object. `identify` are keys that name a run and have no mean; `arms` are the keys that tell
    arms apart.

    With one arm, `mean` and `ci95` map keys to numbers; with several, labels of arms to such mappings.
    """
    hidden = {*identify, *arms}
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        measured = {key: value for key, value in run.items() if key not in hidden}
        grouped.setdefault(arm_label(run, varying(runs, arms)), []).append(measured)
    summaries = {label: summarise(members) for label, members in grouped.items()}
    if len(summaries) == 1:
        ((mean, ci95),) = summaries.values()
    else:
        mean = {label: summary[0] for label, summary in summaries.items()}
        ci95 = {label: summary[1] for label, summary in summaries.items()}
    return {"config": dict(config), "runs": [dict(run) for run in runs], "mean": mean, "ci95": ci95}


def versions() -> dict[str, str]:
    """For `config`: what a result may depend on beside the options."""
    return {"tessera": version("tessera"), "python": platform.python_version()}


def varying(runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    """Those of the keys that have more than one value over the runs."""
    return [key for key in keys if len({run[key] for run in runs}) > 1]


def arm_label(run: Run, keys: Sequence[str]) -> str:
    """The values of these keys, joined; empty when there is nothing to tell apart."""
    return " / ".join(str(run[key]) for key in keys)


def rounded(value: Any, *, digits: int = 6) -> Any:
    """The value with its floats rounded, so that JSON has no digits beyond what a seed decides."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, Mapping):
        return {key: rounded(inner, digits=digits) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner, digits=digits) for inner in value]
    return value


def print_json(report: Mapping[str, Any]) -> None:
    """One object on standard output."""
    click.echo(json.dumps(rounded(report), indent=2))


def with_interval(mean: float | None, half_width: float | None, *, digits: int = 1) -> str:
    """`90.5 ± 0.3`; without the interval when there is only one run; a dash when there is no number."""
    if mean is None:
        return "-"
    text = f"{mean:,.{digits}f}"
    if text.strip("-0.,") == "":
        text = text.lstrip("-")
    return text if half_width is None else f"{text} ± {half_width:,.{digits}f}"


def cell(mean: Summary, ci95: Summary, key: str, *, digits: int = 1) -> str:
    """The cell of a key of a summary."""
    return with_interval(mean.get(key), ci95.get(key), digits=digits)


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)
) -> None:
    """A table on standard output, at most 80 columns wide; the columns in `left` are text, others numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, show_edge=False)
    for position, column in enumerate(columns):
        text = position in left
        table.add_column(column, justify="left" if text else "right", overflow="fold", no_wrap=not text)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    console.width = min(console.width, WIDTH)
    console.print(title, style="bold")
    console.print(table)
    console.print()
