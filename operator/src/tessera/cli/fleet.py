"""`tessera fleet`: parse the flags of the simulated fleet and run it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from tessera.cli.process_options import log_level_option, port_option


@click.command("fleet")
@click.option(
    "--simulate", metavar="MODEL", default="H100-80GB", show_default=True, help="GPU model of every node."
)
@click.option("--simulate-count", type=int, default=2, show_default=True, help="GPUs per node.")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    required=True,
    help="Where the simulated nodes keep their state.",
)
@port_option
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="Credentials outside a pod.")
@log_level_option
def command(
    simulate: str,
    simulate_count: int,
    state_dir: Path,
    port: int,
    kubeconfig: Path | None,
    log_level: str,
) -> None:
    """Publish GPUs for the Nodes labelled tessera.dev/simulated-gpus=true, and prepare their claims."""
    from tessera.agent.fleet import FleetSettings
    from tessera.agent.main import run_fleet
    from tessera.kube.logging import setup_logging

    setup_logging("fleet", level=log_level)
    settings = FleetSettings(state_dir=state_dir, model=simulate, count=simulate_count)
    asyncio.run(run_fleet(settings, port=port, kubeconfig=kubeconfig))
