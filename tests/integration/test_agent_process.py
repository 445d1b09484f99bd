"""The agent as a process on a real API server, with this test in the kubelet's and the scheduler's place."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from tessera.agent.proto import (
    dra_v1_pb2,
    dra_v1_pb2_grpc,
    pluginregistration_v1_pb2,
    pluginregistration_v1_pb2_grpc,
)
from tessera.gpu.simulator.faults import Fault, FaultInjector
from tessera.kube.client import KubeClient
from tessera.kube.errors import NotFound
from tessera.kube.resources import EVENTS, GPU_NODES, NODES, RESOURCE_CLAIMS, RESOURCE_SLICES
from tessera.local.control_plane import ControlPlane
from tessera.local.ports import free_ports

pytestmark = pytest.mark.integration
LIMIT_SECONDS = 60.0


async def eventually(what: str, probe: Callable[[], Awaitable[Any]]) -> Any:
    """Wait until the probe returns something true."""
    last: Any = None
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            while True:
                last = await probe()
                if last:
                    return last
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"gave up waiting for {what}; last seen: {last}")


@dataclass
class AgentProcess:
    """`tessera agent` on a Node object that has no kubelet."""

    client: KubeClient
    kubeconfig: Path
    directory: Path
    namespace: str
    node: str
    flags: tuple[str, ...] = ("--simulate=H100-80GB", "--simulate-count=2")
    port: int = 0
    process: asyncio.subprocess.Process | None = None
    channels: list[grpc.aio.Channel] = field(default_factory=list)

    @property
    def checkpoint(self) -> Path:
        return self.directory / "state" / "checkpoint.json"

    @property
    def cdi(self) -> Path:
        return self.directory / "cdi"

    @property
    def faults(self) -> FaultInjector:
        return FaultInjector(self.directory / "state" / "simulator")

    async def start(self) -> None:
        (self.port,) = free_ports(1)
        with (self.directory / "agent.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                "from tessera.cli.main import main; main()",
                "agent",
                f"--node-name={self.node}",
                f"--kubelet-dir={self.directory}",
                f"--cdi-dir={self.cdi}",
                f"--state-dir={self.directory / 'state'}",
                f"--port={self.port}",
                f"--kubeconfig={self.kubeconfig}",
                *self.flags,
                stderr=log,
            )
        await eventually("readiness", self.is_ready)
        await self.register()

    async def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.returncode is None, self.log()
        return await asyncio.to_thread(self._answers, "readyz")

    def _answers(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    async def metrics(self) -> str:
        def read() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
                return str(answer.read().decode())

        return await asyncio.to_thread(read)

    async def register(self) -> None:
        """What the kubelet's plugin watcher does."""
        socket = self.directory / "plugins_registry" / "gpu.tessera.dev-reg.sock"
        async with grpc.aio.insecure_channel(f"unix://{socket}") as channel:
            stub = pluginregistration_v1_pb2_grpc.RegistrationStub(channel)
            await stub.GetInfo(pluginregistration_v1_pb2.InfoRequest())
            await stub.NotifyRegistrationStatus(
                pluginregistration_v1_pb2.RegistrationStatus(plugin_registered=True)
            )

    async def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), LIMIT_SECONDS)

    def log(self) -> str:
        return (self.directory / "agent.log").read_text()

    async def device(self, profile: str, start: int, gpu: int = 0) -> str:
        """The name of the published device."""
        found = await self.client.list(RESOURCE_SLICES, field_selector=f"spec.nodeName={self.node}")
        for device in (device for item in found.items for device in item["spec"].get("devices") or []):
            attributes = device["attributes"]
            if (
                attributes["profile"]["string"] == profile
                and attributes["start"]["int"] == start
                and attributes["gpuIndex"]["int"] == gpu
            ):
                return str(device["name"])
        pytest.fail(f"{profile} at {start} is not published")

    async def allocate(self, name: str, profile: str, start: int) -> Any:
        """A claim with an allocation, as the scheduler writes it; returns the kubelet's message for it."""
        claim = await self.client.create(
            RESOURCE_CLAIMS,
            {
                "apiVersion": RESOURCE_CLAIMS.api_version,
                "kind": RESOURCE_CLAIMS.kind,
                "metadata": {"name": name, "namespace": self.namespace},
                "spec": {
                    "devices": {
                        "requests": [{"name": "slice", "exactly": {"deviceClassName": "slice.tessera.dev"}}]
                    }
                },
            },
        )
        result = {
            "request": "slice",
            "driver": "gpu.tessera.dev",
            "pool": self.node,
            "device": await self.device(profile, start),
        }
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        status = {"allocation": {"allocationTimestamp": stamp, "devices": {"results": [result]}}}
        await self.client.patch(
            RESOURCE_CLAIMS, name, namespace=self.namespace, body={"status": status}, subresource="status"
        )
        return dra_v1_pb2.Claim(namespace=self.namespace, name=name, uid=claim["metadata"]["uid"])

    def stub(self) -> Any:
        channel = grpc.aio.insecure_channel(f"unix://{self.directory / 'plugins/gpu.tessera.dev/dra.sock'}")
        self.channels.append(channel)
        return dra_v1_pb2_grpc.DRAPluginStub(channel)

    async def prepare(self, claim: Any) -> Any:
        request = dra_v1_pb2.NodePrepareResourcesRequest(claims=[claim])
        answer = await self.stub().NodePrepareResources(request, timeout=45)
        return answer.claims[claim.uid]

    async def unprepare(self, claim: Any) -> Any:
        request = dra_v1_pb2.NodeUnprepareResourcesRequest(claims=[claim])
        answer = await self.stub().NodeUnprepareResources(request, timeout=45)
        return answer.claims[claim.uid]

    async def instances(self) -> list[dict[str, Any]]:
        status = (await self.client.get(GPU_NODES, self.node)).get("status") or {}
        return [instance for gpu in status.get("gpus") or [] for instance in gpu.get("instances") or []]

    async def reported(self, *wanted: tuple[str, int, str]) -> list[dict[str, Any]]:
        """Wait until the GPUNode shows exactly these (profile, start, state)."""

        async def probe() -> list[dict[str, Any]] | None:
            found = await self.instances()
            shown = {(item["profile"], item["start"], item["state"]) for item in found}
            return found if shown == set(wanted) and found else None

        found: list[dict[str, Any]] = await eventually(f"instances {wanted}", probe)
        return found

    async def condition(self, reason: str) -> dict[str, Any]:
        async def probe() -> dict[str, Any] | None:
            try:
                status = (await self.client.get(GPU_NODES, self.node)).get("status") or {}
            except NotFound:
                return None
            conditions = status.get("conditions") or []
            return next((item for item in conditions if item["reason"] == reason), None)

        found: dict[str, Any] = await eventually(f"reason {reason}", probe)
        return found

    def spec_uuid(self, claim: Any) -> str:
        """The MIG UUID that the claim's container would see."""
        text = (self.cdi / f"gpu.tessera.dev-claim-{claim.uid}.json").read_text()
        (device,) = json.loads(text)["devices"]
        pairs = dict(entry.split("=", 1) for entry in device["containerEdits"]["env"])
        return str(pairs["TESSERA_SLICE_UUID"])


@pytest.fixture
async def agent(
    admin: KubeClient,
    control_plane: ControlPlane,
    namespace: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[AgentProcess]:
    node = f"agent-{uuid.uuid4().hex[:8]}"
    await admin.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
    process = AgentProcess(
        client=admin,
        kubeconfig=control_plane.kubeconfig,
        directory=tmp_path_factory.mktemp("a"),
        namespace=namespace,
        node=node,
    )
    yield process
    for channel in process.channels:
        await channel.close()
    if process.process is not None:
        await process.end(signal.SIGKILL)
    await admin.delete(NODES, node)


async def test_a_claim_is_prepared_reported_released_and_its_slice_used_again(agent: AgentProcess) -> None:
    await agent.start()
    await agent.condition("Published")
    first = await agent.allocate("first", "2g.20gb", 4)
    answer = await agent.prepare(first)
    assert answer.error == ""
    assert list(answer.devices[0].cdi_device_ids) == [f"gpu.tessera.dev/claim={first.uid}"]
    (shown,) = await agent.reported(("2g.20gb", 4, "InUse"))
    assert shown["uuid"] == agent.spec_uuid(first)
    assert shown["claim"]["name"] == "first"
    assert (await agent.unprepare(first)).error == ""
    await agent.reported(("2g.20gb", 4, "Warm"))
    second = await agent.allocate("second", "2g.20gb", 4)
    await agent.prepare(second)
    assert agent.spec_uuid(second) == shown["uuid"]
    text = await agent.metrics()
    assert f'tessera_slices{{node="{agent.node}",profile="2g.20gb",state="' in text
    assert "tessera_prepare_seconds_count 2.0" in text

    async def told() -> bool:
        events = (await agent.client.list(EVENTS, namespace=agent.namespace)).items
        return {"Prepared", "Unprepared"} <= {event["reason"] for event in events}

    await eventually("events", told)


async def test_a_killed_agent_adopts_what_runs(agent: AgentProcess) -> None:
    await agent.start()
    ready_since = (await agent.condition("Published"))["lastTransitionTime"]
    claim = await agent.allocate("running", "3g.40gb", 4)
    await agent.prepare(claim)
    before = agent.spec_uuid(claim)
    await agent.end(signal.SIGKILL)
    await agent.start()
    (shown,) = await agent.reported(("3g.40gb", 4, "InUse"))
    assert shown["uuid"] == before
    await agent.prepare(claim)
    assert agent.spec_uuid(claim) == before
    assert (await agent.condition("Published"))["lastTransitionTime"] == ready_since


async def test_a_torn_checkpoint_is_rebuilt_and_told(agent: AgentProcess) -> None:
    await agent.start()
    claim, gone = await agent.allocate("running", "3g.40gb", 4), await agent.allocate("gone", "1g.10gb", 0)
    await agent.prepare(claim)
    await agent.prepare(gone)
    await agent.unprepare(gone)
    shown = await agent.reported(("3g.40gb", 4, "InUse"), ("1g.10gb", 0, "Warm"))
    await agent.end(signal.SIGKILL)
    os.truncate(agent.checkpoint, agent.checkpoint.stat().st_size // 2)
    await agent.start()
    assert await agent.reported(("3g.40gb", 4, "InUse"), ("1g.10gb", 0, "Warm")) == shown
    assert "Traceback" not in agent.log()
    assert agent.checkpoint.with_suffix(".damaged.json").exists()

    async def told() -> bool:
        events = (await agent.client.list(EVENTS, namespace="default")).items
        return any(
            event["regarding"].get("name") == agent.node and "checkpoint was damaged" in event["note"]
            for event in events
        )

    await eventually("the event about the checkpoint", told)


async def test_death_between_both_creations_leaves_no_orphan(agent: AgentProcess) -> None:
    await agent.start()
    claim = await agent.allocate("first", "2g.20gb", 4)
    agent.faults.set([Fault("nvmlGpuInstanceCreateComputeInstance", action="hang", seconds=600)])
    hanging = asyncio.ensure_future(agent.prepare(claim))

    async def intended() -> bool:
        return agent.checkpoint.exists() and "Preparing" in agent.checkpoint.read_text()

    await eventually("the intent", intended)

    async def half_made() -> bool:
        state = json.loads((agent.directory / "state/simulator/gpus.json").read_text())
        return any(gpu["instances"] for gpu in state["gpus"])

    await eventually("a half-made instance", half_made)
    await agent.end(signal.SIGKILL)
    with pytest.raises(grpc.aio.AioRpcError):
        await hanging
    agent.faults.set([])
    await agent.start()
    assert await agent.instances() == []
    assert (await agent.prepare(claim)).error == ""
    await agent.reported(("2g.20gb", 4, "InUse"))


async def test_slices_that_a_restarted_kubelet_wiped_are_published_again(agent: AgentProcess) -> None:
    await agent.start()
    await agent.condition("Published")
    selector = f"spec.nodeName={agent.node}"
    before = (await agent.client.list(RESOURCE_SLICES, field_selector=selector)).items
    for item in before:
        await agent.client.delete(RESOURCE_SLICES, item["metadata"]["name"])

    async def back() -> bool:
        found = (await agent.client.list(RESOURCE_SLICES, field_selector=selector)).items
        fresh = {item["metadata"]["uid"] for item in found} - {item["metadata"]["uid"] for item in before}
        generations = {item["spec"]["pool"]["generation"] for item in found}
        return len(fresh) == len(before) and len(generations) == 1

    await eventually("the slices", back)


async def test_sigterm_ends_the_agent_cleanly(agent: AgentProcess) -> None:
    await agent.start()
    assert await agent.end(signal.SIGTERM) == 0
    assert not (agent.directory / "plugins_registry/gpu.tessera.dev-reg.sock").exists()
    assert "Traceback" not in agent.log()


async def test_a_node_without_a_driver_reports_it_and_keeps_running(agent: AgentProcess) -> None:
    agent.flags = ()
    await agent.start()
    condition = await agent.condition("DriverMissing")
    assert condition["status"] == "False"
    assert "install the NVIDIA driver" in condition["message"]
    assert "Traceback" not in agent.log()


@pytest.mark.parametrize(
    ("flag", "reason", "remedy"),
    [
        ("--simulate=Z9", "NVMLError", "nearest: "),
        ("--simulate-count=0", "NoGPUs", "--simulate-count 1 or more"),
    ],
)
async def test_a_simulation_that_cannot_be_is_reported_and_the_agent_keeps_running(
    agent: AgentProcess, flag: str, reason: str, remedy: str
) -> None:
    agent.flags = ("--simulate=H100-80GB", flag)
    await agent.start()
    condition = await agent.condition(reason)
    assert condition["status"] == "False"
    assert remedy in condition["message"]
    assert 'tessera_build_info{process="agent"' in await agent.metrics()
    assert "Traceback" not in agent.log()


async def test_a_damaged_simulator_is_named_and_healed_when_its_file_is_deleted(agent: AgentProcess) -> None:
    await agent.start()
    await agent.condition("Published")
    state = agent.directory / "state/simulator/gpus.json"
    state.write_text("{")
    await agent.end(signal.SIGKILL)
    await agent.start()
    condition = await agent.condition("NVMLError")
    assert "gpus.json is not JSON" in condition["message"]
    state.unlink()
    await agent.register()
    await agent.condition("Published")
    assert "Traceback" not in agent.log()


async def test_nvml_errors_at_start_are_reported_and_healed(agent: AgentProcess) -> None:
    (agent.directory / "state/simulator").mkdir(parents=True)
    agent.faults.set([Fault("nvmlInitWithFlags", code=18, times=0)])
    await agent.start()
    condition = await agent.condition("NVMLError")
    assert "reboot the node after the driver update" in condition["message"]
    agent.faults.set([])
    await agent.register()
    await agent.condition("Published")
    assert "Traceback" not in agent.log()
