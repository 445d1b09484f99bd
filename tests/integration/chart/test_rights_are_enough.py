"""The real code of agent, fleet and operator over the accounts of the chart: their rights are enough.

`test_chart_rights.py` asks about each right by itself; here a right that was taken away and is needed after
all shows as a refusal.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from background import in_background
from eventually import eventually
from integration.chart.installation import FLEET_SERVICE_ACCOUNT, Accounts
from integration.chart.objects import NODES, gpu_node, pod
from tessera.agent.cdi import CDIDirectory
from tessera.agent.checkpoint import CheckpointFile
from tessera.agent.fleet import Fleet, FleetSettings
from tessera.agent.node import NodeAgent, NodeOptions
from tessera.api import names
from tessera.controllers import gpu_node as gpu_node_controller
from tessera.controllers.executor import Executor
from tessera.controllers.gpu_view import Pod, gpus_of
from tessera.controllers.plan import Eviction, Plan
from tessera.gpu.driver import LocalDriver
from tessera.gpu.nvml import NVML
from tessera.gpu.simulator.library import SimulatedLibrary
from tessera.kube.client import KubeClient
from tessera.kube.conditions import is_true
from tessera.kube.errors import Conflict, NotFound
from tessera.kube.events import EventRecorder
from tessera.kube.resources import GPU_NODES, MIG_PARTITIONS, PODS, RESOURCE_SLICES
from tessera.kube.resources import NODES as NODE_OBJECTS

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
OWN = NODES[0]
SIMULATED = "kwok-rights"


async def published(admin: KubeClient, node: str) -> bool:
    try:
        found = await admin.get(GPU_NODES, node)
    except NotFound:
        return False
    return is_true((found.get("status") or {}).get("conditions"), "Ready")


async def forget(admin: KubeClient, node: str) -> None:
    """Remove what is published for the node."""
    with suppress(NotFound):
        await admin.delete(GPU_NODES, node)
    for item in (await admin.list(RESOURCE_SLICES, field_selector=f"spec.nodeName={node}")).items:
        with suppress(NotFound):  # collected with a Node that is gone
            await admin.delete(RESOURCE_SLICES, item["metadata"]["name"])


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "forbidden" in record.getMessage().lower()]


async def test_an_agent_serves_its_node(
    accounts: Accounts, chart_admin: KubeClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    library = SimulatedLibrary.at(tmp_path / "simulator", model="H100-80GB", count=1, seed=OWN)
    agent = NodeAgent(
        client=await accounts.agent(OWN),
        driver=LocalDriver(NVML(library), simulated=True),
        checkpoint=CheckpointFile(tmp_path / "checkpoint.json"),
        cdi=CDIDirectory(tmp_path / "cdi", simulated=True),
        options=NodeOptions(name=OWN, enable_mig=True),
    )
    agent.open()
    agent.registered = True
    await forget(chart_admin, OWN)
    try:
        async with in_background(agent.serve()):
            await eventually("the node to be published", lambda: published(chart_admin, OWN))
            # What its watches are for: the slices are wiped and the object is deleted, both come back.
            await forget(chart_admin, OWN)
            await eventually("the node to be published again", lambda: published(chart_admin, OWN))
    finally:
        await forget(chart_admin, OWN)
    assert refusals(caplog) == []


async def test_the_fleet_serves_a_simulated_node(
    accounts: Accounts, chart_admin: KubeClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node: dict[str, Any] = {
        "metadata": {"name": SIMULATED, "labels": {names.SIMULATED_GPUS_LABEL: "true"}},
    }
    await chart_admin.create(NODE_OBJECTS, node)
    fleet = Fleet(await accounts.client(FLEET_SERVICE_ACCOUNT), FleetSettings(state_dir=tmp_path, count=1))
    try:
        async with in_background(fleet.run()):
            await eventually("the node to be published", lambda: published(chart_admin, SIMULATED))
            await chart_admin.delete(GPU_NODES, SIMULATED)
            await eventually("the node to be published again", lambda: published(chart_admin, SIMULATED))
    finally:
        await chart_admin.delete(NODE_OBJECTS, SIMULATED)
        await forget(chart_admin, SIMULATED)
    assert refusals(caplog) == []


async def test_the_operator_writes_the_spec_of_a_gpu_node_and_makes_none(
    accounts: Accounts, chart_admin: KubeClient
) -> None:
    client = await accounts.client(names.OPERATOR_SERVICE_ACCOUNT)
    executor = Executor(client, EventRecorder(client, component="operator"))
    await forget(chart_admin, OWN)
    report = {"index": 0, "uuid": "GPU-1", "healthy": True}
    await chart_admin.apply(GPU_NODES, gpu_node(OWN))
    await chart_admin.patch(GPU_NODES, OWN, body={"status": {"gpus": [report]}}, subresource="status")
    seen = await client.get(GPU_NODES, OWN)
    owner = {"metadata": {"name": "research", "uid": "uid-1"}, "spec": {}}
    plan = gpu_node_controller.reconcile(seen, gpus=gpus_of([seen], [], []), owners={"GPU-1": owner})
    await executor.carry_out(GPU_NODES, seen, plan)
    written = await chart_admin.get(GPU_NODES, OWN)
    assert [entry["partition"] for entry in written["spec"]["gpus"]] == ["research"]
    await forget(chart_admin, OWN)
    # The UID in the plan makes it a conflict, before the API server asks for the right to create.
    with pytest.raises(Conflict, match="uid mismatch"):
        await executor.carry_out(GPU_NODES, seen, plan)


async def test_the_operator_evicts_for_a_partition_and_decides_in_its_status(
    accounts: Accounts, chart_admin: KubeClient
) -> None:
    client = await accounts.client(names.OPERATOR_SERVICE_ACCOUNT)
    executor = Executor(client, EventRecorder(client, component="operator"))
    made = await chart_admin.create(PODS, pod("goes", gates=(names.PLACEMENT_GATE,)), namespace="default")
    partition = await chart_admin.create(MIG_PARTITIONS, {"metadata": {"name": "rights"}, "spec": {}})
    goes = Pod(namespace="default", name="goes", uid=made["metadata"]["uid"])
    evictions = (Eviction(pod=goes, why="its slice has to go"),)
    plan = Plan(status={"nodeCount": 1}, decides=True, evictions=evictions)
    await executor.carry_out(MIG_PARTITIONS, partition, plan)
    assert (await chart_admin.get(MIG_PARTITIONS, "rights"))["status"] == {"nodeCount": 1}
    with pytest.raises(NotFound):
        await chart_admin.get(PODS, "goes", "default")
    await chart_admin.delete(MIG_PARTITIONS, "rights")
