"""What the agent publishes and reads, with a real API server; the agent runs in this process."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from eventually import eventually
from integration.pods_on_slices import bind, pod_on_slice
from tessera.agent.cdi import CDIDirectory
from tessera.agent.checkpoint import CheckpointFile
from tessera.agent.claims import ClaimKey, PrepareError
from tessera.agent.node import NodeAgent, NodeOptions
from tessera.api.names import DEVICE_TAINT_KEY
from tessera.gpu.device_names import encode
from tessera.gpu.driver import LocalDriver
from tessera.gpu.nvml import NVML
from tessera.gpu.simulator import control
from tessera.gpu.simulator.library import SimulatedLibrary
from tessera.kube.client import KubeClient
from tessera.kube.errors import NotFound
from tessera.kube.resources import GPU_NODES, NODES, PODS, RESOURCE_CLAIMS, RESOURCE_SLICES

pytestmark = pytest.mark.integration


@dataclass
class Node:
    """A Node object without a kubelet, and the agent that serves it."""

    name: str
    agent: NodeAgent
    simulator: Path
    client: KubeClient

    async def slices(self) -> list[dict[str, Any]]:
        found = await self.client.list(RESOURCE_SLICES, field_selector=f"spec.nodeName={self.name}")
        return found.items

    async def allocate(self, namespace: str, name: str, profile: str, start: int) -> ClaimKey:
        """A claim with an allocation, as the scheduler writes it."""
        request = {"name": "slice", "exactly": {"deviceClassName": "slice.tessera.dev"}}
        claim = await self.client.create(
            RESOURCE_CLAIMS,
            {
                "apiVersion": RESOURCE_CLAIMS.api_version,
                "kind": RESOURCE_CLAIMS.kind,
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"devices": {"requests": [request]}},
            },
        )
        gpu = (await self.client.get(GPU_NODES, self.name))["status"]["gpus"][0]["uuid"]
        device = encode(gpu_uuid=gpu, profile=profile, start=start)
        result = {"request": "slice", "driver": "gpu.tessera.dev", "pool": self.name, "device": device}
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        status = {"allocation": {"allocationTimestamp": stamp, "devices": {"results": [result]}}}
        await self.client.patch(
            RESOURCE_CLAIMS, name, namespace=namespace, body={"status": status}, subresource="status"
        )
        return ClaimKey(namespace=namespace, name=name, uid=claim["metadata"]["uid"])

    async def profiles(self) -> Counter[str]:
        """How many devices of each profile are published."""
        return Counter(
            device["attributes"]["profile"]["string"]
            for item in await self.slices()
            for device in item["spec"].get("devices") or []
        )

    async def ready(self) -> dict[str, Any]:
        status = (await self.client.get(GPU_NODES, self.name))["status"]
        return next(item for item in status["conditions"] if item["type"] == "Ready")


async def _node(
    client: KubeClient, directory: Path, model: str, count: int, *, enable_mig: bool = True
) -> Node:
    name = f"node-{uuid.uuid4().hex[:8]}"
    await client.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    library = SimulatedLibrary.at(directory / "simulator", model=model, count=count, seed=name)
    agent = NodeAgent(
        client=client,
        driver=LocalDriver(NVML(library), simulated=True),
        checkpoint=CheckpointFile(directory / "checkpoint.json"),
        cdi=CDIDirectory(directory / "cdi", simulated=True),
        options=NodeOptions(name=name, enable_mig=enable_mig),
    )
    agent.open()
    agent.registered = True
    return Node(name=name, agent=agent, simulator=directory / "simulator", client=client)


@pytest.fixture
async def h100(admin: KubeClient, tmp_path: Path) -> AsyncIterator[Node]:
    node = await _node(admin, tmp_path, "H100-80GB", 2)
    yield node
    await admin.delete(NODES, node.name)


@pytest.mark.parametrize(
    ("model", "count", "devices"),
    [("H100-80GB", 2, 50), ("A30-24GB", 1, 13), ("RTXPRO6000-96GB", 3, 90), ("H100-80GB", 9, 225)],
)
async def test_the_api_server_accepts_every_slice_of_a_node(
    admin: KubeClient, tmp_path: Path, model: str, count: int, devices: int
) -> None:
    node = await _node(admin, tmp_path, model, count)
    await node.agent.refresh()
    slices = await node.slices()
    assert sum(len(item["spec"].get("devices") or []) for item in slices) == devices
    assert sum(len(item["spec"].get("sharedCounters") or []) for item in slices) == count
    assert {item["spec"]["pool"]["resourceSliceCount"] for item in slices} == {len(slices)}
    assert (await node.ready())["reason"] == "Published"
    await admin.delete(NODES, node.name)


async def test_the_generation_stays_while_nothing_changes(h100: Node) -> None:
    await h100.agent.refresh()
    before = {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in await h100.slices()}
    await h100.agent.refresh()
    after = {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in await h100.slices()}
    assert after == before


async def test_kubernetes_ends_the_pods_of_a_lost_gpu_and_no_others(h100: Node, namespace: str) -> None:
    await h100.agent.refresh()
    uuids = [gpu["uuid"] for gpu in (await h100.client.get(GPU_NODES, h100.name))["status"]["gpus"]]
    for name, gpu_uuid in zip(("well", "lost"), uuids, strict=True):
        device = encode(gpu_uuid=gpu_uuid, profile="2g.20gb", start=0)
        await pod_on_slice(h100.client, namespace, name, node=h100.name, device=device)
        await bind(h100.client, namespace, name, node=h100.name)

    control.lose(h100.simulator, index=1)
    await h100.agent.refresh()
    slices = await h100.slices()
    assert sum(len(item["spec"].get("devices") or []) for item in slices) == 50
    assert {item["spec"]["pool"]["generation"] for item in slices} == {2}
    status = (await h100.client.get(GPU_NODES, h100.name))["status"]
    assert [gpu["healthy"] for gpu in status["gpus"]] == [True, False]
    assert "GPU_IS_LOST" in status["gpus"][1]["healthMessage"]

    async def ended() -> bool:
        return await is_ending(h100.client, namespace, "lost")

    await eventually("the end of the pod on the lost GPU", ended)
    assert not await is_ending(h100.client, namespace, "well")

    control.reset(h100.simulator, index=1)
    await h100.agent.refresh()
    taints = {
        taint["key"]
        for item in await h100.slices()
        for device in item["spec"].get("devices") or []
        for taint in device["taints"]
    }
    assert taints == {DEVICE_TAINT_KEY}
    for name in ("well", "lost"):
        await end_pod(h100.client, namespace, name)


async def is_ending(client: KubeClient, namespace: str, name: str) -> bool:
    """Whether the pod is being deleted, or gone: there is no kubelet to end it gracefully."""
    try:
        pod = await client.get(PODS, name, namespace)
    except NotFound:
        return True
    return "deletionTimestamp" in pod["metadata"]


async def end_pod(client: KubeClient, namespace: str, name: str) -> None:
    with suppress(NotFound):
        await client.delete(PODS, name, namespace=namespace, grace_seconds=0)


async def test_everything_published_belongs_to_the_node_object(h100: Node) -> None:
    await h100.agent.refresh()
    node = await h100.client.get(NODES, h100.name)
    gpu_node = await h100.client.get(GPU_NODES, h100.name)
    for item in [*await h100.slices(), gpu_node]:
        assert [owner["uid"] for owner in item["metadata"]["ownerReferences"]] == [node["metadata"]["uid"]]


async def test_the_status_is_written_once_while_nothing_changes(h100: Node) -> None:
    await h100.agent.refresh()
    before = (await h100.client.get(GPU_NODES, h100.name))["metadata"]["resourceVersion"]
    await asyncio.gather(h100.agent.refresh())
    assert (await h100.client.get(GPU_NODES, h100.name))["metadata"]["resourceVersion"] == before


async def test_a_whole_gpu_is_cut_where_the_operator_wants_it_once_its_claim_is_released(
    admin: KubeClient, namespace: str, tmp_path: Path
) -> None:
    node = await _node(admin, tmp_path, "H100-80GB", 2, enable_mig=False)
    await node.agent.refresh()
    assert (await node.ready())["reason"] == "Published"
    assert await node.profiles() == Counter(gpu=2)
    claim = await node.allocate(namespace, "whole", "gpu", 0)
    (device,) = await node.agent.prepare(claim, timeout_seconds=10)
    uuid_of_first = device.gpu_uuid
    desired = {"spec": {"gpus": [{"uuid": uuid_of_first, "partition": "default"}]}}
    await admin.patch(GPU_NODES, node.name, body=desired)
    await node.agent.refresh()
    status = (await admin.get(GPU_NODES, node.name))["status"]
    assert [gpu["migMode"] for gpu in status["gpus"]] == ["Disabled", "Disabled"]
    (held,) = status["gpus"][0]["instances"]
    assert (held["profile"], held["uuid"], held["claim"]["name"]) == ("gpu", uuid_of_first, "whole")
    assert await node.profiles() == Counter(gpu=2)
    await node.agent.unprepare(claim)
    await node.agent.refresh()
    status = (await admin.get(GPU_NODES, node.name))["status"]
    assert [gpu["migMode"] for gpu in status["gpus"]] == ["Enabled", "Disabled"]
    offered = await node.profiles()
    assert (offered.total(), offered["gpu"]) == (25 + 1, 1)
    assert (await node.ready())["reason"] == "Published"
    await admin.delete(NODES, node.name)


async def test_a_gpu_that_a_client_holds_keeps_its_mode_and_the_condition_says_why(
    admin: KubeClient, tmp_path: Path
) -> None:
    node = await _node(admin, tmp_path, "H100-80GB", 1)
    control.hold(node.simulator, index=0, pid=os.getpid())
    await node.agent.refresh()
    condition = await node.ready()
    assert condition["reason"] == "MIGDisabled"
    assert "IN_USE" in condition["message"]
    assert "stop the programs that hold the GPU" in condition["message"]
    await admin.delete(NODES, node.name)


async def test_a_claim_that_was_deleted_is_refused_or_released_from_the_checkpoint(
    h100: Node, namespace: str
) -> None:
    await h100.agent.refresh()
    prepared = await h100.allocate(namespace, "prepared", "2g.20gb", 4)
    never = await h100.allocate(namespace, "never", "2g.20gb", 0)
    await h100.agent.prepare(prepared, timeout_seconds=10)
    for name in ("prepared", "never"):
        await h100.client.delete(RESOURCE_CLAIMS, name, namespace=namespace)
    with pytest.raises(PrepareError, match="does not exist any more"):
        await h100.agent.prepare(never, timeout_seconds=10)
    await h100.agent.unprepare(prepared)
    await h100.agent.unprepare(never)
    assert [warm.start for warm in h100.agent.ledger.warm.values()] == [4]


async def test_a_claim_of_the_same_name_made_again_is_another_claim(h100: Node, namespace: str) -> None:
    await h100.agent.refresh()
    claim = await h100.allocate(namespace, "claim", "2g.20gb", 4)
    with pytest.raises(PrepareError, match="was made again"):
        await h100.agent.prepare(replace(claim, uid=str(uuid.uuid4())), timeout_seconds=10)


async def test_a_claim_without_an_allocation_here_is_refused(h100: Node, namespace: str) -> None:
    await h100.agent.refresh()
    claim = await h100.allocate(namespace, "claim", "2g.20gb", 4)
    await h100.client.patch(
        RESOURCE_CLAIMS,
        "claim",
        namespace=namespace,
        body={"status": {"allocation": None}},
        subresource="status",
    )
    with pytest.raises(PrepareError, match=f"no device of gpu.tessera.dev on node {h100.name}"):
        await h100.agent.prepare(claim, timeout_seconds=10)


async def test_a_gpu_with_a_layout_offers_its_slices_and_what_claims_still_hold(
    h100: Node, namespace: str
) -> None:
    await h100.agent.refresh()
    held = await h100.allocate(namespace, "held", "2g.20gb", 4)
    await h100.agent.prepare(held, timeout_seconds=10)

    async def demand(*layouts: list[tuple[str, int]]) -> dict[str, set[str]]:
        """Each GPU gets its layout; the first one's devices with their taints, after one look."""
        gpus = (await h100.client.get(GPU_NODES, h100.name))["status"]["gpus"]
        desired = [
            {
                "uuid": gpu["uuid"],
                "partition": "fixed",
                "layout": [{"profile": profile, "start": start} for profile, start in layout],
            }
            for gpu, layout in zip(gpus, layouts, strict=False)
        ]
        await h100.client.patch(GPU_NODES, h100.name, body={"spec": {"gpus": desired}})
        await h100.agent.refresh()
        return {
            device["name"].removeprefix(f"gpu-{gpus[0]['uuid'][4:12]}-"): {
                taint["key"] for taint in device["taints"]
            }
            for item in await h100.slices()
            for device in item["spec"].get("devices") or []
            if device["attributes"]["gpuIndex"]["int"] == 0
        }

    async def told() -> dict[str, Any]:
        gpu_node = await h100.client.get(GPU_NODES, h100.name)
        assert gpu_node["status"]["observedGeneration"] == gpu_node["metadata"]["generation"]
        layout: dict[str, Any] = gpu_node["status"]["gpus"][0]["layout"]
        return layout

    assert await demand([("3g.40gb", 0), ("3g.40gb", 4)]) == {
        "2g-20gb-4": {"tessera.dev/managed", "tessera.dev/leaving"},
        "3g-40gb-0": {"tessera.dev/managed"},
        "3g-40gb-4": {"tessera.dev/managed"},
    }
    assert (await told())["blockers"] == [{"namespace": namespace, "name": "held", "uid": held.uid}]
    await h100.agent.unprepare(held)
    await h100.agent.refresh()
    assert await told() == {"state": "Applied"}
    assert await demand([], []) == {}
    assert [len(item["spec"]["sharedCounters"]) for item in await h100.slices()] == [2]
    assert len(await demand()) == 25
