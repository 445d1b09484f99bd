"""`tessera simulate queue`: parse the options, run, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tessera.cli.simulate_options import (
    interruption_options,
    json_option,
    plot_option,
    policy_option,
    progress_bar,
)

if TYPE_CHECKING:
    from tessera.simulate.queueing.experiment import Arm, Experiment


@click.command("queue")
@click.option("--model", "model_name", default="H100-80GB", show_default=True, help="GPU model.")
@click.option("--nodes", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--gpus-per-node", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--jobs", type=click.IntRange(min=1), default=500, show_default=True)
@click.option(
    "--offered-load",
    "loads",
    type=click.FloatRange(min=0, min_open=True),
    multiple=True,
    help="Work that arrives / work that the cluster can do. Several are run in turn.  [default: 1.4]",
)
@click.option(
    "--saturated", is_flag=True, help="The cluster is full at once, then a job every 15 s on average."
)
@click.option(
    "--mix",
    "mix_text",
    metavar="PROFILE=W,…|FILE",
    help="Weights of the profiles, or a CSV file profile,weight.  [default: 1g 35, 2g 25, 3g 25, 7g 5]",
)
@click.option(
    "--demand",
    type=click.Choice(["memory", "memory-and-compute"]),
    default="memory",
    show_default=True,
    help="A job gets the smallest profile with its memory, or with its memory and compute.",
)
@click.option(
    "--cap",
    "cap_seconds",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="No job is longer (before it is slowed down by a smaller slice).",
)
@click.option(
    "--geometry",
    type=click.Choice(["memory", "gpc-slots"]),
    default="memory",
    show_default=True,
    help="The hardware's memory slices, or MIGBench's compute slots.",
)
@policy_option(on_the_same="jobs")
@click.option(
    "--order",
    "orders",
    type=click.Choice(["fifo", "smallest-work", "smallest-work-aged", "priority"]),
    multiple=True,
    default=["fifo"],
    show_default=False,
    help="Order in which the queue is tried; several are compared.  [default: fifo]",
)
@click.option(
    "--age-limit",
    type=click.FloatRange(min=0, min_open=True),
    default=3600.0,
    show_default=True,
    metavar="SECONDS",
    help="smallest-work-aged: who has waited so long goes first.",
)
@click.option(
    "--priority-weights",
    metavar="W,…",
    help="Shares of the priorities 0, 1, …  [default: 80,20 with --order priority]",
)
@click.option(
    "--reserve-after",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="A large job that has waited so long reserves the place that drains first.",
)
@click.option(
    "--reserve-profiles",
    metavar="NAME,…",
    help="Who may reserve.  [default: profiles of a whole GPU]",
)
@click.option("--reserve-at-once", type=click.IntRange(min=1), default=1, show_default=True, metavar="N")
@click.option(
    "--reserve-backfill",
    is_flag=True,
    help="Jobs that end before a reserved place is ready may run in it (their length must be known).",
)
@click.option(
    "--max-victims",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="K",
    help="Move up to K running jobs for a waiting one that fits nowhere though enough is free.",
)
@click.option(
    "--max-moves-per-100",
    type=click.FloatRange(min=0),
    metavar="M",
    help="Ration: at most M moves for 100 started jobs.  [default: none]",
)
@click.option(
    "--move-after",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="Only for jobs that have waited so long.",
)
@interruption_options
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    metavar="N",
    help="MIGBench's seeds: 20260914 (its published runs) and the N-1 after it.",
)
@click.option(
    "--trace",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.jsonl",
    help="Play the jobs of a MIGBench trace instead of drawing them.",
)
@json_option
@plot_option
def command(as_json: bool, plot: Path | None, seeds: int, **options: Any) -> None:
    """Jobs wait for slices: makespan, waits, utilisation and fragmentation, as MIGBench measures them.

    By default 500 jobs on 2 nodes with 4 H100, in virtual time, on the very jobs of MIGBench's published
    runs.
    """
    from tessera.simulate.queueing.experiment import ARM_KEYS, conditions, run_all
    from tessera.simulate.queueing.tables import print_runs
    from tessera.simulate.report import print_json, report_object, versions

    experiment, arms = _plan(options)
    if plot is not None:
        from tessera.simulate.plot import check_plotting

        check_plotting(plot)
    if experiment.trace is not None:
        seeds = 1
    with progress_bar(len(arms) * seeds) as bar:
        runs = run_all(experiment, arms, seeds=seeds, progress=lambda: bar.advanced(1))
    if plot is not None:
        from tessera.simulate.queueing.pictures import plot_queue

        plot_queue(plot, runs)
    if as_json:
        config = {**experiment.config(seeds=seeds), **versions()}
        print_json(report_object(config, runs, identify=("seed",), arms=ARM_KEYS))
    else:
        print_runs(runs, title=experiment.title(seeds=seeds), validity=conditions(arms))


def _plan(options: dict[str, Any]) -> tuple[Experiment, list[Arm]]:
    """The experiment and its arms. Raises BadSimulationInput."""
    from tessera.simulate.cluster import model_given
    from tessera.simulate.experiment import policies_given
    from tessera.simulate.queueing.experiment import Arm, Experiment
    from tessera.simulate.queueing.options import (
        mix_given,
        moves_given,
        priorities_given,
        reservation_given,
    )
    from tessera.simulate.queueing.policies import MODELS
    from tessera.simulate.queueing.workload import read_trace, slice_mib

    board = model_given(options["model_name"])
    mix = mix_given(options["mix_text"], board)
    orders = tuple(dict.fromkeys(options["orders"]))
    loads: list[float | None] = list(dict.fromkeys(options["loads"]))
    if options["saturated"]:
        loads.append(None)
    trace = options["trace"]
    experiment = Experiment(
        model=board,
        mix=mix,
        nodes=options["nodes"],
        gpus_per_node=options["gpus_per_node"],
        geometry=options["geometry"],
        jobs=options["jobs"],
        cap_seconds=options["cap_seconds"],
        demand=options["demand"],
        priorities=priorities_given(options["priority_weights"], orders),
        age_limit_seconds=options["age_limit"],
        reservation=reservation_given(options, mix, board),
        moves=moves_given(options),
        trace=None if trace is None else read_trace(trace, mix, slice_mib=slice_mib(board)),
    )
    arms = [
        Arm(policy, order, load)
        for load in loads or [1.4]
        for policy in policies_given(options["policies"], others=MODELS)
        for order in orders
    ]
    return experiment, arms
