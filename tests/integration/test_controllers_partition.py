"""Partitions against a real API server: conflict, hand-over, and what the agents are told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from eventually import eventually
from tessera.api import names
from tessera.controllers.executor import Executor
from tessera.controllers.operator import Operator
from tessera.controllers.plan import Plan
from tessera.kube.client import KubeClient
from tessera.kube.conditions import find_condition
from tessera.kube.errors import Conflict
from tessera.kube.events import EventRecorder
from tessera.kube.resources import GPU_NODES, MIG_PARTITIONS, NODES, RESOURCE_SLICES
from tessera.local.control_plane import ControlPlane

pytestmark = pytest.mark.integration

Object = dict[str, Any]
DRIVER_ABSENT = "libnvidia-ml.so.1 is not found; install the NVIDIA driver on the node"


@pytest.fixture
async def gpu_node(admin: KubeClient, namespace: str) -> AsyncIterator[str]:
    """A node with one GPU that an agent has reported; named and labelled as the test's namespace."""
    name = namespace
    await admin.create(
        NODES,
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"test": namespace}}},
    )
    await admin.create(
        GPU_NODES, {"apiVersion": names.API_VERSION, "kind": "GPUNode", "metadata": {"name": name}}
    )
    await report(admin, name, "True", "Published", "inventory is published")
    await admin.create(RESOURCE_SLICES, counters_of(name))
    await admin.create(RESOURCE_SLICES, devices_of(name))
    yield name
    for resource, object_name in (
        (RESOURCE_SLICES, f"{name}-counters"),
        (RESOURCE_SLICES, f"{name}-devices"),
        (GPU_NODES, name),
        (NODES, name),
    ):
        await admin.delete(resource, object_name)


async def report(admin: KubeClient, name: str, status: str, reason: str, message: str) -> None:
    """Write the GPUNode's status as its agent would."""
    gpu = {
        "index": 0,
        "uuid": f"GPU-{name}",
        "model": "H100-80GB",
        "migMode": "Enabled",
        "memorySlices": 8,
        "computeSlices": 7,
        "healthy": True,
        "instances": [],
    }
    condition = {"type": "Ready", "status": status, "reason": reason, "message": message}
    condition["lastTransitionTime"] = "2026-01-01T00:00:00Z"
    body = {"status": {"conditions": [condition], "gpus": [gpu]}}
    await admin.patch(GPU_NODES, name, body=body, subresource="status")


def resource_slice(name: str, part: str, **body: Any) -> Object:
    pool = {"name": name, "generation": 1, "resourceSliceCount": 2}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": f"{name}-{part}"},
        "spec": {"driver": names.DRIVER, "nodeName": name, "pool": pool, **body},
    }


def counters_of(name: str) -> Object:
    counters = {f"memory-slice-{i}": {"value": "1"} for i in range(8)}
    return resource_slice(name, "counters", sharedCounters=[{"name": "gpu-x", "counters": counters}])


def devices_of(name: str) -> Object:
    devices = []
    for start in (0, 4):
        used = {f"memory-slice-{i}": {"value": "1"} for i in range(start, start + 4)}
        devices.append(
            {
                "name": f"gpu-x-3g-40gb-{start}",
                "attributes": {
                    "profile": {"string": "3g.40gb"},
                    "start": {"int": start},
                    "memorySlices": {"int": 4},
                    "computeSlices": {"int": 3},
                    "gpuUUID": {"string": f"GPU-{name}"},
                },
                "consumesCounters": [{"counterSet": "gpu-x", "counters": used}],
                "taints": [{"key": names.DEVICE_TAINT_KEY, "value": "true", "effect": "NoSchedule"}],
            }
        )
    return resource_slice(name, "devices", devices=devices)


def partition(name: str, node: str, **spec: Any) -> Object:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "MIGPartition",
        "metadata": {"name": name},
        "spec": {"nodeSelector": {"matchLabels": {"test": node}}, **spec},
    }


async def ready(admin: KubeClient, name: str, reason: str) -> Object:
    async def look() -> Any:
        obj = await admin.get(MIG_PARTITIONS, name)
        found = find_condition((obj.get("status") or {}).get("conditions"), "Ready")
        return obj if found and found["reason"] == reason else None

    found: Object = await eventually(f"{name} gets reason {reason}", look)
    return found


def message(obj: Object) -> str:
    found = find_condition(obj["status"]["conditions"], "Ready")
    assert found is not None
    return str(found["message"])


async def owner_of(admin: KubeClient, node: str, name: str | None) -> None:
    async def look() -> Any:
        gpus = ((await admin.get(GPU_NODES, node)).get("spec") or {}).get("gpus") or []
        return [gpu["partition"] for gpu in gpus] == ([name] if name else [])

    await eventually(f"the agent is told that {name} has the GPU", look)


async def test_the_older_partition_keeps_the_gpu_and_the_other_takes_over_when_it_goes(
    operator: Operator, admin: KubeClient, gpu_node: str
) -> None:
    old, new = f"{gpu_node}-old", f"{gpu_node}-new"
    await admin.create(MIG_PARTITIONS, partition(old, gpu_node))
    obj = await ready(admin, old, "Partitioned")
    assert obj["status"]["gpus"] == {"selected": 1, "owned": 1, "ready": 1}
    assert obj["status"]["largestPlaceable"] == "3g.40gb"
    await owner_of(admin, gpu_node, old)

    # Creation times have whole seconds, and of equal age the UID decides: the second must be younger.
    created = datetime.fromisoformat(obj["metadata"]["creationTimestamp"].replace("Z", "+00:00"))

    async def a_second_later() -> bool:
        return datetime.now(UTC) - created > timedelta(seconds=1)

    await eventually("the clock moves on", a_second_later)
    await admin.create(MIG_PARTITIONS, partition(new, gpu_node))
    refused = await ready(admin, new, "Conflict")
    assert f"GPU 0 (GPU-{gpu_node}) of node {gpu_node} belongs to {old}" in message(refused)
    await ready(admin, old, "Partitioned")

    await admin.delete(MIG_PARTITIONS, old)
    await ready(admin, new, "Partitioned")
    await owner_of(admin, gpu_node, new)
    await admin.delete(MIG_PARTITIONS, new)
    await owner_of(admin, gpu_node, None)


async def test_what_the_agent_finds_reaches_the_partition(
    operator: Operator, admin: KubeClient, gpu_node: str
) -> None:
    name = f"{gpu_node}-p"
    await admin.create(MIG_PARTITIONS, partition(name, gpu_node))
    await ready(admin, name, "Partitioned")
    await report(admin, gpu_node, "False", "DriverMissing", DRIVER_ABSENT)
    assert message(await ready(admin, name, "DriverMissing")) == f"node {gpu_node}: {DRIVER_ABSENT}"
    await report(admin, gpu_node, "True", "Published", "inventory is published")
    await ready(admin, name, "Partitioned")
    await admin.delete(MIG_PARTITIONS, name)


async def test_a_profile_that_the_gpu_lacks_is_named_with_those_it_has(
    operator: Operator, admin: KubeClient, gpu_node: str
) -> None:
    name = f"{gpu_node}-p"
    reserves = {"reserves": [{"profile": "3g.71gb"}]}
    await admin.create(MIG_PARTITIONS, partition(name, gpu_node, dynamic=reserves))
    obj = await ready(admin, name, "UnknownProfile")
    assert "no GPU of this cluster has a profile 3g.71gb" in message(obj)
    assert "3g.40gb" in message(obj)
    await admin.patch(
        MIG_PARTITIONS, name, body={"spec": {"dynamic": {"reserves": [{"profile": "3g.40gb"}]}}}
    )
    await ready(admin, name, "Partitioned")
    await admin.delete(MIG_PARTITIONS, name)


async def test_a_decision_is_not_written_over_a_partition_that_has_changed(
    control_plane: ControlPlane, admin: KubeClient, namespace: str
) -> None:
    async with await KubeClient.connect(
        kubeconfig=control_plane.kubeconfig, field_manager=names.OPERATOR_FIELD_MANAGER
    ) as client:
        executor = Executor(client, EventRecorder(client, component="operator"))
        read = await admin.create(MIG_PARTITIONS, partition(namespace, "nowhere"))
        decision = Plan(status={"nodeCount": 1}, decides=True)
        await executor.carry_out(MIG_PARTITIONS, read, decision)
        with pytest.raises(Conflict):
            await executor.carry_out(MIG_PARTITIONS, read, decision)
    await admin.delete(MIG_PARTITIONS, namespace)
