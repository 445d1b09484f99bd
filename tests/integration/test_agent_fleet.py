"""The fleet: nodes without a kubelet are published, and their claims prepared and released."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from background import in_background
from eventually import eventually
from integration.pods_on_slices import pod_on_slice
from invariants import InvariantChecker
from tessera.agent.fleet import Fleet, FleetSettings
from tessera.api.names import SIMULATED_GPUS_LABEL
from tessera.kube.client import KubeClient
from tessera.kube.errors import NotFound
from tessera.kube.resources import GPU_NODES, NODES, PODS, RESOURCE_SLICES
from tessera.local.control_plane import ControlPlane

pytestmark = pytest.mark.integration


@pytest.fixture
async def nodes(admin: KubeClient) -> AsyncIterator[list[str]]:
    names = [f"kwok-{uuid.uuid4().hex[:8]}" for _ in range(3)]
    for name in names:
        metadata = {"name": name, "labels": {SIMULATED_GPUS_LABEL: "true"}}
        await admin.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": metadata})
    yield names
    for name in names:
        await admin.delete(NODES, name)


@pytest.fixture
def invariants(control_plane: ControlPlane, nodes: list[str]) -> Iterator[InvariantChecker]:
    """Watches while the fleet runs, and sees its GPUNodes."""
    with InvariantChecker(control_plane.kubeconfig, newcomers_only=True) as checker:
        yield checker
    assert checker.gpunodes_seen & set(nodes)


@pytest.fixture
async def fleet(
    admin: KubeClient, nodes: list[str], invariants: InvariantChecker, tmp_path: Path
) -> AsyncIterator[Fleet]:
    running = Fleet(admin, FleetSettings(state_dir=tmp_path, model="A30-24GB", count=2))
    async with in_background(running.run()):
        yield running


async def states(client: KubeClient, node: str) -> list[tuple[str, int, str]]:
    status = (await client.get(GPU_NODES, node)).get("status") or {}
    return [
        (instance["profile"], instance["start"], instance["state"])
        for gpu in status.get("gpus") or []
        for instance in gpu.get("instances") or []
    ]


async def test_every_labelled_node_is_published(admin: KubeClient, nodes: list[str], fleet: Fleet) -> None:
    async def all_ready() -> bool:
        for name in nodes:
            try:
                status = (await admin.get(GPU_NODES, name)).get("status") or {}
            except NotFound:
                return False
            if [item["reason"] for item in status.get("conditions") or []] != ["Published"]:
                return False
        return True

    await eventually("three published nodes", all_ready)
    assert fleet.published == 3
    for name in nodes:
        found = await admin.list(RESOURCE_SLICES, field_selector=f"spec.nodeName={name}")
        assert sum(len(item["spec"].get("devices") or []) for item in found.items) == 26


async def test_a_written_spec_is_observed_and_a_deleted_gpunode_comes_back(
    admin: KubeClient, nodes: list[str], fleet: Fleet
) -> None:
    name = nodes[0]

    async def observed() -> dict[str, Any] | None:
        try:
            found = await admin.get(GPU_NODES, name)
        except NotFound:
            return None
        generation = (found.get("status") or {}).get("observedGeneration")
        return found if generation == found["metadata"]["generation"] else None

    first = await eventually("a published node", observed)
    uuid_of_gpu = first["status"]["gpus"][0]["uuid"]
    wanted = {"uuid": uuid_of_gpu, "partition": "all", "migMode": "Enabled"}
    written = await admin.patch(GPU_NODES, name, body={"spec": {"gpus": [wanted]}})
    assert written["metadata"]["generation"] > first["metadata"]["generation"]
    await eventually("the spec to be observed", observed)

    await admin.delete(GPU_NODES, name)

    async def is_back() -> bool:
        found = await observed()
        return found is not None and found["metadata"]["uid"] != first["metadata"]["uid"]

    await eventually("the node to be published again", is_back)


async def test_a_reserved_claim_is_prepared_and_released_when_its_allocation_goes(
    admin: KubeClient, namespace: str, nodes: list[str], fleet: Fleet, invariants: InvariantChecker
) -> None:
    node = nodes[0]

    async def device() -> str | None:
        found = await admin.list(RESOURCE_SLICES, field_selector=f"spec.nodeName={node}")
        return next(
            (
                str(item["name"])
                for one in found.items
                for item in one["spec"].get("devices") or []
                if item["attributes"]["profile"]["string"] == "2g.12gb"
            ),
            None,
        )

    name = await eventually("a published device", device)
    await pod_on_slice(admin, namespace, "pod", node=node, device=name)

    async def in_use() -> bool:
        return await states(admin, node) == [("2g.12gb", 0, "InUse")]

    await eventually("the prepared slice", in_use)
    await admin.delete(PODS, "pod", namespace=namespace, grace_seconds=0)

    async def warm() -> bool:
        return await states(admin, node) == [("2g.12gb", 0, "Warm")]

    await eventually("the released slice", warm)
    assert f"{namespace}/pod" in invariants.claims_seen
