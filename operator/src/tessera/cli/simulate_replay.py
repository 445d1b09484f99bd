"""`tessera simulate replay`: parse the options, run, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tessera.cli.simulate_options import (
    arms_of,
    arms_options,
    cluster_options,
    json_option,
    log_file,
    log_option,
    plot_option,
    progress_bar,
)

if TYPE_CHECKING:
    from tessera.simulate.measures import Series


@click.command("replay")
@cluster_options
@click.option(
    "--events",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE.csv",
    help="The workload: CSV with time,id,op,profile,movable; op is arrive or depart.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Seeds 0 to N-1, for policies that use chance.",
)
@arms_options
@json_option
@log_option
@plot_option
def command(
    events: Path, seeds: int, as_json: bool, log: Path | None, plot: Path | None, **options: Any
) -> None:
    """Replay a recorded or hand-made workload, event by event.

    What fits nowhere when it arrives is lost. All requests count; nothing is taken as warm-up.
    """
    from tessera.simulate.cluster import parse_cluster
    from tessera.simulate.comparison import IDENTIFY, print_comparison
    from tessera.simulate.decision_log import write_log
    from tessera.simulate.experiment import run_arms
    from tessera.simulate.plot import check_plotting, plot_replay
    from tessera.simulate.replay import read_events
    from tessera.simulate.report import print_json, report_object, versions

    cluster = parse_cluster(options["models"], gpus=options["gpus"])
    arms = arms_of(options)
    if plot is not None:
        check_plotting(plot)
    workload = read_events(events, cluster)
    cluster = cluster.offering(workload.profiles)
    several = seeds * len(arms.policies) > 1
    runs: list[dict[str, Any]] = []
    series: dict[str, Series] = {}
    with log_file(log) as file, progress_bar(len(workload.events) * seeds * len(arms.policies)) as bar:
        for seed in range(seeds):
            bar.begins(f"{events.name}, seed {seed}")
            for result in run_arms(workload, cluster, arms, head={}, seed=seed, progress=bar):
                figures = result.figures
                runs.append(figures)
                series.setdefault(figures["policy"], result.series)
                if file is not None:
                    named = {key: figures[key] for key in ("policy", *IDENTIFY)} if several else None
                    write_log(file, workload, cluster, result.outcome, run=named)
    runs.sort(key=lambda run: arms.policies.index(run["policy"]))
    if plot is not None:
        plot_replay(plot, series)
    if as_json:
        config = {
            **cluster.report(),
            "events": str(events),
            "requests": len(workload),
            "counted_from": workload.counted_from,
            "seeds": list(range(seeds)),
            **arms.config(),
            **versions(),
        }
        print_json(report_object(config, runs, identify=IDENTIFY, arms=("policy",)))
    else:
        print_comparison(runs, title=f"{events.name}, {len(workload):,} requests, {cluster.title()}")
