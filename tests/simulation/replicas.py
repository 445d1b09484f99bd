"""Scheduler processes on the simulated API server, and what must hold when all has become calm."""

from __future__ import annotations

import asyncio
import itertools
import random

from simulation.cluster_actors import Cluster, wall_clock
from simulation.faulty_client import Faults, SimulatedClient
from tessera.api import names
from tessera.kube.resources import (
    GPU_NODES,
    MIG_PARTITIONS,
    NODES,
    PODS,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from tessera.placement.policies import FirstFit
from tessera.scheduler.explain import explain_pod
from tessera.scheduler.loop import Scheduler, Settings
from tessera.scheduler.move_records import read_move
from tessera.scheduler.snapshot import Snapshot, SnapshotReader

CALM_SECONDS = 150.0
"""Longer than the Lease, a take-back, the first avoidance of a node and the freeing of an orphan together."""


class Replicas:
    """Scheduler processes by identity."""

    def __init__(self, cluster: Cluster, faults: Faults) -> None:
        self.cluster = cluster
        self.faults = faults
        self.clients: dict[str, SimulatedClient] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._dead: list[tuple[SimulatedClient, asyncio.Task[None]]] = []
        self._numbers = itertools.count()

    def start(self, *, dies_at: int | None = None) -> SimulatedClient:
        identity = f"scheduler-{next(self._numbers)}"
        client = SimulatedClient(self.cluster.store, self.faults, identity=identity, dies_at=dies_at)
        settings = Settings(
            lease_namespace=names.SYSTEM_NAMESPACE, identity=identity, policy="first_fit",
            takeback_grace_seconds=5.0,
        )  # fmt: skip
        scheduler = Scheduler(client, settings, clock=wall_clock, monotonic=client.clock)
        self.clients[identity] = client
        self._tasks[identity] = asyncio.create_task(scheduler.run(), name=identity)
        return client

    def kill(self, identity: str) -> None:
        """SIGKILL: nothing is given back, nothing is said."""
        client = self.clients.pop(identity)
        client.kill()
        # Kept, so that nothing of it is collected and comes to life again in doing so.
        self._dead.append((client, self._tasks.pop(identity)))

    def suffer(self, fault: str, rng: random.Random) -> None:
        """One is killed ("kill"), the leader is stopped ("stop"), or all that were stopped go on ("go")."""
        match fault:
            case "kill" if self.clients:
                self.kill(rng.choice(sorted(self.clients)))
            case "stop" if self.leader() in self.clients:
                self.clients[self.leader()].pause()
            case "go":
                self.resume()

    def resume(self) -> None:
        """All that were stopped go on."""
        for client in self.clients.values():
            client.resume()

    def bury_the_dead(self) -> None:
        for identity in [i for i, client in self.clients.items() if client.dead.is_set()]:
            self.kill(identity)

    def leader(self) -> str:
        return self.cluster._holder()


def snapshot_of(cluster: Cluster) -> Snapshot:
    store = cluster.store
    alive = [p for p in store.all(PODS) if p["status"]["phase"] not in ("Succeeded", "Failed")]
    return SnapshotReader().read(
        pods=alive,
        claims=store.all(RESOURCE_CLAIMS),
        nodes=store.all(NODES),
        slices=store.all(RESOURCE_SLICES),
        partitions=store.all(MIG_PARTITIONS),
        gpu_nodes=store.all(GPU_NODES),
        now=wall_clock(),
    )


def assert_settled(cluster: Cluster) -> None:
    """After a calm while: what fits is bound, and every allocation has a living user."""
    assert cluster.violations == []
    assert cluster.early == []
    snapshot = snapshot_of(cluster)
    for key, pod in snapshot.pods.items():
        if not pod.node:
            found = explain_pod(snapshot, key, FirstFit())
            gang_waits = found.gang is not None and found.gang.members < (found.gang.size or 0)
            if found.state == "Fits" and (key[1], found.node) in cluster.hidden_rule:
                continue  # the scheduler remembers that this node did not work out
            assert found.state == "Waiting", (key, found.state, found.message)
            assert found.reason == "Unplaceable" or gang_waits, (key, found.reason, found.message)
    alive = {pod.uid for pod in snapshot.pods.values()}
    for claim in snapshot.claims.values():
        record = read_move(claim.move)
        if record is not None:
            assert claim.allocated is not None, f"{claim.key} is left over"
            assert snapshot.now < record.deadline + 5, f"{claim.key} is held for too long"
        elif claim.holds_ours:
            assert claim.reserved_for and set(claim.reserved_for) <= alive, f"{claim.key} is leaked"


async def empty(cluster: Cluster) -> None:
    """Delete all pods; then nothing may stay allocated."""
    for name in cluster.pods():
        cluster.delete_pod(name)
    await asyncio.sleep(70)
    left = [
        c["metadata"]["name"] for c in cluster.claims().values() if (c.get("status") or {}).get("allocation")
    ]
    assert left == []


def actors(cluster: Cluster) -> list[asyncio.Task[None]]:
    return [
        asyncio.create_task(cluster.controller_manager(), name="controller-manager"),
        asyncio.create_task(cluster.kube_scheduler(), name="kube-scheduler"),
    ]
