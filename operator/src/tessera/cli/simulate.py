"""`tessera simulate`: the group of simulations; each member parses its options and calls one function."""

from __future__ import annotations

import click

from tessera.cli.lazy_group import LazyGroup, Target

SIMULATIONS: dict[str, Target] = {
    "online": Target("tessera.cli.simulate_online:command", "Requests that come, stay and go, at a load."),
    "replay": Target("tessera.cli.simulate_replay:command", "A recorded workload, event by event."),
    "trace": Target("tessera.cli.simulate_trace:command", "The openb trace: fractions of GPUs, as FGD."),
    "queue": Target("tessera.cli.simulate_queue:command", "Jobs that wait for slices, as in MIGBench."),
}


@click.group("simulate", cls=LazyGroup, targets=SIMULATIONS)
def command() -> None:
    """Try placement policies on workloads, without a cluster and without a GPU.

    Every simulation uses the engine of the scheduler, prints a table (with --json one JSON object), and gives
    the same answer for the same seeds.
    """
