"""`tessera agent` as a process on a Node object without a kubelet: the test registers it as the kubelet does,
allocates claims as the scheduler does, and has them prepared.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from eventually import eventually
from tessera.agent.proto import (
    dra_v1_pb2,
    dra_v1_pb2_grpc,
    pluginregistration_v1_pb2,
    pluginregistration_v1_pb2_grpc,
)
from tessera.gpu.simulator.faults import FaultInjector
from tessera.kube.client import KubeClient
from tessera.kube.errors import NotFound
from tessera.kube.resources import GPU_NODES, RESOURCE_CLAIMS, RESOURCE_SLICES
from tessera.local.ports import free_ports

LIMIT_SECONDS = 60.0


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
