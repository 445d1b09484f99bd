"""`tessera gpu`: the group of commands for one machine, without Kubernetes."""

from __future__ import annotations

import click

from tessera.cli.lazy_group import LazyGroup, Target

COMMANDS: dict[str, Target] = {
    "list": Target("tessera.cli.gpu_list:command", "The GPUs and their instances."),
    "layout": Target("tessera.cli.gpu_change:layout", "What a layout would change; changes nothing."),
    "apply": Target("tessera.cli.gpu_change:apply", "Give the GPUs a layout, or leave them as they were."),
    "check": Target("tessera.cli.gpu_change:check", "Exit 0 when the layout is as asked, 1 when not."),
    "import": Target("tessera.cli.gpu_import:command", "MIGPartitions from a file of NVIDIA's mig-parted."),
}


@click.group("gpu", cls=LazyGroup, targets=COMMANDS)
def command() -> None:
    """Show and change the MIG layout of this machine's GPUs, without Kubernetes.

    With --simulate H200-141GB[:COUNT] everything happens on simulated GPUs, which are remembered between
    calls. A change that was cut off, even by kill -9, is settled by the next call of any of these commands.
    """
