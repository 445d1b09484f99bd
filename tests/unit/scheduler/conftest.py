"""A small cluster as API objects: what an agent publishes, nodes, pods and claims, and the snapshot made of
them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from scheduler_objects import Object, exactly, resource_slices
from tessera.placement.policies import FirstFit
from tessera.scheduler.actions import PodPlacement
from tessera.scheduler.planner import Planner
from tessera.scheduler.snapshot import Snapshot, SnapshotReader
from unit.scheduler.two_crowded_gpus import A, Cluster, with_fixed_slices


def published_slices(node: str, gpus: Sequence[str], **more: Any) -> list[Object]:
    """The ResourceSlices of a node, as the API server shows them."""
    slices = resource_slices(node, gpus, **more)
    for item in slices:
        item["metadata"] |= {"uid": f"slice-{item['metadata']['name']}", "resourceVersion": "1"}
    return slices


def time_text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class World:
    """API objects that a test puts together and changes between rounds."""

    now: float = 1_000_000.0
    pods: dict[str, Object] = field(default_factory=dict)
    claims: dict[str, Object] = field(default_factory=dict)
    nodes: dict[str, Object] = field(default_factory=dict)
    slices: list[Object] = field(default_factory=list)
    classes: dict[str, Object] = field(default_factory=dict)
    partitions: dict[str, Object] = field(default_factory=dict)
    gpu_nodes: dict[str, Object] = field(default_factory=dict)
    reader: SnapshotReader = field(default_factory=SnapshotReader)
    _versions: itertools.count[int] = field(default_factory=lambda: itertools.count(100))

    def touch(self, obj: Object) -> Object:
        """Give an object a new resourceVersion, as every write does."""
        obj["metadata"]["resourceVersion"] = str(next(self._versions))
        return obj

    def add_node(
        self,
        name: str,
        *,
        gpus: list[str],
        whole: Sequence[str] = (),
        cpu: str = "16",
        taints: list[Object] | None = None,
        **labels: str,
    ) -> Object:
        node = {
            "metadata": {"name": name, "uid": f"node-{name}", "labels": labels},
            "spec": {"taints": taints or []},
            "status": {
                "allocatable": {"cpu": cpu, "memory": "64Gi", "pods": "110"},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
        self.nodes[name] = self.touch(node)
        self.slices += published_slices(name, gpus, whole=whole)
        return node

    def add_claim(self, name: str, *requests: Object, finalizer: bool = True, **spec: Any) -> Object:
        claim: Object = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {
                "name": name,
                "namespace": "default",
                "uid": f"claim-{name}",
                "finalizers": ["resource.kubernetes.io/delete-protection"] if finalizer else [],
            },
            "spec": {"devices": {"requests": list(requests)} | spec},
        }
        self.claims[name] = self.touch(claim)
        return claim

    def add_pod(
        self,
        name: str,
        *claims: str,
        gates: tuple[str, ...] = ("tessera.dev/placement",),
        cpu: str = "1",
        created: float = 0.0,
        annotations: dict[str, str] | None = None,
        **spec: Any,
    ) -> Object:
        pod: Object = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": "default",
                "uid": f"pod-{name}",
                "creationTimestamp": time_text(self.now + created),
                "annotations": annotations or {},
            },
            "spec": {
                "schedulingGates": [{"name": gate} for gate in gates],
                "resourceClaims": [{"name": c, "resourceClaimName": c} for c in claims],
                "containers": [{"name": "main", "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}}],
            }
            | spec,
            "status": {"phase": "Pending"},
        }
        self.pods[name] = self.touch(pod)
        return pod

    def add_pod_with_claim(self, name: str, profile: str, **pod: Any) -> None:
        self.add_claim(name, exactly(profile))
        self.add_pod(name, name, **pod)

    def allocate(
        self, claim: str, *devices: str, node: str, pod: str | None = None, since: float = 0.0
    ) -> None:
        """What a written allocation looks like afterwards."""
        obj = self.claims[claim]
        request = obj["spec"]["devices"]["requests"][0]["name"]
        obj["status"] = {
            "allocation": {
                "allocationTimestamp": time_text(self.now + since),
                "devices": {
                    "results": [
                        {"request": request, "driver": "gpu.tessera.dev", "pool": node, "device": d}
                        for d in devices
                    ]
                },
                "nodeSelector": {
                    "nodeSelectorTerms": [
                        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
                    ]
                },
            },
            "reservedFor": [{"resource": "pods", "name": pod, "uid": f"pod-{pod}"}] if pod else [],
        }
        self.touch(obj)

    def hand_over(self, placement: PodPlacement) -> None:
        """What a pod's claims look like once its placement is written."""
        for one in placement.claims:
            devices = [result.device for result in one.results]
            self.allocate(one.claim.key[1], *devices, node=one.node, pod=placement.pod.key[1])

    def let_go(self, name: str) -> None:
        """A pod whose gate was removed."""
        self.pods[name]["spec"]["schedulingGates"] = []
        self.touch(self.pods[name])

    def add_class(self, name: str, *expressions: str, config: list[Object] | None = None) -> None:
        spec = {"selectors": [{"cel": {"expression": e}} for e in expressions], "config": config or []}
        self.classes[name] = self.touch({"metadata": {"name": name, "uid": f"class-{name}"}, "spec": spec})

    def reserve(self, partition: str, *gpus: str, **counts: int) -> None:
        """A MIGPartition of these GPUs (counter sets) that keeps room free: two_g=1 is 1 x 2g.20gb."""
        profiles = {"one_g": "1g.10gb", "two_g": "2g.20gb", "three_g": "3g.40gb", "seven_g": "7g.80gb"}
        reserves = [{"profile": profiles[name], "count": count} for name, count in counts.items()]
        self.partitions[partition] = self.touch(
            {
                "metadata": {"name": partition, "uid": f"partition-{partition}"},
                "spec": {"mode": "dynamic", "dynamic": {"reserves": reserves}},
            }
        )
        entries = [{"uuid": f"GPU-{gpu.removeprefix('gpu-')}", "partition": partition} for gpu in gpus]
        self.gpu_nodes[partition] = self.touch(
            {"metadata": {"name": f"of-{partition}", "uid": f"gn-{partition}"}, "spec": {"gpus": entries}}
        )

    def allow_moves(
        self, partition: str, *gpus: str, reserves: list[Object] | None = None, **moves: Any
    ) -> None:
        """A MIGPartition of these GPUs (counter sets) that allows moves."""
        self.reserve(partition, *gpus)
        self.partitions[partition]["spec"]["dynamic"] = {"reserves": reserves or [], "moves": moves}

    def objects(self) -> dict[str, list[Object]]:
        """All that there is, by kind, as a `SnapshotReader` wants it."""
        return {
            "pods": list(self.pods.values()),
            "claims": list(self.claims.values()),
            "nodes": list(self.nodes.values()),
            "slices": list(self.slices),
            "classes": list(self.classes.values()),
            "partitions": list(self.partitions.values()),
            "gpu_nodes": list(self.gpu_nodes.values()),
        }

    def snapshot(self) -> Snapshot:
        return self.reader.read(**self.objects(), now=self.now)


@pytest.fixture
def world() -> World:
    """Two nodes with one H100 each."""
    made = World()
    made.add_node("node-a", gpus=["gpu-aaaaaaaa"])
    made.add_node("node-b", gpus=["gpu-bbbbbbbb"])
    return made


@pytest.fixture
def planner() -> Planner:
    return Planner(FirstFit(), grace_seconds=30)


@pytest.fixture
def cluster(world: World) -> Cluster:
    """3g and a movable 1g on a, 3g and 2g on b: a second half fits only when the 1g goes to b."""
    made = with_fixed_slices(world, "2g.20gb")
    made.add_victim("victim", "1g.10gb", f"{A}-1g-10gb-4", node="node-a")
    return made


@pytest.fixture
def crowded(world: World) -> Cluster:
    """Two movable 1g are in the way of a half on a; b has room for both, but none for a half."""
    made = with_fixed_slices(world, "1g.10gb")
    made.add_victim("one", "1g.10gb", f"{A}-1g-10gb-4", node="node-a", index="1")
    made.add_victim("two", "1g.10gb", f"{A}-1g-10gb-5", node="node-a", index="2")
    made.ask()
    return made


@pytest.fixture(scope="session")
def empty_world() -> Callable[[], World]:
    return World


@pytest.fixture(scope="session")
def request_for() -> Callable[..., Object]:
    """Makes one `exactly` request for a profile."""
    return exactly


@pytest.fixture(scope="session")
def publish() -> Callable[..., list[Object]]:
    """Makes the ResourceSlices of a node."""
    return published_slices
