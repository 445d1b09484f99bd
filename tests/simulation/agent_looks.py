"""An agent that looks at its node, and what the cluster then reads of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_api import NODE
from simulation.agent_effects import Effects
from simulation.agent_node import AgentNode, Process
from tessera.api.gpu_node import GPUNodeStatus
from tessera.api.names import UNHEALTHY_TAINT_KEY
from tessera.gpu.simulator.state import SimulatedGPU
from tessera.kube.resources import GPU_NODES, NODES, RESOURCE_SLICES


@dataclass
class Looks:
    """One agent process on a node."""

    node: AgentNode
    process: Process

    async def look(self) -> tuple[str, str]:
        """One look; reason and message of `Ready`."""
        await self.process.agent.refresh()
        GPUNodeStatus.model_validate(self.status)
        (ready,) = self.status["conditions"]
        return ready["reason"], ready["message"]

    @property
    def status(self) -> dict[str, Any]:
        """The GPUNode's."""
        status: dict[str, Any] = self.node.api.objects[GPU_NODES.kind, NODE]["status"]
        return status

    @property
    def simulator(self) -> Path:
        """Where the simulated GPU is."""
        return self.node.directory / "simulator"

    @property
    def gpu(self) -> SimulatedGPU:
        """The simulated GPU."""
        return self.node.state.read().gpus[0]

    def want(self, mig_mode: str) -> None:
        """The operator writes the GPU's MIG mode into the spec."""
        self.node.api._specify({"uuid": self.gpu.uuid, "partition": "p", "migMode": mig_mode})

    def label(self, **labels: str) -> None:
        """The Node has these labels, with `nvidia.com/` before each, and no others."""
        key = (NODES.kind, NODE)
        metadata = self.node.api.objects[key]["metadata"]
        named = {f"nvidia.com/{name.replace('__', '.')}": value for name, value in labels.items()}
        self.node.api.objects[key] = {"metadata": {**metadata, "labels": named}}

    def devices(self) -> list[dict[str, Any]]:
        """What is published."""
        return [
            device
            for (kind, _), item in self.node.api.objects.items()
            if kind == RESOURCE_SLICES.kind
            for device in item["spec"].get("devices") or []
        ]

    def taints(self) -> dict[str, str]:
        """`value:effect` of the taint for what is broken, by `profile@start` of the devices that have it."""
        return {
            f"{device['attributes']['profile']['string']}@{device['attributes']['start']['int']}": (
                f"{taint['value']}:{taint['effect']}"
            )
            for device in self.devices()
            for taint in device["taints"]
            if taint["key"] == UNHEALTHY_TAINT_KEY
        }

    async def claim(self, name: str, place: str) -> str:
        """The claim is placed and prepared; what the kubelet is told."""
        self.node.allocate(name, place)
        return (await self.process.prepare(name))[name]


@contextmanager
def looking(node: AgentNode, effects: Effects | None = None) -> Iterator[Looks]:
    """A new agent process on the node."""
    with node.start(effects) as process:
        yield Looks(node, process)
