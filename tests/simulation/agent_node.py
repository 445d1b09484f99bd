"""A node whose agent may die: simulated GPUs, a disk, an API server, and a kubelet that asks again.

`start` is a new agent process: it knows what is on the disk, nothing else. Everything that a test asks about
the node goes around the agent.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent_api import NODE, MemoryAPI
from simulation.agent_effects import Answers, Effects, Known, WatchedAPI, WatchedDriver, WatchedInjector
from tessera.agent.cdi import CDIDirectory, device_id
from tessera.agent.checkpoint import CheckpointFile
from tessera.agent.node import NodeAgent, NodeOptions
from tessera.agent.plugin import Plugin, _DRAService
from tessera.agent.proto import dra_v1_pb2
from tessera.gpu import profiles
from tessera.gpu.device_names import encode
from tessera.gpu.nvml import NVML
from tessera.gpu.simulator import control
from tessera.gpu.simulator.library import SimulatedLibrary
from tessera.gpu.simulator.state import Instance, StateFile

MODEL = "H100-80GB"


class _Call:
    """What gRPC tells of a call: no deadline."""

    def time_remaining(self) -> float | None:
        return None


@dataclass
class Process:
    """One agent process, as the kubelet reaches it."""

    agent: NodeAgent
    plugin: Plugin
    service: _DRAService
    effects: Effects
    answers: list[Any] = field(default_factory=list)
    """What the kubelet was told."""

    async def prepare(self, *names: str) -> dict[str, str]:
        """One call of the kubelet for these claims; returns the error of each, "" when it is prepared."""
        answer = await self.service.NodePrepareResources(
            dra_v1_pb2.NodePrepareResourcesRequest(claims=_claims(names)), _Call()
        )
        return self._told(answer, names)

    async def unprepare(self, *names: str) -> dict[str, str]:
        """The same for releasing."""
        answer = await self.service.NodeUnprepareResources(
            dra_v1_pb2.NodeUnprepareResourcesRequest(claims=_claims(names)), _Call()
        )
        return self._told(answer, names)

    async def ended(self) -> None:
        """Wait until nothing of the dead agent runs any more."""
        await self.plugin._in_flight.finish()

    def _told(self, answer: Any, names: tuple[str, ...]) -> dict[str, str]:
        self.effects.begin("kubelet: answer")
        self.answers.append(answer)
        return {name: answer.claims[f"uid-{name}"].error for name in names}


def _claims(names: tuple[str, ...]) -> list[Any]:
    return [dra_v1_pb2.Claim(namespace="default", name=name, uid=f"uid-{name}") for name in names]


@dataclass
class AgentNode:
    """One node with one GPU."""

    directory: Path
    api: MemoryAPI = field(default_factory=MemoryAPI)
    model: str = MODEL
    known: Known | None = field(default_factory=dict)
    """NVML's answers so far, shared by all copies; see `Answers`."""

    @classmethod
    def new(cls, directory: Path, *, mig: bool = True, model: str = MODEL) -> AgentNode:
        """One GPU; MIG on, nothing created."""
        (directory / "agent").mkdir(parents=True)
        (directory / "cdi").mkdir()
        nvml = NVML(SimulatedLibrary.at(directory / "simulator", model=model, count=1, seed=NODE))
        if mig:
            nvml.set_mig_mode(nvml.inventory().gpus[0].uuid, True)
        return cls(directory, model=model)

    def fresh(self, name: str) -> AgentNode:
        """A copy of the node."""
        place = self.directory.with_name(f"{self.directory.name}-{name}")
        shutil.copytree(self.directory, place)
        return AgentNode(place, api=self.api.copy(), model=self.model, known=self.known)

    @property
    def state(self) -> StateFile:
        """The GPU, as the simulator keeps it."""
        return StateFile(self.directory / "simulator")

    @property
    def checkpoint(self) -> CheckpointFile:
        """The agent's memory."""
        return CheckpointFile(self.directory / "agent" / "checkpoint.json")

    @property
    def cdi(self) -> CDIDirectory:
        """The runtime's directory of specs."""
        return CDIDirectory(self.directory / "cdi", simulated=True)

    @contextmanager
    def start(
        self, effects: Effects | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> Iterator[Process]:
        """A new agent process on what is there, until the block ends or the agent is killed."""
        effects = effects or Effects()
        library = SimulatedLibrary(self.state)
        library.faults = WatchedInjector(self.directory / "simulator", effects)
        client: Any = WatchedAPI(self.api, effects)
        with effects.on_disk(self.directory):
            agent = NodeAgent(
                client=client,
                driver=WatchedDriver(NVML(library), effects, Answers(self.state.path, self.known)),
                checkpoint=self.checkpoint,
                cdi=self.cdi,
                options=NodeOptions(name=NODE, enable_mig=True, events=False),
                clock=clock,
            )
            agent.registered = True
            plugin = Plugin(agent, pool=NODE, kubelet_dir=self.directory, cdi_device_id=device_id)
            agent.open()
            yield Process(agent, plugin, _DRAService(dra_v1_pb2, plugin), effects)

    def instances(self) -> list[Instance]:
        """Every GPU instance, by start."""
        return sorted(self.state.read().gpus[0].instances, key=lambda instance: instance.start)

    def layout(self) -> str:
        """Every instance, by start, e.g. `2g.20gb@0 1g.10gb@2(half made)`."""
        names = profiles.model(self.model)
        return " ".join(
            f"{names.profile_name(instance.profile_id)}@{instance.start}"
            + ("" if len(instance.compute) == 1 else "(half made)")
            for instance in self.instances()
        )

    def uuid(self, start: int) -> str:
        """MIG UUID of the instance at that start."""
        (found,) = (instance for instance in self.instances() if instance.start == start)
        return found.compute[0].uuid

    def pids(self) -> dict[str, tuple[int, ...]]:
        """Processes of each MIG device that has any, by UUID."""
        return {
            compute.uuid: tuple(process.pid for process in compute.processes)
            for instance in self.instances()
            for compute in instance.compute
            if compute.processes
        }

    def occupy(self, start: int, pid: int) -> None:
        """A process starts on the instance at that start."""
        control.occupy(self.directory / "simulator", mig_uuid=self.uuid(start), pid=pid)

    def allocate(self, name: str, *placements: str) -> None:
        """The scheduler gives the claim these placements, e.g. `2g.20gb@4`."""
        uuid = self.state.read().gpus[0].uuid
        devices = []
        for placement in placements:
            profile, _, start = placement.partition("@")
            devices.append(encode(gpu_uuid=uuid, profile=profile, start=int(start)))
        self.api.allocate(name, f"uid-{name}", tuple(devices))

    def demand(self, *places: str) -> None:
        """The operator gives the GPU this layout, e.g. `2g.20gb@4`."""
        self.api.demand(self.state.read().gpus[0].uuid, *places)

    def want(self, mig_mode: str) -> None:
        """The operator writes the GPU's MIG mode into the spec."""
        uuid = self.state.read().gpus[0].uuid
        self.api.specify({"uuid": uuid, "partition": "p", "migMode": mig_mode})

    def specs(self) -> dict[str, tuple[str, ...]]:
        """MIG UUIDs in each CDI spec, by claim UID."""
        return {
            record.key.uid: tuple(device.slice.uuid for device in record.devices if device.slice is not None)
            for record in self.cdi.records()
        }

    def assert_in_agreement(self, process: Process) -> None:
        """Memory, checkpoint, CDI specs, GPU and API tell the same, and nothing is half done."""
        ledger = self.checkpoint.load()
        assert process.agent.ledger == ledger
        present = {
            compute.uuid: (instance.id, compute.id, instance.profile_id, instance.start, instance.size)
            for instance in self.instances()
            for compute in instance.compute
        }
        assert "half made" not in self.layout()
        held = [d.slice for record in ledger.claims.values() for d in record.devices if d.slice is not None]
        known = [one for one in (*held, *ledger.warm.values()) if not one.is_whole_gpu]
        assert {
            made.uuid: (
                made.gpu_instance_id,
                made.compute_instance_id,
                made.profile_id,
                made.start,
                made.size,
            )
            for made in known
        } == present
        assert len(known) == len(present)
        assert {record.phase.value for record in ledger.claims.values()} <= {"Prepared"}
        specs = {record.key.uid: record.devices for record in self.cdi.records()}
        assert specs == {uid: record.devices for uid, record in ledger.claims.items()}
        assert list((self.directory / "cdi").glob(".*.tmp")) == []
        assert self.api.reported() == {
            **{made.uuid: "InUse" for made in held},
            **{made.uuid: "Warm" for made in ledger.warm.values()},
        }
        ((_, complete),) = self.api.pools()  # one generation
        assert complete
