"""The plugin over real unix sockets, with a gRPC client in the kubelet's place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import grpc.aio
import pytest
from tessera.agent import generate_proto
from tessera.agent.claims import AllocatedDevice, ClaimKey
from tessera.agent.plugin import Plugin, SocketNotOpened, SocketPathTooLong
from tessera.agent.proto import (
    dra_v1_pb2,
    dra_v1_pb2_grpc,
    dra_v1beta1_pb2,
    dra_v1beta1_pb2_grpc,
    pluginregistration_v1_pb2,
    pluginregistration_v1_pb2_grpc,
)

VERSIONS = [(dra_v1_pb2, dra_v1_pb2_grpc), (dra_v1beta1_pb2, dra_v1beta1_pb2_grpc)]


@dataclass
class ScriptedNode:
    """Prepares at once; claims named `bad` fail; claims named `slow` wait until `gate` opens."""

    calls: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    started: asyncio.Event = field(default_factory=asyncio.Event)

    async def prepare(self, claim: ClaimKey, *, timeout_seconds: float) -> tuple[AllocatedDevice, ...]:
        self.calls.append(f"prepare {claim.name}")
        assert 0 < timeout_seconds <= 45
        self.started.set()
        if claim.name == "bad":
            raise RuntimeError("no room on this node")
        if claim.name == "slow":
            await self.gate.wait()
        self.calls.append(f"prepared {claim.name}")
        return (AllocatedDevice(request="slice", device="gpu-1f3c9a2e-2g-20gb-4"),)

    async def unprepare(self, claim: ClaimKey) -> None:
        self.calls.append(f"unprepare {claim.name}")
        if claim.name == "bad":
            raise RuntimeError("the driver hangs")


@pytest.fixture
def node() -> ScriptedNode:
    return ScriptedNode()


@pytest.fixture
async def plugin(node: ScriptedNode, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Plugin]:
    served = Plugin(
        node,
        pool="node-a",
        kubelet_dir=tmp_path_factory.mktemp("k"),
        cdi_device_id=lambda uid: f"gpu.tessera.dev/claim={uid}",
    )
    await served.start()
    yield served
    await served.stop(grace_seconds=0)


def claim(messages: ModuleType, name: str) -> Any:
    return messages.Claim(namespace="default", name=name, uid=f"uid-{name}")


def prepare_request(messages: ModuleType, *names: str) -> Any:
    return messages.NodePrepareResourcesRequest(claims=[claim(messages, name) for name in names])


def unprepare_request(messages: ModuleType, *names: str) -> Any:
    return messages.NodeUnprepareResourcesRequest(claims=[claim(messages, name) for name in names])


async def test_the_kubelet_learns_name_socket_and_versions(plugin: Plugin) -> None:
    async with grpc.aio.insecure_channel(f"unix://{plugin.registration_socket}") as channel:
        stub = pluginregistration_v1_pb2_grpc.RegistrationStub(channel)
        info = await stub.GetInfo(pluginregistration_v1_pb2.InfoRequest())
        assert (info.type, info.name, info.endpoint) == (
            "DRAPlugin",
            "gpu.tessera.dev",
            str(plugin.dra_socket),
        )
        assert list(info.supported_versions) == ["v1.DRAPlugin", "v1beta1.DRAPlugin"]
        assert not plugin.registered
        await stub.NotifyRegistrationStatus(
            pluginregistration_v1_pb2.RegistrationStatus(plugin_registered=True)
        )
        assert plugin.registered
        status = pluginregistration_v1_pb2.RegistrationStatus(plugin_registered=False, error="no")
        await stub.NotifyRegistrationStatus(status)
        assert not plugin.registered


@pytest.mark.parametrize(("messages", "services"), VERSIONS)
async def test_devices_are_told_in_both_versions(plugin: Plugin, messages: Any, services: Any) -> None:
    async with grpc.aio.insecure_channel(f"unix://{plugin.dra_socket}") as channel:
        stub = services.DRAPluginStub(channel)
        answer = await stub.NodePrepareResources(prepare_request(messages, "a"), timeout=10)
        (device,) = answer.claims["uid-a"].devices
        assert list(device.request_names) == ["slice"]
        assert (device.pool_name, device.device_name) == ("node-a", "gpu-1f3c9a2e-2g-20gb-4")
        assert list(device.cdi_device_ids) == ["gpu.tessera.dev/claim=uid-a"]
        released = await stub.NodeUnprepareResources(unprepare_request(messages, "a"), timeout=10)
        assert released.claims["uid-a"].error == ""


@pytest.mark.parametrize(("messages", "services"), VERSIONS)
async def test_one_bad_claim_does_not_fail_the_others(plugin: Plugin, messages: Any, services: Any) -> None:
    async with grpc.aio.insecure_channel(f"unix://{plugin.dra_socket}") as channel:
        stub = services.DRAPluginStub(channel)
        answer = await stub.NodePrepareResources(prepare_request(messages, "a", "bad"), timeout=10)
        assert answer.claims["uid-bad"].error == "no room on this node"
        assert len(answer.claims["uid-a"].devices) == 1
        released = await stub.NodeUnprepareResources(unprepare_request(messages, "a", "bad"), timeout=10)
        assert (released.claims["uid-a"].error, released.claims["uid-bad"].error) == ("", "the driver hangs")


async def test_a_cancelled_preparation_runs_to_its_end_and_is_joined(
    plugin: Plugin, node: ScriptedNode
) -> None:
    async with grpc.aio.insecure_channel(f"unix://{plugin.dra_socket}") as channel:
        stub = dra_v1_pb2_grpc.DRAPluginStub(channel)
        first = stub.NodePrepareResources(prepare_request(dra_v1_pb2, "slow"), timeout=30)
        waiting = asyncio.ensure_future(first)
        await asyncio.wait_for(node.started.wait(), 10)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    key = ClaimKey(namespace="default", name="slow", uid="uid-slow")
    again = asyncio.ensure_future(plugin.prepare(key, timeout_seconds=30))
    release = asyncio.ensure_future(plugin.unprepare(key))
    await asyncio.sleep(0)
    node.gate.set()
    assert await again
    await release
    assert node.calls.count("prepare slow") == 1
    assert node.calls.index("prepared slow") < node.calls.index("unprepare slow")


async def test_sockets_of_a_killed_agent_are_replaced(plugin: Plugin, node: ScriptedNode) -> None:
    kubelet_dir = plugin.dra_socket.parents[2]
    second = Plugin(node, pool="node-a", kubelet_dir=kubelet_dir, cdi_device_id=str)
    await second.start()
    async with grpc.aio.insecure_channel(f"unix://{second.dra_socket}") as channel:
        stub = dra_v1_pb2_grpc.DRAPluginStub(channel)
        await stub.NodePrepareResources(prepare_request(dra_v1_pb2, "a"), timeout=10)
    await second.stop(grace_seconds=0)
    assert not second.registration_socket.exists()


async def test_a_socket_path_that_the_kernel_refuses_is_explained(node: ScriptedNode, tmp_path: Path) -> None:
    plugin = Plugin(node, pool="node-a", kubelet_dir=tmp_path / ("x" * 100), cdi_device_id=str)
    with pytest.raises(SocketPathTooLong, match="Use a shorter --kubelet-dir"):
        await plugin.start()


async def test_a_kubelet_directory_that_cannot_be_used_is_explained(
    node: ScriptedNode, short_directory: Path
) -> None:
    (short_directory / "file").write_text("")
    plugin = Plugin(node, pool="node-a", kubelet_dir=short_directory / "file", cdi_device_id=str)
    with pytest.raises(SocketNotOpened, match=r"Not a directory\. Point --kubelet-dir at"):
        await plugin.start()
    await plugin.stop(grace_seconds=0)


def test_generated_modules_are_current() -> None:
    assert generate_proto.stale() == []
