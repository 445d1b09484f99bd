"""The picture of `tessera simulate queue`: waits and utilisation of each arm, one panel per measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tessera.simulate.plot import new_figure, save
from tessera.simulate.queueing.experiment import ARM_KEYS
from tessera.simulate.report import arm_label, varying
from tessera.simulate.statistics import mean_and_half_width

_PANELS = (
    ("wait_mean_seconds", "mean wait, s"),
    ("wait_p95_seconds", "95th percentile of the wait, s"),
    ("makespan_seconds", "makespan, s"),
    ("utilisation_pct", "compute in use, %"),
)


def plot_queue(path: Path, runs: Sequence[Mapping[str, Any]]) -> None:
    """Draw the arms as SVG with 95 % intervals. Raises BadSimulationInput when it cannot be written."""
    told_by = varying(runs, ARM_KEYS)
    labels = list(dict.fromkeys(arm_label(run, told_by) for run in runs))
    figure = new_figure(width=11.0, height=2.0 + 0.55 * len(labels))
    for number, (key, text) in enumerate(_PANELS):
        axes = figure.add_subplot(2, 2, number + 1)
        for row, label in enumerate(labels):
            mean, half = mean_and_half_width([run[key] for run in runs if arm_label(run, told_by) == label])
            axes.errorbar([mean], [row], xerr=[half or 0.0], marker="o", capsize=2, linestyle="none")
        axes.set_yticks(
            range(len(labels)), labels if number % 2 == 0 else [""] * len(labels), fontsize="small"
        )
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlabel(text, fontsize="small")
        axes.grid(alpha=0.3)
    save(figure, path)
