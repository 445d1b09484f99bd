"""The agent process: settings, wiring, signals. The work is in `node`, `plugin` and `transactions`."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from tessera.agent.cdi import CDIDirectory, device_id
from tessera.agent.checkpoint import CheckpointFile
from tessera.agent.device_nodes import HostFiles
from tessera.agent.fleet import Fleet, FleetSettings
from tessera.agent.measured import MeasuredDriver
from tessera.agent.node import NodeAgent, NodeOptions
from tessera.agent.plugin import Plugin
from tessera.api.errors import TesseraError
from tessera.api.names import AGENT_FIELD_MANAGER
from tessera.gpu.nvml_process import MOST_SIMULATED_GPUS, NVMLProcess, Simulation
from tessera.gpu.profiles import UnknownModel, board
from tessera.kube.client import KubeClient
from tessera.metrics.registry import BUILD_INFO
from tessera.metrics.server import start_server

log = logging.getLogger(__name__)

_STALLED_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """Everything that can be set for one agent."""

    node_name: str
    """The Node it serves."""
    kubelet_dir: Path
    """The kubelet's root directory, at the same path inside the agent's container:

    the registration answer carries it.
    """
    cdi_dir: Path
    """Where the container runtime looks for CDI specs."""
    state_dir: Path
    """Where the checkpoint (and the simulator's state) is kept over restarts."""
    cdi_mode: Literal["environment", "device-nodes"] = "environment"
    """How a slice gets into a container.

    environment: NVIDIA's container runtime does it, for a variable that the spec sets. device-nodes: the spec
    names the device nodes and the driver's files itself.
    """
    host_root: Path = Path("/")
    """Where `device-nodes` finds the host's `/proc/devices` and `/proc/driver/nvidia`."""
    port: int = 8080
    """Port of `/metrics`, `/healthz` and `/readyz`; 0 takes a free one."""
    kubeconfig: Path | None = None
    """Credentials; None means the pod's service account, else the default kubeconfig."""
    simulate: str | None = None
    """Model to simulate instead of using a driver."""
    simulate_count: int = 2
    """Number of simulated GPUs; 0 is a node without any."""
    enable_mig: bool = False
    """Switch MIG mode on at idle GPUs without a MIGPartition asking; always so with the simulator."""
    nvml_timeout_seconds: float = 30.0
    """Time limit of one NVML request."""


class BadSettings(TesseraError):
    """A setting that cannot work."""


def check_model(model: str, count: int) -> None:
    """Raises `BadSettings` for a model that cannot be simulated, or a count outside 1..64."""
    try:
        board(model)
    except UnknownModel as error:
        raise BadSettings("--simulate cannot be used", str(error), "Choose one of these names") from None
    if not 1 <= count <= MOST_SIMULATED_GPUS:
        raise BadSettings(
            "--simulate-count cannot be used",
            f"{count} is not 1..{MOST_SIMULATED_GPUS}",
            "Choose a number of GPUs",
        )


def host_files(settings: AgentSettings) -> HostFiles | None:
    """Where device nodes and driver files come from; None where NVIDIA's container runtime sees to them.

    Raises `BadSettings` where simulated slices shall have device nodes.
    """
    if settings.cdi_mode == "environment":
        return None
    if settings.simulate is not None:
        raise BadSettings(
            "--cdi-mode device-nodes cannot be used",
            "a simulated slice has no device nodes",
            "Leave it out, or --simulate",
        )
    return HostFiles(settings.host_root, settings.cdi_dir)


def stop_on_signal() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def run(settings: AgentSettings) -> None:
    """Serve until SIGTERM or SIGINT.

    A simulation that cannot be is no reason to end: the GPUNode says so, like a missing driver. Raises
    `TesseraError` when a directory, socket or port cannot be used, and for settings that contradict.
    """
    host = host_files(settings)
    _tell_version("agent")
    stop = stop_on_signal()
    client = await KubeClient.connect(
        kubeconfig=settings.kubeconfig, user_agent="tessera-agent", field_manager=AGENT_FIELD_MANAGER
    )
    async with client:
        await _serve(settings, client, stop, host)


def _tell_version(process: str) -> None:
    BUILD_INFO.labels(process, version("tessera")).set(1)


async def _serve(
    settings: AgentSettings, client: KubeClient, stop: asyncio.Event, host: HostFiles | None
) -> None:
    simulation = None
    if settings.simulate is not None:
        simulation = Simulation(
            state_dir=str(settings.state_dir / "simulator"),
            model=settings.simulate,
            count=settings.simulate_count,
            seed=settings.node_name,
        )
    driver = MeasuredDriver(NVMLProcess(simulation, timeout_seconds=settings.nvml_timeout_seconds))
    node = NodeAgent(
        client=client,
        driver=driver,
        checkpoint=CheckpointFile(settings.state_dir / "checkpoint.json"),
        cdi=CDIDirectory(settings.cdi_dir, simulated=simulation is not None, host=host),
        options=NodeOptions(
            name=settings.node_name,
            enable_mig=settings.enable_mig or simulation is not None,
        ),
    )
    node.open()
    plugin = Plugin(
        node,
        pool=settings.node_name,
        kubelet_dir=settings.kubelet_dir,
        cdi_device_id=device_id,
        on_registration=lambda: _registered(node, plugin),
    )

    async def alive() -> str | None:
        silence = time.monotonic() - node.last_attempt
        return f"no refresh for {silence:.0f} s" if silence > _STALLED_SECONDS else None

    async def ready() -> str | None:
        return None if node.refreshed else "the first refresh has not succeeded; see the log"

    server = await start_server(settings.port, checks={"node": ready}, health_checks={"refresh loop": alive})
    refreshing = asyncio.create_task(node.serve(), name="refresh")
    try:
        await plugin.start()
        log.info("agent of node %s serves %s", settings.node_name, plugin.dra_socket)
        await until(stop, refreshing)
    finally:
        await plugin.stop()
        refreshing.cancel()
        await asyncio.gather(refreshing, return_exceptions=True)
        await node.flush_events()
        await driver.close()
        await server.stop()


async def until(stop: asyncio.Event, work: asyncio.Task[None]) -> None:
    """Wait for the signal; work that ends by itself is a defect: its error is raised and ends the process."""
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({stopping, work}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    if work.done():
        work.result()


async def run_fleet(settings: FleetSettings, *, port: int, kubeconfig: Path | None) -> None:
    """Serve all simulated nodes until SIGTERM or SIGINT.

    Raises `TesseraError` for a setting that cannot work (`BadSettings`) or a port that cannot be opened.
    """
    check_model(settings.model, settings.count)
    _tell_version("fleet")
    stop = stop_on_signal()
    client = await KubeClient.connect(
        kubeconfig=kubeconfig, user_agent="tessera-fleet", field_manager=AGENT_FIELD_MANAGER
    )
    async with client:
        fleet = Fleet(client, settings)

        async def ready() -> str | None:
            return None if fleet.published else "no simulated node is published yet"

        server = await start_server(port, checks={"nodes": ready})
        work = asyncio.create_task(fleet.run(), name="fleet")
        try:
            await until(stop, work)
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            await server.stop()


def _registered(node: NodeAgent, plugin: Plugin) -> None:
    node.registered = plugin.registered
    node.poke()
