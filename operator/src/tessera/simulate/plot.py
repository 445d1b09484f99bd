"""The pictures of a simulation, as SVG: acceptance by load and policy, and the cluster over time.

Drawn by matplotlib, which is in the extra `simulate` and imported only when something is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tessera.simulate.errors import BadSimulationInput
from tessera.simulate.measures import Series
from tessera.simulate.statistics import mean_and_half_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HOUR = 3600.0


def check_plotting(path: Path) -> None:
    """Raises BadSimulationInput when matplotlib is not installed or the path cannot be written: before the
    runs, not after them.
    """
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as missing:
        raise BadSimulationInput(
            "--plot needs matplotlib, which is not installed", remedy="Install tessera[simulate]."
        ) from missing
    if not path.absolute().parent.is_dir():
        raise BadSimulationInput(f"--plot {path}", "its directory does not exist")


def plot_online(path: Path, runs: Sequence[Mapping[str, Any]], series: Mapping[str, Series]) -> None:
    """Acceptance above (one panel per mix), the cluster over time below; `series` by policy."""
    mixes = list(dict.fromkeys(run["mix"] for run in runs))
    figure = new_figure(width=max(8.0, 3.2 * len(mixes)), height=8.0)
    above, below = figure.subfigures(2, 1, squeeze=False)[:, 0]
    for column, mix in enumerate(mixes):
        axes = above.add_subplot(1, len(mixes), column + 1)
        _acceptance(axes, [run for run in runs if run["mix"] == mix], title=mix)
    _over_time(below.add_subplot(1, 1, 1), series, title=f"{mixes[0]}, load {runs[0]['load']:g}, seed 0")
    save(figure, path)


def plot_replay(path: Path, series: Mapping[str, Series]) -> None:
    """The cluster over time; `series` by policy."""
    figure = new_figure(width=8.0, height=4.0)
    _over_time(figure.add_subplot(1, 1, 1), series, title="")
    save(figure, path)


def new_figure(*, width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path) -> None:
    """Write a figure as SVG. Raises BadSimulationInput when it cannot be written."""
    import matplotlib

    # No date and fixed ids: the same runs give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "tessera", "svg.fonttype": "none"}):
        try:
            figure.savefig(path, format="svg", metadata={"Date": None})
        except OSError as error:
            raise BadSimulationInput(f"the picture {path} cannot be written", str(error)) from error


def _acceptance(axes: Axes, runs: Sequence[Mapping[str, Any]], *, title: str) -> None:
    """Slice acceptance over load, a line per policy; bars when there is one load."""
    loads = sorted({run["load"] for run in runs})
    policies = list(dict.fromkeys(run["policy"] for run in runs))
    lowest = 100.0
    for number, policy in enumerate(policies):
        means, halves = [], []
        for load in loads:
            values = [r["slice_acceptance_pct"] for r in runs if r["policy"] == policy and r["load"] == load]
            mean, half = mean_and_half_width(values)
            means.append(mean)
            halves.append(half or 0.0)
        lowest = min(lowest, *means)
        if len(loads) > 1:
            axes.errorbar(loads, means, yerr=halves, marker="o", markersize=3, capsize=2, label=policy)
        else:
            axes.errorbar([means[0]], [number], xerr=[halves[0]], marker="o", capsize=2, linestyle="none")
    pool = [mean_and_half_width([r["ideal_pool_pct"] for r in runs if r["load"] == at])[0] for at in loads]
    if len(loads) > 1:
        axes.plot(loads, pool, color="black", linestyle="--", label="ideal pool")
        # A wide interval must not squeeze the means.
        axes.set_ylim(min(lowest, *pool) - 2, min(100.5, max(pool) + 2))
        axes.set_xlabel("offered load")
        axes.set_ylabel("slice acceptance, %")
        axes.legend(fontsize="x-small")
    else:
        axes.axvline(pool[0], color="black", linestyle="--")
        axes.set_yticks(range(len(policies)), policies, fontsize="small")
        axes.set_ylim(len(policies) - 0.5, -0.5)
        axes.set_xlabel("slice acceptance, % (dashed: ideal pool)", fontsize="small")
    axes.set_title(f"{title}, load {loads[0]:g}" if len(loads) == 1 else title, fontsize="medium")
    axes.grid(alpha=0.3)


def _over_time(axes: Axes, series: Mapping[str, Series], *, title: str) -> None:
    """Occupancy (solid) and fragmentation (dotted) of each policy."""
    for policy, points in series.items():
        hours = [seconds / _HOUR for seconds in points.seconds]
        (line,) = axes.plot(hours, points.utilisation_pct, linewidth=1, label=policy)
        axes.plot(hours, points.fragmentation_pct, linewidth=1, linestyle=":", color=line.get_color())
    axes.set_xlabel("time, hours")
    axes.set_ylabel("occupied (solid) and fragmented (dotted), %")
    axes.set_ylim(0, 101)
    axes.grid(alpha=0.3)
    axes.set_title(title, fontsize="medium")
    axes.legend(fontsize="x-small", loc="center right")
