"""An agent that looks at its node, and what the cluster then reads of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent_api import NODE
from simulation.agent_effects import Effects
from simulation.agent_node import AgentNode, Process
from tessera.api.gpu_node import GPUNodeStatus
from tessera.api.names import UNHEALTHY_TAINT_KEY
from tessera.gpu.driver import Driver
from tessera.gpu.simulator.state import SimulatedGPU
from tessera.kube.resources import NODES


class Looking:
    """A node and the agent process that looks at it."""

    node: AgentNode
    process: Process

    async def refresh(self) -> None:
        """One look, after which the status is as its model says."""
        await self.process.agent.refresh()
        GPUNodeStatus.model_validate(self.status)

    @property
    def status(self) -> dict[str, Any]:
        """The GPUNode's."""
        return self.node.api.status

    @property
    def driver(self) -> Driver:
        """The agent's."""
        driver: Driver = self.process.agent._driver
        return driver

    @property
    def simulator(self) -> Path:
        """Where the simulated GPU is."""
        return self.node.directory / "simulator"

    @property
    def gpu(self) -> SimulatedGPU:
        """The simulated GPU."""
        return self.node.state.read().gpus[0]

    async def claim(self, name: str, place: str) -> str:
        """The claim is placed and prepared; what the kubelet is told."""
        self.node.allocate(name, place)
        return (await self.process.prepare(name))[name]


class Looks(Looking):
    """One agent process on a node, as tests of health and MIG mode use it."""

    def __init__(self, node: AgentNode, process: Process) -> None:
        self.node = node
        self.process = process

    async def look(self) -> tuple[str, str]:
        """One look; reason and message of `Ready`."""
        await self.refresh()
        (ready,) = self.status["conditions"]
        return ready["reason"], ready["message"]

    def want(self, mig_mode: str) -> None:
        """The operator writes the GPU's MIG mode into the spec."""
        self.node.want(mig_mode)

    def label(self, labels: dict[str, str]) -> None:
        """The Node has these labels and no others."""
        key = (NODES.kind, NODE)
        metadata = self.node.api.objects[key]["metadata"]
        self.node.api.objects[key] = {"metadata": {**metadata, "labels": labels}}

    def devices(self) -> Sequence[dict[str, Any]]:
        """What is published."""
        return self.node.api.devices()

    def taints(self) -> dict[str, str]:
        """`value:effect` of the taint for what is broken, by `profile@start` of the devices that have it."""
        return {
            place: f"{taint['value']}:{taint['effect']}"
            for place, taints in self.node.api.taints().items()
            for taint in taints
            if taint["key"] == UNHEALTHY_TAINT_KEY
        }


@contextmanager
def looking(node: AgentNode, effects: Effects | None = None) -> Iterator[Looks]:
    """A new agent process on the node."""
    with node.start(effects) as process:
        yield Looks(node, process)
