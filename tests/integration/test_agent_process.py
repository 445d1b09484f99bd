"""The agent as a process on a real API server, with this test in the kubelet's and the scheduler's place."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import grpc.aio
import pytest
from eventually import eventually
from integration.agent_process import AgentProcess
from tessera.gpu.simulator.faults import Fault
from tessera.kube.resources import EVENTS, RESOURCE_SLICES

pytestmark = pytest.mark.integration


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
