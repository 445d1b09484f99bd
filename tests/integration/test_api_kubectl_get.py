"""`kubectl get` answers a user's first question: is it ready, and if not, why."""

from __future__ import annotations

from typing import Any

import pytest
from tessera.api.names import API_VERSION
from tessera.kube.client import KubeClient
from tessera.kube.resources import GPU_NODES, HETEROGENEOUS_TRAINING_JOBS, MIG_PARTITIONS, Resource
from tessera.local.control_plane import ControlPlane

pytestmark = pytest.mark.integration


def ready(status: str, reason: str) -> dict[str, Any]:
    condition = {"type": "Ready", "status": status, "reason": reason, "message": "m"}
    return {"conditions": [{**condition, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}


async def make(admin: KubeClient, resource: Resource, name: str, namespace: str | None, **body: Any) -> None:
    status = body.pop("status")
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    await admin.create(
        resource, {"apiVersion": API_VERSION, "kind": resource.kind, "metadata": metadata, **body}
    )
    await admin.patch(resource, name, namespace=namespace, body={"status": status}, subresource="status")


def cells(output: str) -> list[list[str]]:
    return [line.split() for line in output.strip().splitlines()]


async def test_a_training_job_shows_profile_state_and_step(
    admin: KubeClient, control_plane: ControlPlane, namespace: str
) -> None:
    spec = {"workload": {"name": "noiser"}, "resources": {"slice": {"profile": "2g.20gb"}}}
    status = {
        **ready("True", "Running"),
        "progress": {"step": 40, "steps": 200},
        "placement": {"node": "n1"},
    }
    await make(admin, HETEROGENEOUS_TRAINING_JOBS, "train", namespace, spec=spec, status=status)
    header, row = cells(control_plane.kubectl("get", "htj", "-n", namespace))
    assert header == ["NAME", "PROFILE", "STATUS", "STEP", "STEPS", "AGE"]
    assert row[:-1] == ["train", "2g.20gb", "Running", "40", "200"]
    wide = cells(control_plane.kubectl("get", "htj", "-n", namespace, "-o", "wide"))
    assert wide[1][5] == "n1"


async def test_a_partition_shows_its_gpus_and_what_fits(
    admin: KubeClient, control_plane: ControlPlane, namespace: str
) -> None:
    status = {
        **ready("False", "Conflict"),
        "gpus": {"selected": 4, "owned": 2, "ready": 2},
        "layout": {"summary": "1/2"},
        "inUse": 3,
        "largestPlaceable": "3g.40gb",
    }
    await make(admin, MIG_PARTITIONS, namespace, None, spec={}, status=status)
    try:
        header, row = cells(control_plane.kubectl("get", "mig", namespace))
    finally:
        await admin.delete(MIG_PARTITIONS, namespace)
    assert header == ["NAME", "GPUS", "UPDATED", "IN", "USE", "LARGEST", "FREE", "STATUS", "AGE"]
    assert row[:-1] == [namespace, "2", "1/2", "3", "3g.40gb", "Conflict"]


async def test_a_gpu_node_shows_how_full_it_is_and_its_state(
    admin: KubeClient, control_plane: ControlPlane, namespace: str
) -> None:
    gpu = {"index": 0, "uuid": "GPU-1", "productName": "H100"}
    status = {
        **ready("True", "Published"),
        "driver": {"version": "580.65.06"},
        "gpus": [gpu],
        "gpuCount": 1,
        "slicesInUse": 3,
    }
    await make(admin, GPU_NODES, namespace, None, status=status)
    try:
        header, row = cells(control_plane.kubectl("get", "gn", namespace))
    finally:
        await admin.delete(GPU_NODES, namespace)
    assert header == ["NAME", "GPU", "GPUS", "IN", "USE", "READY", "REASON", "AGE"]
    assert row[:-1] == [namespace, "H100", "1", "3", "True", "Published"]


def test_the_category_lists_all_kinds(control_plane: ControlPlane) -> None:
    listed = control_plane.kubectl("api-resources", "--categories=tessera", "-o", "name").split()
    assert set(listed) >= {
        "migpartitions.tessera.dev",
        "gpunodes.tessera.dev",
        "heterogeneoustrainingjobs.tessera.dev",
    }
