"""A static partition on a real API server, with the agents' own code on simulated GPUs: the layout goes from
node to node, pods on slices that go are evicted, and a neighbour on the same GPU notices nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from background import in_background
from eventually import eventually
from integration.pods_on_slices import pod_on_slice
from nodes_in_change import NodesInChange
from tessera.agent.fleet import Fleet, FleetSettings
from tessera.api import names
from tessera.controllers.operator import Operator
from tessera.gpu.device_names import encode
from tessera.gpu.simulator.faults import Fault, FaultInjector
from tessera.kube.client import KubeClient
from tessera.kube.conditions import find_condition
from tessera.kube.errors import NotFound
from tessera.kube.informer import Informer
from tessera.kube.resources import GPU_NODES, MIG_PARTITIONS, NODES, PODS
from tessera.local.control_plane import ControlPlane

pytestmark = pytest.mark.integration

Object = dict[str, Any]


@pytest.fixture
async def nodes(admin: KubeClient, tmp_path: Path) -> AsyncIterator[list[str]]:
    """Two published nodes with one H100 each, labelled for this test."""
    pool = uuid.uuid4().hex[:8]
    found = [f"static-{pool}-{number}" for number in range(2)]
    for name in found:
        labels = {names.SIMULATED_GPUS_LABEL: "true", "pool": pool}
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
        await admin.create(NODES, body)
    async with in_background(Fleet(admin, FleetSettings(state_dir=tmp_path, count=1)).run()):
        yield found
    for name in found:
        await admin.delete(NODES, name)


@pytest.fixture
async def most_in_change(admin: KubeClient) -> AsyncIterator[NodesInChange]:
    counted = NodesInChange()
    informer = Informer(admin, GPU_NODES, on_change=counted)
    informer.start()
    yield counted
    await informer.stop()


def partition(nodes: list[str], *layout: Object, **spec: Any) -> Object:
    pool = nodes[0].split("-")[1]
    return {
        "apiVersion": names.API_VERSION,
        "kind": "MIGPartition",
        "metadata": {"name": f"static-{pool}"},
        "spec": {
            "nodeSelector": {"matchLabels": {"pool": pool}},
            "mode": "static",
            "static": {"layout": list(layout)},
            **spec,
        },
    }


async def told(admin: KubeClient, wanted: Object, reason: str, *, updated: str) -> Object:
    """The partition once LayoutApplied has that reason for the present spec."""

    async def look() -> Object | None:
        obj = await admin.get(MIG_PARTITIONS, wanted["metadata"]["name"])
        status = obj.get("status") or {}
        said = find_condition(status.get("conditions"), "LayoutApplied")
        current = said is not None and said["observedGeneration"] == obj["metadata"]["generation"]
        summary = (status.get("layout") or {}).get("summary")
        return obj if current and said and (said["reason"], summary) == (reason, updated) else None

    async def state() -> object:
        return (await admin.get(MIG_PARTITIONS, wanted["metadata"]["name"])).get("status")

    return await eventually(f"{reason} with {updated} nodes updated", look, state=state)


def said(obj: Object) -> str:
    """What Ready, the summary, says."""
    ready = find_condition(obj["status"]["conditions"], "Ready")
    assert ready is not None
    return str(ready["message"])


async def instances(admin: KubeClient, node: str) -> dict[str, str]:
    """Profile@start -> MIG UUID."""
    (gpu,) = (await admin.get(GPU_NODES, node))["status"]["gpus"]
    return {f"{one['profile']}@{one['start']}": one["uuid"] for one in gpu["instances"]}


async def test_a_layout_changes_node_by_node_and_only_what_goes_is_drained(
    admin: KubeClient,
    control_plane: ControlPlane,
    namespace: str,
    operator: Operator,
    nodes: list[str],
    most_in_change: NodesInChange,
) -> None:
    wanted = partition(nodes, {"profile": "1g.10gb", "count": 7})
    await admin.create(MIG_PARTITIONS, wanted)
    obj = await told(admin, wanted, "Applied", updated="2/2")
    assert said(obj) == "2 GPU(s) on 2 node(s) have their fixed layout"
    assert control_plane.kubectl("get", "mig", wanted["metadata"]["name"]).split().count("2/2") == 1

    busy = nodes[0]
    (gpu,) = (await admin.get(GPU_NODES, busy))["status"]["gpus"]
    device = {one["start"]: one["device"] for one in gpu["instances"]}
    staying = await pod_on_slice(admin, namespace, "stays", node=busy, device=device[0])
    await pod_on_slice(admin, namespace, "goes", node=busy, device=device[6])
    neighbour = (await instances(admin, busy))["1g.10gb@0"]
    spec = partition(nodes, {"profile": "3g.40gb", "start": 4}, {"profile": "1g.10gb", "count": 3})["spec"]

    # Nobody is evicted without being asked for: the busy node waits, the other does not.
    await admin.patch(MIG_PARTITIONS, wanted["metadata"]["name"], body={"spec": spec})
    obj = await told(admin, wanted, "Blocked", updated="1/2")
    where = f"GPU 0 of node {busy}: 1g.10gb@6 is held by claim {namespace}/goes (pods: {namespace}/goes)"
    assert obj["status"]["layout"]["blockers"] == [where]
    (diff,) = obj["status"]["layout"]["diff"]
    assert diff.startswith(f"GPU 0 of node {busy}: - 1g.10gb@") and diff.endswith("+ 3g.40gb@4")

    spec["update"] = {"drain": {"policy": "Evict"}}
    await admin.patch(MIG_PARTITIONS, wanted["metadata"]["name"], body={"spec": spec})
    await told(admin, wanted, "Applied", updated="2/2")
    with pytest.raises(NotFound):
        await admin.get(PODS, "goes", namespace)
    assert (await admin.get(PODS, "stays", namespace))["metadata"]["uid"] == staying
    after = await instances(admin, busy)
    assert after["1g.10gb@0"] == neighbour
    assert "3g.40gb@4" in after
    assert most_in_change.most == 1

    await admin.delete(MIG_PARTITIONS, wanted["metadata"]["name"])

    async def no_layout() -> bool:
        return not any([(await admin.get(GPU_NODES, name)).get("spec") for name in nodes])

    await eventually("the layouts to go with the partition", no_layout)


async def test_a_driver_that_refuses_stops_the_rollout_and_the_former_spec_brings_all_back(
    admin: KubeClient, operator: Operator, nodes: list[str], tmp_path: Path
) -> None:
    wanted = partition(nodes, {"profile": "2g.20gb", "count": 3})
    await admin.create(MIG_PARTITIONS, wanted)
    await told(admin, wanted, "Applied", updated="2/2")
    former = {name: set(await instances(admin, name)) for name in nodes}

    refusing = FaultInjector(tmp_path / nodes[1] / "simulator")
    refusing.set([Fault("nvmlDeviceCreateGpuInstanceWithPlacement", code=999, times=0)])
    spec = partition(nodes, {"profile": "4g.40gb"}, {"profile": "3g.40gb"})["spec"]
    await admin.patch(MIG_PARTITIONS, wanted["metadata"]["name"], body={"spec": spec})
    obj = await told(admin, wanted, "LayoutFailed", updated="1/2")
    assert f"GPU 0 of node {nodes[1]}: " in said(obj)
    assert "apply the former spec to go back; no further node is begun" in said(obj)
    assert set(await instances(admin, nodes[0])) == {"4g.40gb@0", "3g.40gb@4"}

    refusing.set([])
    await admin.patch(MIG_PARTITIONS, wanted["metadata"]["name"], body={"spec": wanted["spec"]})
    await told(admin, wanted, "Applied", updated="2/2")
    assert {name: set(await instances(admin, name)) for name in nodes} == former
    await admin.delete(MIG_PARTITIONS, wanted["metadata"]["name"])


async def test_mig_mode_goes_off_and_on_again_node_by_node_and_pods_are_drained(
    admin: KubeClient,
    namespace: str,
    operator: Operator,
    nodes: list[str],
    most_in_change: NodesInChange,
) -> None:
    wanted = partition(nodes, {"profile": "2g.20gb", "count": 3})
    await admin.create(MIG_PARTITIONS, wanted)
    await told(admin, wanted, "Applied", updated="2/2")
    busy = nodes[0]
    (gpu,) = (await admin.get(GPU_NODES, busy))["status"]["gpus"]
    await pod_on_slice(admin, namespace, "goes", node=busy, device=gpu["instances"][0]["device"])

    spec: Object = {"mode": "dynamic", "migMode": "Disabled", "static": None}
    await admin.patch(MIG_PARTITIONS, wanted["metadata"]["name"], body={"spec": spec})
    obj = await told(admin, wanted, "Blocked", updated="1/2")
    assert f"is held by claim {namespace}/goes" in said(obj)
    assert (await instances(admin, busy)).keys() == {"2g.20gb@0", "2g.20gb@2", "2g.20gb@4"}

    spec["update"] = {"drain": {"policy": "Evict"}}
    await admin.patch(MIG_PARTITIONS, wanted["metadata"]["name"], body={"spec": spec})
    obj = await told(admin, wanted, "Applied", updated="2/2")
    assert said(obj) == "2 GPU(s) on 2 node(s) are offered as a whole, because MIG mode is off"
    with pytest.raises(NotFound):
        await admin.get(PODS, "goes", namespace)

    whole = encode(gpu_uuid=gpu["uuid"], profile=names.WHOLE_GPU, start=0)
    await pod_on_slice(admin, namespace, "has-all", node=busy, device=whole)
    spec |= wanted["spec"] | {"migMode": "Enabled"}
    await admin.patch(MIG_PARTITIONS, wanted["metadata"]["name"], body={"spec": spec})
    await told(admin, wanted, "Applied", updated="2/2")
    with pytest.raises(NotFound):
        await admin.get(PODS, "has-all", namespace)
    assert (await instances(admin, busy)).keys() == {"2g.20gb@0", "2g.20gb@2", "2g.20gb@4"}
    assert most_in_change.most == 1
    await admin.delete(MIG_PARTITIONS, wanted["metadata"]["name"])
