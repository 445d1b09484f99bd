"""GPUs for nodes that have no kubelet: one process plays the agent of every simulated (KWOK) node.

For each Node with the label `tessera.dev/simulated-gpus=true` it runs the same `NodeAgent` as a real node,
with a simulator of its own, and takes the kubelet's part in preparing: a claim that is allocated to the
node and reserved for a pod is prepared, and released when its allocation goes. (A kubelet would prepare a
moment later, when the pod is bound; the reservation is taken instead, so that the fleet need not watch
every pod of the cluster.)
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera.agent.cdi import CDIDirectory
from tessera.agent.checkpoint import CheckpointFile
from tessera.agent.claims import ClaimKey, PrepareError, allocated_here, key_of
from tessera.agent.measured import MeasuredDriver
from tessera.agent.node import NodeAgent, NodeOptions
from tessera.api.names import DRIVER, SIMULATED_GPUS_LABEL
from tessera.gpu.driver import LocalDriver
from tessera.gpu.nvml import NVML
from tessera.gpu.simulator.library import SimulatedLibrary
from tessera.kube.client import KubeClient
from tessera.kube.informer import Informer
from tessera.kube.resources import GPU_NODES, NODES, RESOURCE_CLAIMS
from tessera.kube.workqueue import WorkQueue

log = logging.getLogger(__name__)

_RETRY_SECONDS = 2.0
_PREPARE_SECONDS = 10.0
_WORKERS = 8


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """Everything that can be set for a fleet."""

    state_dir: Path
    """One directory per node is kept here: simulator state, checkpoint, CDI specs."""
    model: str = "H100-80GB"
    """GPU model of every node."""
    count: int = 2
    """GPUs per node."""
    refresh_seconds: float = 300.0
    """Time between two looks at a node when nothing happens."""


@dataclass(frozen=True, slots=True)
class NodeTask:
    """Publish this node."""

    name: str


@dataclass(frozen=True, slots=True)
class ClaimTask:
    """Bring this claim's slices in line with its allocation."""

    namespace: str
    name: str


class Fleet:
    """The agents of all simulated nodes of one cluster."""

    def __init__(self, client: KubeClient, settings: FleetSettings) -> None:
        self._client = client
        self._settings = settings
        self._agents: dict[str, NodeAgent] = {}
        self._held: dict[tuple[str, str], set[tuple[str, str]]] = {}
        self._queue: WorkQueue[NodeTask | ClaimTask] = WorkQueue(
            worker=self._work, concurrency=_WORKERS, name="fleet"
        )
        self._nodes = Informer(
            client, NODES, label_selector=f"{SIMULATED_GPUS_LABEL}=true", on_change=self._node_moved
        )
        self._claims = Informer(client, RESOURCE_CLAIMS, on_change=self._claim_moved)
        self._gpu_nodes = Informer(client, GPU_NODES, on_change=self._gpu_node_moved)

    @property
    def published(self) -> int:
        """Nodes that were published at least once."""
        return sum(agent.refreshed for agent in self._agents.values())

    async def run(self) -> None:
        """Serve until cancelled."""
        informers = (self._nodes, self._claims, self._gpu_nodes)
        for informer in informers:
            informer.start()
        try:
            for informer in informers:
                await informer.wait_synced()
            await self._queue.run()
        finally:
            await asyncio.gather(*(informer.stop() for informer in informers))

    def _node_moved(self, kind: str, obj: dict[str, Any], old: dict[str, Any] | None) -> None:
        name = obj["metadata"]["name"]
        if kind == "DELETED":  # its ResourceSlices and GPUNode go with the Node, which owns them
            self._agents.pop(name, None)
        elif name not in self._agents:
            self._queue.add(NodeTask(name))

    def _gpu_node_moved(self, kind: str, obj: dict[str, Any], old: dict[str, Any] | None) -> None:
        """The operator has written the spec, or somebody has deleted the object; a status is no news."""
        generations = {item["metadata"].get("generation") for item in (obj, old) if item is not None}
        name = obj["metadata"]["name"]
        if name in self._agents and (kind == "DELETED" or len(generations) > 1):
            self._queue.add(NodeTask(name))

    def _claim_moved(self, kind: str, obj: dict[str, Any], old: dict[str, Any] | None) -> None:
        self._queue.add(ClaimTask(obj["metadata"]["namespace"], obj["metadata"]["name"]))

    async def _work(self, task: NodeTask | ClaimTask) -> float | None:
        if isinstance(task, NodeTask):
            return await self._serve_node(task.name)
        return await self._serve_claim(task)

    async def _serve_node(self, name: str) -> float | None:
        if self._nodes.get(name) is None:
            return None
        agent = self._agents.get(name)
        if agent is None:
            agent = self._agents[name] = await asyncio.to_thread(self._open, name)
        first = not agent.refreshed
        await agent.refresh()
        if first:
            self._take_up(name, agent)
        return self._settings.refresh_seconds

    def _take_up(self, name: str, agent: NodeAgent) -> None:
        """Look at every claim that the agent's ledger or the API has for the node.

        After the first refresh, because only then a lost ledger is rebuilt.
        """
        for uid, record in agent.ledger.claims.items():
            self._held.setdefault((record.key.namespace, record.key.name), set()).add((name, uid))
            self._queue.add(ClaimTask(record.key.namespace, record.key.name))
        for claim in self._claims.items():
            if allocated_here(claim, node=name):
                self._queue.add(ClaimTask(claim["metadata"]["namespace"], claim["metadata"]["name"]))

    def _open(self, name: str) -> NodeAgent:
        directory = self._settings.state_dir / name
        library = SimulatedLibrary.at(
            directory / "simulator", model=self._settings.model, count=self._settings.count, seed=name
        )
        agent = NodeAgent(
            client=self._client,
            driver=MeasuredDriver(LocalDriver(NVML(library), simulated=True)),
            checkpoint=CheckpointFile(directory / "checkpoint.json"),
            cdi=CDIDirectory(directory / "cdi", simulated=True),
            options=NodeOptions(name=name, enable_mig=True, events=False),
            on_change=lambda: self._queue.add(NodeTask(name)),
        )
        agent.registered = True
        agent.open()
        return agent

    async def _serve_claim(self, task: ClaimTask) -> float | None:
        claim = self._claims.get(task.name, task.namespace)
        where = (task.namespace, task.name)
        uid = claim["metadata"]["uid"] if claim is not None else None
        wanted = _nodes_of(claim) & self._agents.keys() if claim is not None else set()
        for node, held_uid in list(self._held.get(where, ())):
            if node in self._agents and (node not in wanted or held_uid != uid):
                key = ClaimKey(namespace=task.namespace, name=task.name, uid=held_uid)
                try:
                    await self._release(node, key)
                except PrepareError as error:
                    log.warning("claim %s on node %s: %s", key, node, error)
                    return _RETRY_SECONDS
        if claim is None or not (claim.get("status") or {}).get("reservedFor"):
            return None
        for node in wanted:
            if (node, uid) in self._held.get(where, ()):
                continue
            try:
                await self._agents[node].prepare(key_of(claim), timeout_seconds=_PREPARE_SECONDS)
            except PrepareError as error:
                log.warning("claim %s/%s on node %s: %s", task.namespace, task.name, node, error)
                return _RETRY_SECONDS
            self._held.setdefault(where, set()).add((node, str(uid)))
        return None

    async def _release(self, node: str, key: ClaimKey) -> None:
        await self._agents[node].unprepare(key)
        held = self._held[key.namespace, key.name]
        held.discard((node, key.uid))
        if not held:
            del self._held[key.namespace, key.name]


def _nodes_of(claim: dict[str, Any]) -> set[str]:
    """The pools of our driver in the claim's allocation: each is named after its node."""
    allocation = (claim.get("status") or {}).get("allocation") or {}
    results = (allocation.get("devices") or {}).get("results") or []
    return {result["pool"] for result in results if result.get("driver") == DRIVER}
