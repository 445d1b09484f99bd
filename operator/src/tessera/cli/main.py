"""`tessera`: one command line for every process and every tool.

A sub-command is imported only when it is used: the agent need not load the operator's framework, and
`tessera --help` answers at once. An error that we understand is printed as one plain line (what, why,
remedy) and ends with status 1; set `TESSERA_DEBUG=1` to see where it came from.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version

import click

from tessera.api.errors import TesseraError
from tessera.cli.lazy_group import LazyGroup, Target

DEBUG_VARIABLE = "TESSERA_DEBUG"


COMMANDS: dict[str, Target] = {
    "operator": Target("tessera.cli.operator:command", "Run the operator (one leader of its replicas acts)."),
    "scheduler": Target("tessera.cli.scheduler:command", "Run the allocator that places claims on slices."),
    "agent": Target("tessera.cli.agent:command", "Run the node agent that cuts the slices."),
    "fleet": Target("tessera.cli.fleet:command", "Publish simulated GPU nodes for tests at scale."),
    "local": Target("tessera.cli.local:command", "Start, stop and inspect a local cluster."),
    "top": Target("tessera.cli.top:command", "Show the mosaic of slices and the progress of jobs."),
    "simulate": Target("tessera.cli.simulate:command", "Try placement policies on workloads, offline."),
    "pack": Target("tessera.cli.pack:command", "The fewest GPUs for a list of requests or services."),
    "gpu": Target("tessera.cli.gpu:command", "Show and change the layout of this machine's GPUs."),
    "explain": Target("tessera.cli.explain:command", "Say why a pod has no slice yet, and what would help."),
    "generate": Target("tessera.cli.generate:command", "Write the generated files: CRDs, schemas, tables."),
    "demo": Target("tessera.cli.demo:command", "Run the demonstration on a local cluster."),
}


@click.group(cls=LazyGroup, targets=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("tessera"), prog_name="tessera")
def command() -> None:
    """Slice NVIDIA GPUs with MIG and run work on the slices."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point: run the command line and exit with its status."""
    try:
        command.main(args=arguments, prog_name="tessera")
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE) == "1":
            raise
        line = explain(error)
        if line is None:
            raise
        click.echo(f"error: {line}", err=True)
        sys.exit(1)


def explain(error: BaseException) -> str | None:
    """One line for an error that a user can act on; None for a defect, which deserves its traceback."""
    # Imported here: the client is not needed to print `tessera --help`.
    from tessera.kube.errors import ApiError

    if isinstance(error, TesseraError | ApiError):
        return " ".join(str(error).split())
    if isinstance(error, BaseExceptionGroup):
        lines = [explain(inner) for inner in error.exceptions]
        known = [line for line in lines if line is not None]
        return "; ".join(dict.fromkeys(known)) if known and len(known) == len(lines) else None
    return None
