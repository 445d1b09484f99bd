"""`tessera simulate trace`: parse the options, run, print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tessera.cli.simulate_options import json_option, policy_option, progress_bar

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("trace")
@click.option("--nodes", type=_FILE, required=True, metavar="CSV", help="Node list of the openb trace.")
@click.option(
    "--pods",
    type=_FILE,
    multiple=True,
    required=True,
    metavar="CSV",
    help="Pod list of the openb trace, any variant. Several are run in turn.",
)
@policy_option(on_the_same="draws")
@click.option(
    "--tune",
    type=float,
    default=1.3,
    show_default=True,
    help="Arrived demand at the end / GPUs of the cluster.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    metavar="N",
    help="Number of runs, with the seeds 42 to 41+N; 10 are the published ones.",
)
@click.option(
    "--first-seed", type=click.IntRange(min=0), default=42, show_default=True, help="Another first seed."
)
@click.option(
    "--node-order",
    type=click.Choice(["published", "file"]),
    default="published",
    show_default=True,
    help="Which of two equal nodes wins: the random order of the published runs, or the first name.",
)
@json_option
def command(nodes: Path, pods: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Place the pods of a recorded trace, with fractions of GPUs, as the FGD paper did.

    Pods arrive in random order and never leave, until they ask for TUNE times the GPUs. Reported is the
    share of the GPUs that is allocated, and the fragmentation as FGD defines it, when the arrived demand
    has reached 90, 100, 110 and 130 %.
    """
    from tessera.simulate.errors import BadSimulationInput

    try:
        import numpy
    except ModuleNotFoundError as missing:
        raise BadSimulationInput(
            "tessera simulate trace needs numpy, which is not installed", remedy="Install tessera[simulate]."
        ) from missing
    from tessera.simulate.openb.experiment import (
        PodList,
        TracePlan,
        pod_list_name,
        policies_given,
        run_trace,
    )
    from tessera.simulate.openb.tables import ARMS, IDENTIFY, print_trace
    from tessera.simulate.openb.trace import read_nodes, read_pods
    from tessera.simulate.report import print_json, report_object, versions

    first, count = options["first_seed"], options["seeds"]
    plan = TracePlan(
        nodes=read_nodes(nodes),
        lists=[PodList(pod_list_name(path), read_pods(path)) for path in dict.fromkeys(pods)],
        policies=policies_given(options["policies"]),
        tune=options["tune"],
        seeds=range(first, first + count),
        node_order=options["node_order"],
    )
    with progress_bar(plan.number_of_runs()) as bar:
        runs = run_trace(plan, progress=bar)
    if not as_json:
        print_trace(runs, title=f"{len(plan.nodes)} nodes, {count} seeds from {first}")
        return
    config = {
        "nodes": nodes.name,
        "pods": [path.name for path in pods],
        "policies": list(plan.policies),
        "tune": plan.tune,
        "seeds": list(plan.seeds),
        "node_order": plan.node_order,
        **versions(),
        "numpy": numpy.__version__,
    }
    print_json(report_object(config, runs, identify=IDENTIFY, arms=ARMS))
