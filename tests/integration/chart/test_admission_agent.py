"""The agent writes the objects of its own node only, and the fleet account those of simulated nodes only."""

from __future__ import annotations

from contextlib import suppress

import pytest
from integration.chart.installation import FLEET_SERVICE_ACCOUNT, Accounts, refused
from integration.chart.objects import NODES, gpu_node, resource_slice
from tessera.agent.devices import Owner
from tessera.agent.gpunode import GPUNodeWriter
from tessera.api import names
from tessera.kube.client import KubeClient
from tessera.kube.errors import NotFound
from tessera.kube.resources import GPU_NODES, RESOURCE_SLICES
from tessera.kube.resources import NODES as NODE_OBJECTS

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
OWN, OTHER = NODES
WISH = {"uuid": "GPU-1f3c9a2e-0000-0000-0000-000000000000", "partition": "research"}
"""What only the operator may write into a GPUNode's spec."""
NOT_YOURS = f"agent of node {OWN} may not write objects of node {OTHER}"


async def ensure_gpu_node(admin: KubeClient, name: str) -> None:
    await admin.apply(GPU_NODES, gpu_node(name))


async def test_an_agent_publishes_the_devices_of_its_node(accounts: Accounts) -> None:
    agent = await accounts.agent(OWN)
    made = await agent.create(RESOURCE_SLICES, resource_slice(OWN))
    name = made["metadata"]["name"]
    changed = await agent.patch(RESOURCE_SLICES, name, body={"spec": {"pool": {"generation": 2}}})
    assert changed["spec"]["pool"]["generation"] == 2
    await agent.delete(RESOURCE_SLICES, name)


async def test_an_agent_makes_its_gpu_node_and_writes_its_status(
    accounts: Accounts, chart_admin: KubeClient
) -> None:
    agent = await accounts.agent(OWN)
    with suppress(NotFound):
        await chart_admin.delete(GPU_NODES, OWN)
    await agent.create(GPU_NODES, gpu_node(OWN))
    made = await agent.patch(GPU_NODES, OWN, body={"status": {"observedGeneration": 1}}, subresource="status")
    assert made["status"] == {"observedGeneration": 1}


async def test_an_agent_may_not_publish_devices_of_another_node(accounts: Accounts) -> None:
    agent = await accounts.agent(OWN)
    await refused(agent.create(RESOURCE_SLICES, resource_slice(OTHER)), message=NOT_YOURS)


async def test_an_agent_may_not_publish_devices_of_no_node(accounts: Accounts) -> None:
    agent = await accounts.agent(OWN)
    everywhere = resource_slice(OWN)
    del everywhere["spec"]["nodeName"]
    everywhere["spec"]["allNodes"] = True
    await refused(agent.create(RESOURCE_SLICES, everywhere), message=f"agent of node {OWN} may not write")


async def test_an_agent_may_not_publish_devices_of_another_driver(accounts: Accounts) -> None:
    agent = await accounts.agent(OWN)
    foreign = resource_slice(OWN, driver="nic.example.com")
    await refused(agent.create(RESOURCE_SLICES, foreign), message=f"publishes only devices of {names.DRIVER}")


async def test_an_agent_may_not_publish_into_the_pool_of_another_node(accounts: Accounts) -> None:
    """A slice of its own node, but of a newer generation of the other node's pool: that pool would vanish."""
    agent = await accounts.agent(OWN)
    stolen = resource_slice(OWN)
    stolen["spec"]["pool"] = {"name": OTHER, "generation": 2**40, "resourceSliceCount": 1}
    wrong_pool = f"a slice of node {OWN} belongs into the pool of that name, not into pool {OTHER}"
    await refused(agent.create(RESOURCE_SLICES, stolen), message=wrong_pool)
    made = await agent.create(RESOURCE_SLICES, resource_slice(OWN))
    name = made["metadata"]["name"]
    with pytest.raises(Exception, match=f"{wrong_pool}|immutable"):
        await agent.patch(RESOURCE_SLICES, name, body={"spec": {"pool": {"name": OTHER}}})
    await agent.delete(RESOURCE_SLICES, name)


async def test_an_agent_may_not_change_the_spec_of_its_gpu_node(
    accounts: Accounts, chart_admin: KubeClient
) -> None:
    agent = await accounts.agent(OWN)
    with suppress(NotFound):
        await chart_admin.delete(GPU_NODES, OWN)
    wish = gpu_node(OWN)
    wish["spec"]["gpus"] = [WISH]
    not_the_spec = "the agent may not write the spec of a GPUNode"
    await refused(agent.create(GPU_NODES, wish), message=not_the_spec)
    await ensure_gpu_node(chart_admin, OWN)
    await refused(agent.patch(GPU_NODES, OWN, body={"spec": wish["spec"]}), message=not_the_spec)
    labelled = await agent.patch(GPU_NODES, OWN, body={"metadata": {"labels": {"seen": "yes"}}})
    assert labelled["metadata"]["labels"] == {"seen": "yes"}
    # The agent's own writes name no spec; they pass although the operator has set one.
    await chart_admin.patch(GPU_NODES, OWN, body={"spec": wish["spec"]})
    node = await chart_admin.get(NODE_OBJECTS, OWN)
    await GPUNodeWriter(agent, Owner(OWN, node["metadata"]["uid"])).ensure()
    kept = await chart_admin.get(GPU_NODES, OWN)
    assert kept["spec"]["gpus"][0]["partition"] == WISH["partition"]
    await chart_admin.delete(GPU_NODES, OWN)


async def test_an_agent_may_not_change_or_remove_slices_of_another_node(
    accounts: Accounts, chart_admin: KubeClient
) -> None:
    agent = await accounts.agent(OWN)
    theirs = await chart_admin.create(RESOURCE_SLICES, resource_slice(OTHER))
    name = theirs["metadata"]["name"]
    # Also not by claiming that the slice is now its own.
    for node in (OTHER, OWN):
        changed = {"spec": {"nodeName": node, "pool": {"generation": 7}}}
        with pytest.raises(Exception, match=r"may not write objects of node|immutable"):
            await agent.patch(RESOURCE_SLICES, name, body=changed)
    await refused(agent.delete(RESOURCE_SLICES, name), message=NOT_YOURS)
    await chart_admin.delete(RESOURCE_SLICES, name)


async def test_an_agent_may_not_write_the_status_of_another_node(
    accounts: Accounts, chart_admin: KubeClient
) -> None:
    agent = await accounts.agent(OWN)
    await ensure_gpu_node(chart_admin, OTHER)
    body = {"status": {"observedGeneration": 1}}
    await refused(agent.patch(GPU_NODES, OTHER, body=body, subresource="status"), message=NOT_YOURS)
    await refused(
        agent.create(GPU_NODES, gpu_node("gpu-node-c")), message="may not write objects of node gpu-node-c"
    )


async def test_a_token_of_the_agents_account_without_a_node_writes_nothing(accounts: Accounts) -> None:
    nowhere = await accounts.client(names.AGENT_SERVICE_ACCOUNT)
    await refused(nowhere.create(RESOURCE_SLICES, resource_slice(OWN)), message="token names no node")
    await refused(nowhere.create(GPU_NODES, gpu_node("gpu-node-c")), message="token names no node")


async def test_the_fleet_account_writes_for_simulated_nodes_only(accounts: Accounts) -> None:
    fleet = await accounts.client(FLEET_SERVICE_ACCOUNT)
    made = await fleet.create(RESOURCE_SLICES, resource_slice("kwok-7"))
    await fleet.delete(RESOURCE_SLICES, made["metadata"]["name"])
    await fleet.create(GPU_NODES, gpu_node("kwok-7"))
    await fleet.patch(GPU_NODES, "kwok-7", body={"status": {"observedGeneration": 1}}, subresource="status")
    await refused(fleet.create(RESOURCE_SLICES, resource_slice(OWN)), message=f"not for node {OWN}")
    await refused(fleet.create(GPU_NODES, gpu_node("gpu-node-c")), message="not for node gpu-node-c")
    foreign = resource_slice("kwok-7", driver="nic.example.com")
    await refused(fleet.create(RESOURCE_SLICES, foreign), message=f"publishes only devices of {names.DRIVER}")
    stolen = resource_slice("kwok-7")
    stolen["spec"]["pool"]["name"] = OWN
    await refused(fleet.create(RESOURCE_SLICES, stolen), message=f"not into pool {OWN}")
    wish = {"spec": {"gpus": [WISH]}}
    await refused(fleet.patch(GPU_NODES, "kwok-7", body=wish), message="may not write the spec of a GPUNode")
