"""What claims may say, against the real API server and kube-scheduler: classes, shared claims, gangs that a
leader leaves half done, reserved room, and the explanation of it all.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from background import in_background
from click.testing import CliRunner
from eventually import eventually
from integration.scheduler_cluster import Cluster, watched_cluster
from scheduler_objects import device_name, exactly
from tessera.api import names
from tessera.cli.main import command as tessera
from tessera.kube.client import KubeClient
from tessera.kube.resources import DEVICE_CLASSES, GPU_NODES, MIG_PARTITIONS, PODS, RESOURCE_CLAIMS
from tessera.local.control_plane import ControlPlane
from tessera.scheduler.loop import Scheduler, Settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture
async def cluster(admin: KubeClient, namespace: str, control_plane: ControlPlane) -> AsyncIterator[Cluster]:
    async with watched_cluster(admin, namespace, kubeconfig=control_plane.kubeconfig) as made:
        yield made


def replica(client: KubeClient, namespace: str, *, name: str = "scheduler-0") -> Scheduler:
    settings = Settings(
        lease_namespace=namespace, identity=name, policy="first_fit", takeback_grace_seconds=5.0,
        settle_seconds=0.1, lease_seconds=3, renew_deadline_seconds=2, retry_seconds=0.5,
    )  # fmt: skip
    return Scheduler(client, settings)


@pytest.fixture
async def scheduler(admin: KubeClient, namespace: str) -> AsyncIterator[None]:
    async with in_background(replica(admin, namespace).run()):
        yield


async def test_a_class_of_our_driver_is_served_with_its_selectors_and_configuration(
    cluster: Cluster, scheduler: None
) -> None:
    node = await cluster.add_node("a")
    name = f"half.{cluster.namespace}"
    opaque = {"driver": names.DRIVER, "parameters": {"sharing": "none"}}
    ours = f'device.driver == "{names.DRIVER}"'
    half = f'device.attributes["{names.DRIVER}"].?memorySlices.orValue(0) == 4'
    body = {
        "metadata": {"name": name},
        "spec": {
            "selectors": [{"cel": {"expression": e}} for e in (ours, half)],
            "config": [{"opaque": opaque}],
        },
    }
    await cluster.client.create(DEVICE_CLASSES, body)
    try:
        await cluster.add_claim("half", {"name": "slice", "exactly": {"deviceClassName": name}})
        await cluster.add_pod("train", claim="half")
        assert await cluster.bound("train") == node
        devices = (await cluster.claim("half"))["status"]["allocation"]["devices"]
        assert [r["device"] for r in devices["results"]] == [device_name(cluster.gpu("a"), "3g.40gb", 0)]
        assert devices["config"] == [{"source": "FromClass", "requests": ["slice"], "opaque": opaque}]
    finally:
        await cluster.client.delete(DEVICE_CLASSES, name)


async def test_sharers_are_reserved_one_after_the_other_and_outlive_the_first(
    cluster: Cluster, scheduler: None
) -> None:
    node = await cluster.add_node("a", cpu="2")
    await cluster.add_claim("shared", exactly("3g.40gb"))
    for name in ("first", "second", "third"):
        await cluster.add_pod(name, claim="shared")
    assert {await cluster.bound("first"), await cluster.bound("second")} == {node}

    async def third_is_told() -> bool:
        return "Unplaceable" in await cluster.reasons("third")

    await eventually("the third sharer told that CPU is missing", third_is_told)
    assert (await cluster.pod("third"))["spec"]["schedulingGates"]
    status = (await cluster.claim("shared"))["status"]
    assert {consumer["name"] for consumer in status["reservedFor"]} == {"first", "second"}
    await cluster.delete_pod("first")
    assert await cluster.bound("third") == node
    assert (await cluster.claim("shared"))["status"]["allocation"] == status["allocation"]


class DiesBeforeUngating(KubeClient):
    """A client whose process is killed when it is about to remove the first gate."""

    def __init__(self, other: KubeClient) -> None:
        self.__dict__ |= other.__dict__
        self.died = asyncio.Event()

    async def patch(self, resource: Any, name: str, **more: Any) -> Any:
        if resource is PODS:
            self.died.set()
        if self.died.is_set():
            await asyncio.Event().wait()
        return await super().patch(resource, name, **more)

    async def replace(self, *arguments: Any, **more: Any) -> Any:
        if self.died.is_set():
            await asyncio.Event().wait()
        return await super().replace(*arguments, **more)


async def test_a_gang_whose_leader_died_between_allocating_and_letting_go_starts_with_the_next(
    cluster: Cluster, admin: KubeClient, namespace: str
) -> None:
    await cluster.add_node("a")
    await cluster.add_node("b")
    gang = {names.GANG_ANNOTATION: "duo", names.GANG_SIZE_ANNOTATION: "2"}
    for name, profile in (("one", "3g.40gb"), ("two", "7g.80gb")):
        await cluster.add_claim(name, exactly(profile))
        await cluster.add_pod(name, claim=name, annotations=gang)
    dying = DiesBeforeUngating(admin)
    async with in_background(replica(dying, namespace).run()):
        await asyncio.wait_for(dying.died.wait(), 30)
        held = [await cluster.devices("one"), await cluster.devices("two")]
        assert all(held)
        assert all([(await cluster.pod(name))["spec"]["schedulingGates"] for name in ("one", "two")])
        async with in_background(replica(admin, namespace, name="scheduler-1").run()):
            for name in ("one", "two"):
                await cluster.bound(name, seconds=60)
            assert [await cluster.devices("one"), await cluster.devices("two")] == held


async def test_reserved_room_is_kept_and_explained(
    cluster: Cluster, admin: KubeClient, control_plane: ControlPlane
) -> None:
    node = await cluster.add_node("a")
    uuid = f"GPU-{cluster.gpu('a').removeprefix('gpu-')}"
    partition = {
        "metadata": {"name": cluster.namespace},
        "spec": {
            "nodeSelector": {"matchLabels": {"test": cluster.namespace}},
            "dynamic": {"reserves": [{"profile": "7g.80gb", "count": 1}]},
        },
    }
    entry = {"uuid": uuid, "partition": cluster.namespace, "migMode": "Unmanaged"}
    await cluster.client.create(GPU_NODES, {"metadata": {"name": node}, "spec": {"gpus": [entry]}})
    await cluster.client.create(MIG_PARTITIONS, partition)
    try:
        async with in_background(replica(admin, cluster.namespace).run()):
            await cluster.add_claim("small", exactly("1g.10gb"))
            await cluster.add_pod("small", claim="small")
            told = await cluster.refusal("small")
            assert f"1 x 7g.80gb (MIGPartition {cluster.namespace}), room for 1 now" in told["message"]
            arguments = ["explain", "pod", "small", "-n", cluster.namespace]
            arguments += [
                "--kubeconfig",
                str(control_plane.kubeconfig),
                "--system-namespace",
                cluster.namespace,
            ]
            asked = await asyncio.to_thread(CliRunner().invoke, tessera, [*arguments, "--json"])
            assert asked.exit_code == 0, asked.output
            found = json.loads(asked.output)
            assert (found["state"], found["reason"], found["leader"]) == (
                "Waiting",
                "Unplaceable",
                "scheduler-0",
            )
            assert found["message"] == told["message"]
            assert found["funnel"]["gpus_in_reach"] == 1
            text = await asyncio.to_thread(CliRunner().invoke, tessera, arguments)
            assert text.output.startswith(f"Pod {cluster.namespace}/small waits (1g.10gb): Unplaceable")
            assert max(map(len, text.output.splitlines())) <= 80
            await cluster.add_claim("large", exactly("7g.80gb"))
            await cluster.add_pod("large", claim="large")
            assert await cluster.bound("large") == node
    finally:
        await cluster.client.delete(MIG_PARTITIONS, cluster.namespace)
        await cluster.client.delete(GPU_NODES, node)


async def test_a_request_that_only_the_api_understands_is_refused_by_name(
    cluster: Cluster, scheduler: None
) -> None:
    await cluster.add_node("a")
    everything = exactly("1g.10gb")
    everything["exactly"]["allocationMode"] = "All"
    await cluster.add_claim("everything", everything)
    await cluster.add_pod("everything", claim="everything")
    message = await cluster.refusal("everything")
    assert message["reason"] == "InvalidRequest"
    assert "allocationMode All is not served; give a count" in message["message"]
    await cluster.client.delete(RESOURCE_CLAIMS, "everything", namespace=cluster.namespace)
