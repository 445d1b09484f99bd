"""The allocator against the real API server, controller manager and kube-scheduler; no kubelet, and nodes
made by hand.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from background import in_background
from eventually import eventually
from integration.scheduler_cluster import Cluster, watched_cluster
from scheduler_objects import Object, device_name, exactly
from tessera.api import names
from tessera.kube.client import KubeClient
from tessera.kube.resources import DEVICE_CLASSES, RESOURCE_SLICES
from tessera.local.control_plane import ControlPlane
from tessera.local.processes import find, kill_all
from tessera.scheduler.loop import Scheduler, Settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture
async def cluster(admin: KubeClient, namespace: str, control_plane: ControlPlane) -> AsyncIterator[Cluster]:
    async with watched_cluster(admin, namespace, kubeconfig=control_plane.kubeconfig) as made:
        yield made


@pytest.fixture
async def scheduler(admin: KubeClient, namespace: str) -> AsyncIterator[Scheduler]:
    """One replica in this process, with short times."""
    replica = Scheduler(
        admin,
        Settings(
            lease_namespace=namespace,
            identity="scheduler-0",
            policy="first_fit",
            takeback_grace_seconds=1.0,
            settle_seconds=0.1,
        ),
    )
    async with in_background(replica.run()):
        yield replica


async def test_a_bound_pod_whose_slice_is_withdrawn_before_it_starts_gets_another_one_of_its_node(
    cluster: Cluster, scheduler: Scheduler
) -> None:
    node = await cluster.add_node("a")
    await cluster.add_template("one-2g", exactly("2g.20gb"))
    pod = await cluster.add_pod("late", template="one-2g")
    assert await cluster.bound("late") == node
    claim_name = (await cluster.pod("late"))["status"]["resourceClaimStatuses"][0]["resourceClaimName"]
    first, second = (device_name(cluster.gpu("a"), "2g.20gb", start) for start in (0, 2))

    slices = await cluster.client.list(RESOURCE_SLICES, field_selector=f"spec.nodeName={node}")
    (offered,) = (item for item in slices.items if item["spec"].get("devices"))
    offered["spec"]["devices"] = [one for one in offered["spec"]["devices"] if one["name"] != first]
    await cluster.client.replace(RESOURCE_SLICES, offered)

    async def moved() -> bool:
        status = (await cluster.claim(claim_name))["status"]
        results = status.get("allocation", {}).get("devices", {}).get("results", [])
        users = [user["uid"] for user in status.get("reservedFor", [])]
        return (users, [one["device"] for one in results]) == ([pod["metadata"]["uid"]], [second])

    await eventually("another slice for the pod that waits on its node", moved)

    async def told() -> bool:
        return "TakenBack" in await cluster.reasons("late")

    await eventually("the event TakenBack on the pod", told)


async def test_a_gated_pod_is_allocated_and_bound_by_kube_scheduler(
    cluster: Cluster, scheduler: Scheduler
) -> None:
    node = await cluster.add_node("a")
    classes = (await cluster.client.list(DEVICE_CLASSES)).items
    assert names.DEVICE_CLASS not in [c["metadata"]["name"] for c in classes]
    await cluster.add_template("one-2g", exactly("2g.20gb"))
    pod = await cluster.add_pod("train", template="one-2g")
    assert await cluster.bound("train") == node
    claim_name = (await cluster.pod("train"))["status"]["resourceClaimStatuses"][0]["resourceClaimName"]
    claim = await cluster.claim(claim_name)
    assert claim["metadata"]["finalizers"] == [names.CLAIM_FINALIZER]
    assert claim["status"]["reservedFor"] == [
        {"name": "train", "resource": "pods", "uid": pod["metadata"]["uid"]}
    ]
    allocation = claim["status"]["allocation"]
    assert allocation["allocationTimestamp"]
    assert allocation["devices"]["results"] == [
        {
            "request": "slice",
            "driver": names.DRIVER,
            "pool": node,
            "device": device_name(cluster.gpu("a"), "2g.20gb", 0),
        }
    ]

    async def told() -> bool:
        return await cluster.reasons("train") == ["Placed"]

    await eventually("the event Placed on the pod", told)
    # The claim of a template is its pod's: one event says all.
    assert await cluster.reasons(claim_name) == []


async def test_pods_that_are_allocated_while_kube_scheduler_is_away_are_bound_when_it_is_back(
    cluster: Cluster, scheduler: Scheduler, control_plane: ControlPlane
) -> None:
    """Killed between allocation and bind; what is taken back meanwhile is placed anew, and nothing twice."""
    node = await cluster.add_node("a")
    identity = control_plane.state.identity()
    assert identity is not None
    kill_all(lambda: find(identity=identity, role="kube-scheduler"), identity=identity)
    try:
        for name in ("left", "right"):
            await cluster.add_claim(name, exactly("3g.40gb"))
            await cluster.add_pod(name, claim=name)

        async def ungated() -> bool:
            pods = [await cluster.pod(name) for name in ("left", "right")]
            return not any(pod["spec"].get("schedulingGates") for pod in pods)

        await eventually("both pods without their gate", ungated)
        assert not (await cluster.pod("left"))["spec"].get("nodeName")
    finally:
        await asyncio.to_thread(control_plane.up)
    for name in ("left", "right"):
        assert await cluster.bound(name, seconds=60.0) == node
    held = [await cluster.devices(name) for name in ("left", "right")]
    assert sorted(held) == [[device_name(cluster.gpu("a"), "3g.40gb", start)] for start in (0, 4)]


async def test_a_freed_claim_is_placed_again_with_its_finalizer(
    cluster: Cluster, scheduler: Scheduler
) -> None:
    await cluster.add_node("a")
    await cluster.add_claim("shared", exactly("7g.80gb"))
    await cluster.add_pod("first", claim="shared")
    await cluster.bound("first")
    await cluster.delete_pod("first")

    async def freed() -> bool:
        claim = await cluster.claim("shared")
        return "allocation" not in claim["status"] and not claim["metadata"].get("finalizers")

    await eventually("the allocation and the finalizer cleared by kube-controller-manager", freed)
    await cluster.add_pod("second", claim="shared")
    await cluster.bound("second")
    assert (await cluster.claim("shared"))["metadata"]["finalizers"] == [names.CLAIM_FINALIZER]


async def test_two_pods_share_a_claim(cluster: Cluster, scheduler: Scheduler) -> None:
    node = await cluster.add_node("a")
    await cluster.add_claim("shared", exactly("3g.40gb"))
    await cluster.add_pod("first", claim="shared")
    await cluster.add_pod("second", claim="shared")
    assert await cluster.bound("first") == node
    assert await cluster.bound("second") == node


async def test_a_pod_without_slices_is_ungated_at_once(cluster: Cluster, scheduler: Scheduler) -> None:
    node = await cluster.add_node("a")
    await cluster.add_pod("plain")
    assert await cluster.bound("plain") == node


async def test_what_does_not_fit_says_why_and_is_placed_when_room_is_made(
    cluster: Cluster, scheduler: Scheduler
) -> None:
    await cluster.add_node("a")
    await cluster.add_claim("small", exactly("1g.10gb"))
    await cluster.add_pod("small", claim="small")
    await cluster.bound("small")
    await cluster.add_claim("whole", exactly("7g.80gb"))
    await cluster.add_pod("whole", claim="whole")
    message = await cluster.refusal("whole")
    assert message["reason"] == "Unplaceable"
    victim = device_name(cluster.gpu("a"), "1g.10gb", 0)
    assert f"freeing {victim} (claim {cluster.namespace}/small)" in message["message"]

    async def told() -> bool:
        return "Unplaceable" in await cluster.reasons("whole")

    await eventually("the event Unplaceable", told)
    await cluster.delete_pod("small")
    await cluster.bound("whole")
    assert await cluster.message("whole") == ""


async def test_a_whole_gpu_is_placed_beside_a_slice_of_another(
    cluster: Cluster, scheduler: Scheduler
) -> None:
    whole = cluster.gpu("w")
    node = await cluster.add_node("a", whole=[whole])
    await cluster.add_claim("both", exactly("gpu", name="big"), exactly("2g.20gb", name="small"))
    await cluster.add_pod("train", claim="both")
    assert await cluster.bound("train") == node
    named = device_name(whole, "gpu", 0)
    assert await cluster.devices("both") == [named, device_name(cluster.gpu("a"), "2g.20gb", 0)]
    await cluster.add_claim("late", exactly("gpu"))
    await cluster.add_pod("late", claim="late")
    message = await cluster.refusal("late")
    assert message["reason"] == "Unplaceable"
    assert f"freeing {named} (claim {cluster.namespace}/both)" in message["message"]
    await cluster.delete_pod("train")
    await cluster.bound("late")
    assert await cluster.devices("late") == [named]


async def test_an_unknown_profile_and_a_broken_selector_are_named(
    cluster: Cluster, scheduler: Scheduler
) -> None:
    await cluster.add_node("a")
    await cluster.add_claim("unknown", exactly("9g.90gb"))
    broken = exactly("1g.10gb")
    expression = 'device.attributes["gpu.tessera.dev"].colour == "red"'
    broken["exactly"]["selectors"] = [{"cel": {"expression": expression}}]
    await cluster.add_claim("broken", broken)
    for name in ("unknown", "broken"):
        await cluster.add_pod(name, claim=name)

    async def reasons() -> bool:
        return await cluster.reasons("unknown") != [] and await cluster.reasons("broken") != []

    await eventually("events on both pods", reasons)
    assert set(await cluster.reasons("unknown")) == {"UnknownProfile"}
    assert set(await cluster.reasons("broken")) == {"InvalidRequest"}


async def test_first_available_takes_the_first_that_fits(cluster: Cluster, scheduler: Scheduler) -> None:
    await cluster.add_node("a")
    await cluster.add_claim("small", exactly("1g.10gb"))
    await cluster.add_pod("small", claim="small")
    await cluster.bound("small")
    parts = [
        {"name": name, **exactly(profile)["exactly"]}
        for name, profile in (("whole", "7g.80gb"), ("half", "3g.40gb"))
    ]
    await cluster.add_claim("either", {"name": "slice", "firstAvailable": parts})
    await cluster.add_pod("either", claim="either")
    await cluster.bound("either")
    result = (await cluster.claim("either"))["status"]["allocation"]["devices"]["results"][0]
    assert result["request"] == "slice/half"
    assert result["device"] == device_name(cluster.gpu("a"), "3g.40gb", 4)


def _with_host_port() -> Object:
    """A pod spec that kube-scheduler admits once per node, by a rule (host ports) that we do not know."""
    ports = [{"containerPort": 80, "hostPort": 8080}]
    return {"containers": [{"name": "main", "image": "example.invalid/none", "ports": ports}]}


async def test_a_place_that_no_node_can_hold_is_taken_back_and_the_next_node_tried(
    cluster: Cluster, scheduler: Scheduler
) -> None:
    first = await cluster.add_node("a")
    await cluster.add_pod("in-the-way", nodeName=first, gated=False, **_with_host_port())
    await cluster.add_claim("slice", exactly("2g.20gb"))
    await cluster.add_pod("train", claim="slice", **_with_host_port())

    async def taken_back() -> bool:
        return "TakenBack" in await cluster.reasons("train") and await cluster.devices("slice") == []

    await eventually("the allocation taken back", taken_back)
    second = await cluster.add_node("b")
    assert await cluster.bound("train", seconds=60) == second
    assert await cluster.devices("slice") == [device_name(cluster.gpu("b"), "2g.20gb", 0)]


async def test_a_missing_volume_claim_is_still_what_pod_and_claim_say_after_the_slice_is_taken_back(
    cluster: Cluster, scheduler: Scheduler
) -> None:
    await cluster.add_node("a")
    await cluster.add_claim("slice", exactly("2g.20gb"))
    volumes = [{"name": "output", "persistentVolumeClaim": {"claimName": "output"}}]
    await cluster.add_pod("train", claim="slice", volumes=volumes)

    async def refused() -> str:
        text = await cluster.message("slice")
        return str(json.loads(text)["message"]) if text and await cluster.devices("slice") == [] else ""

    message = await eventually("the slice taken back, and a refusal", refused, seconds=60)
    assert 'persistentvolumeclaim "output" not found' in message
    assert "; put that right; the next try is at " in message
    assert "CPU" not in message
    conditions = (await cluster.pod("train"))["status"]["conditions"]
    (scheduled,) = [c for c in conditions if c["type"] == "PodScheduled"]
    assert 'persistentvolumeclaim "output" not found' in scheduled["message"]


async def test_an_allocation_that_kube_scheduler_clears_is_made_elsewhere(
    cluster: Cluster, scheduler: Scheduler
) -> None:
    first, second = await cluster.add_node("a"), await cluster.add_node("b")
    await cluster.add_pod("in-the-way", nodeName=first, gated=False, **_with_host_port())
    await cluster.add_claim("slice", exactly("2g.20gb"))
    await cluster.add_pod("train", claim="slice", **_with_host_port())
    assert await cluster.bound("train", seconds=60) == second

    async def allocated() -> list[str]:
        # With this short grace time the slice may be taken back while the pod is being bound; it is then
        # allocated again, on the pod's own node.
        return await cluster.devices("slice")

    assert await eventually("the claim allocated", allocated) == [device_name(cluster.gpu("b"), "2g.20gb", 0)]


async def test_a_bound_pod_with_an_unallocated_claim_is_allocated_on_its_node(
    cluster: Cluster, scheduler: Scheduler
) -> None:
    await cluster.add_node("a")
    second = await cluster.add_node("b")
    await cluster.add_claim("slice", exactly("2g.20gb"))
    await cluster.add_pod("bound", claim="slice", gated=False, nodeName=second)

    async def allocated() -> list[str]:
        return await cluster.devices("slice")

    assert await eventually("the claim allocated", allocated) == [device_name(cluster.gpu("b"), "2g.20gb", 0)]


async def test_a_gang_starts_only_as_a_whole(cluster: Cluster, scheduler: Scheduler) -> None:
    await cluster.add_node("a")
    gang = {names.GANG_ANNOTATION: "duo", names.GANG_SIZE_ANNOTATION: "2"}
    for name, profile in (("one", "3g.40gb"), ("two", "7g.80gb"), ("other", "3g.40gb")):
        await cluster.add_claim(name, exactly(profile))
    await cluster.add_pod("one", claim="one", annotations=gang)
    await cluster.add_pod("two", claim="two", annotations=gang)
    await cluster.add_pod("other", claim="other")
    await cluster.bound("other")

    async def refused() -> bool:
        return "Unplaceable" in await cluster.reasons("one") and "Unplaceable" in await cluster.reasons("two")

    await eventually("the refusal on both members", refused)
    assert await cluster.devices("one") == []
    assert (await cluster.pod("one"))["spec"]["schedulingGates"]
    node = await cluster.add_node("b")
    assert await cluster.bound("two") == node
    await cluster.bound("one")
