"""`tessera gpu list`: the GPUs of this machine and their instances."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import click

from tessera.cli.gpu_picture import console, machine_object, machine_picture
from tessera.cli.gpu_source import Simulated, opened, read_settled, source_options
from tessera.relayout.reading import Machine


@click.command("list")
@source_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(simulate: Simulated | None, state: Path | None, as_json: bool) -> None:
    """Show the GPUs of this machine: MIG mode, and the instances as a mosaic of memory slices."""
    machine = asyncio.run(_read(simulate, state))
    if as_json:
        click.echo(json.dumps(machine_object(machine), indent=2))
    else:
        out = console()
        out.print(machine_picture(machine, width=out.width))


async def _read(simulate: Simulated | None, state: Path | None) -> Machine:
    async with opened(simulate, state) as source:
        return await read_settled(source)
