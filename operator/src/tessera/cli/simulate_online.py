"""`tessera simulate online`: parse the options, run, print."""

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
    from tessera.simulate.experiment import OnlinePlan


@click.command("online")
@cluster_options
@click.option(
    "--load",
    "loads",
    type=float,
    multiple=True,
    default=(1.0,),
    help="Offered load: slices asked for / slices there are. Several are run in turn.  [default: 1.0]",
)
@click.option(
    "--mix",
    "mixes",
    multiple=True,
    default=("uniform",),
    metavar="NAME|FILE",
    help="uniform, skew-small, skew-big, bimodal, or a CSV file profile,weight. Several are run in turn."
    "  [default: uniform]",
)
@click.option(
    "--lifetime",
    default="exponential",
    show_default=True,
    metavar="KIND|FILE",
    help="exponential, lognormal:SIGMA, or a file with one lifetime in seconds a line.",
)
@click.option("--mean-lifetime", type=float, help="Mean lifetime in seconds.  [default: 3600]")
@click.option(
    "--arrivals",
    type=click.IntRange(min=1),
    help="Requests per run; the first 30 % are not counted."
    "  [default: 40000, or 10 lifetimes where that is more]",
)
@click.option(
    "--seeds", type=click.IntRange(min=1), default=5, show_default=True, metavar="N", help="Seeds 0 to N-1."
)
@click.option(
    "--known-mix",
    is_flag=True,
    help="Tell the shares of the mix to policies that would estimate them from the arrivals.",
)
@arms_options
@json_option
@log_option
@plot_option
def command(as_json: bool, log: Path | None, plot: Path | None, **options: Any) -> None:
    """Requests arrive at an offered load, stay a while and leave; what fits nowhere is lost.

    Reports how much was accepted, by slices, by count and by profile, and how far that is from an ideal pool
    without geometry on the same requests.
    """
    from tessera.simulate.comparison import ARMS, IDENTIFY, print_comparison
    from tessera.simulate.decision_log import write_log
    from tessera.simulate.experiment import Result, run_online
    from tessera.simulate.plot import check_plotting, plot_online
    from tessera.simulate.report import print_json, report_object, versions

    plan = _plan(options)
    if plot is not None:
        check_plotting(plot)
    for warning in plan.warnings():
        click.echo(f"note: {warning}", err=True)
    series = {}
    with log_file(log) as file, progress_bar(plan.events()) as bar:

        def keep(result: Result) -> None:
            figures = result.figures
            if file is not None:
                named = (
                    {key: figures[key] for key in (*ARMS, *IDENTIFY)} if plan.number_of_runs() > 1 else None
                )
                write_log(file, result.workload, plan.cluster, result.outcome, run=named)
            first = (plan.mixes[0].name, plan.loads[0], 0)
            if (figures["mix"], figures["load"], figures["seed"]) == first:
                series[figures["policy"]] = result.series

        runs = run_online(plan, progress=bar, keep=keep)
    if plot is not None:
        plot_online(plot, runs, series)
    if as_json:
        config = {**plan.config(), **versions()}
        print_json(report_object(config, runs, identify=IDENTIFY, arms=ARMS))
    else:
        print_comparison(runs, title=plan.title())


def _plan(options: dict[str, Any]) -> OnlinePlan:
    from tessera.simulate.cluster import parse_cluster
    from tessera.simulate.experiment import OnlinePlan
    from tessera.simulate.lifetimes import lifetimes_of
    from tessera.simulate.mixes import mix_of

    cluster = parse_cluster(options["models"], gpus=options["gpus"])
    mixes = tuple(mix_of(text, cluster) for text in dict.fromkeys(options["mixes"]))
    return OnlinePlan(
        cluster=cluster.offering(profile for mix in mixes for profile in mix.shares),
        mixes=mixes,
        loads=tuple(dict.fromkeys(options["loads"])),
        lifetimes=lifetimes_of(options["lifetime"], mean_seconds=options["mean_lifetime"]),
        arrivals=options["arrivals"],
        seeds=options["seeds"],
        arms=arms_of(options),
    )
