"""`tessera agent`: parse the flags of the node agent and run it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

import click

from tessera.cli.process_options import log_level_option, port_option


@click.command("agent")
@click.option("--node-name", envvar="NODE_NAME", required=True, help="The Node that this agent serves.")
@click.option(
    "--kubelet-dir",
    type=click.Path(path_type=Path),
    default=Path("/var/lib/kubelet"),
    show_default=True,
    help="The kubelet's root directory, at the same path as on the host.",
)
@click.option(
    "--cdi-dir",
    type=click.Path(path_type=Path),
    default=Path("/var/run/cdi"),
    show_default=True,
    help="Where the container runtime looks for CDI specs.",
)
@click.option(
    "--cdi-mode",
    type=click.Choice(["environment", "device-nodes"]),
    default="environment",
    show_default=True,
    help="How a slice gets into a container: by a variable for NVIDIA's container runtime, or by nodes "
    "and files of the driver, for any runtime.",
)
@click.option(
    "--host-root",
    type=click.Path(path_type=Path),
    default=Path("/"),
    show_default=True,
    help="Where device-nodes finds the host's /proc/devices and /proc/driver/nvidia.",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    default=Path("/var/lib/tessera"),
    show_default=True,
    help="Where the checkpoint is kept.",
)
@click.option("--simulate", metavar="MODEL", help="Simulate GPUs of this model, e.g. H100-80GB.")
@click.option("--simulate-count", type=int, default=2, show_default=True, help="How many GPUs to simulate.")
@click.option(
    "--enable-mig",
    is_flag=True,
    help="Switch MIG mode on at idle GPUs (always so with --simulate).",
)
@port_option
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="Credentials outside a pod.")
@log_level_option
def command(
    node_name: str,
    kubelet_dir: Path,
    cdi_dir: Path,
    cdi_mode: Literal["environment", "device-nodes"],
    host_root: Path,
    state_dir: Path,
    simulate: str | None,
    simulate_count: int,
    enable_mig: bool,
    port: int,
    kubeconfig: Path | None,
    log_level: str,
) -> None:
    """Run the node agent that cuts the slices."""
    from tessera.agent.main import AgentSettings, run
    from tessera.kube.logging import setup_logging

    setup_logging("agent", level=log_level)
    asyncio.run(
        run(
            AgentSettings(
                node_name=node_name,
                kubelet_dir=kubelet_dir,
                cdi_dir=cdi_dir,
                cdi_mode=cdi_mode,
                host_root=host_root,
                state_dir=state_dir,
                port=port,
                kubeconfig=kubeconfig,
                simulate=simulate,
                simulate_count=simulate_count,
                enable_mig=enable_mig,
            )
        )
    )
