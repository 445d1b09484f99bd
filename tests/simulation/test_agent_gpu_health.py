"""A GPU that breaks, as the cluster sees it: devices stay and get a taint, until it works again."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from simulation.agent_effects import Effects
from simulation.agent_looks import Looks, looking
from simulation.agent_node import AgentNode
from tessera.gpu.simulator import control
from tessera.metrics.registry import REGISTRY

ALL_H100 = 25
"""Placements of an H100, `1g.10gb+me` and `1g.20gb` with them."""


def healthy(agent: Looks) -> float | None:
    return REGISTRY.get_sample_value("tessera_gpu_healthy", {"gpu": agent.gpu.uuid, "node": "node-a"})


async def test_a_gpu_lost_under_a_claim_stays_published_and_its_claim_can_be_released(
    agent: Looks, node: AgentNode
) -> None:
    await agent.look()
    before = agent.devices()
    assert await agent.claim("a", "2g.20gb@4") == ""
    await agent.look()
    control.lose(agent.simulator, index=0)
    reason, message = await agent.look()
    assert reason == "GPUUnhealthy"
    assert "GPU_IS_LOST" in message
    assert ": after Xid 79 at 2" in message and message.endswith("remedy: reset the GPU or reboot the node")
    assert set(agent.taints().values()) == {"lost:NoExecute"}
    assert len(agent.taints()) == len(before) == ALL_H100
    (gpu,) = agent.status["gpus"]
    assert (gpu["healthy"], gpu["healthMessage"]) == (False, message.partition("): ")[2])
    assert [one["claim"]["name"] for one in gpu["instances"]] == ["a"]
    assert healthy(agent) == 0
    assert await agent.process.unprepare("a") == {"a": ""}
    control.reset(agent.simulator, index=0)
    assert await agent.look() == ("Published", "1 of 1 GPUs are published")
    assert agent.devices() == before
    assert healthy(agent) == 1
    node.assert_in_agreement(agent.process)


async def test_a_restarted_agent_publishes_a_lost_gpu_as_the_one_before_it(node: AgentNode) -> None:
    with looking(node) as first:
        await first.look()
        control.lose(first.simulator, index=0)
        await first.look()
        published = first.devices()
    with looking(node) as second:
        reason, _ = await second.look()
        assert reason == "GPUUnhealthy"
        assert second.devices() == published
        control.reset(second.simulator, index=0)
        await second.look()
        assert second.taints() == {}


@pytest.mark.parametrize(("place", "barred"), [("2g.20gb@4", 8), ("7g.80gb@0", ALL_H100)])
async def test_a_restarted_agent_knows_the_slice_that_was_struck(
    node: AgentNode, place: str, barred: int
) -> None:
    with looking(node) as first:
        await first.look()
        assert await first.claim("a", place) == ""
        await first.look()
        (instance,) = node.instances()
        control.report_xid(first.simulator, index=0, xid=94, mig_uuid=node.uuid(instance.start))
        await first.look()
        taints = first.taints()
        assert len(taints) == barred
    with looking(node) as second:
        assert "Xid 94 at 2" in (await second.look())[1]
        assert second.taints() == taints
        await second.process.unprepare("a")
        await second.look()
        assert (second.taints(), node.layout()) == ({}, "")


async def test_a_simulated_gpu_that_was_taken_out_is_forgotten(node: AgentNode) -> None:
    with looking(node) as first:
        await first.look()
    with node.state.change() as state:
        state.gpus.clear()
    with looking(node) as second:
        assert (await second.look())[0] == "NoGPUs"
        assert second.devices() == []


async def test_a_lost_gpu_that_was_never_published_is_not_offered(agent: Looks) -> None:
    control.lose(agent.simulator, index=0)
    assert (await agent.look())[0] == "GPUUnhealthy"
    assert agent.devices() == []


async def test_a_claim_on_a_lost_gpu_is_told_so(agent: Looks) -> None:
    await agent.look()
    control.lose(agent.simulator, index=0)
    await agent.look()
    assert "cannot be used: " in await agent.claim("late", "1g.10gb@0")


async def test_a_contained_error_bars_what_overlaps_its_slice_and_heals_when_the_claim_ends(
    agent: Looks, node: AgentNode
) -> None:
    await agent.look()
    assert await agent.claim("sick", "2g.20gb@4") == await agent.claim("well", "2g.20gb@0") == ""
    await agent.look()
    neighbour = node.uuid(0)
    node.occupy(0, os.getpid())
    control.report_xid(agent.simulator, index=0, xid=94, mig_uuid=node.uuid(4))
    reason, message = await agent.look()
    assert reason == "Published"
    assert "Xid 94 at 2" in message
    assert agent.taints() == dict.fromkeys(
        [
            *("1g.10gb@4", "1g.10gb@5", "1g.10gb+me@4", "1g.10gb+me@5"),
            *("1g.20gb@4", "2g.20gb@4", "3g.40gb@4", "7g.80gb@0"),
        ],
        "xid-94:NoSchedule",
    )
    assert healthy(agent) == 1
    struck = node.uuid(4)
    await agent.process.unprepare("sick")
    await agent.look()
    assert agent.taints() == {}
    assert node.layout() == "2g.20gb@0"
    assert (node.uuid(0), node.pids()[neighbour]) == (neighbour, (os.getpid(),))
    assert await agent.claim("next", "2g.20gb@4") == ""
    assert node.uuid(4) != struck
    await agent.look()
    node.assert_in_agreement(agent.process)


async def test_a_struck_slice_of_a_fixed_layout_is_cut_anew(agent: Looks, node: AgentNode) -> None:
    await agent.look()
    node.demand("3g.40gb@0", "3g.40gb@4")
    await agent.look()
    struck, other = node.uuid(4), node.uuid(0)
    control.report_xid(agent.simulator, index=0, xid=94, mig_uuid=struck)
    await agent.look()
    await agent.look()
    assert node.layout() == "3g.40gb@0 3g.40gb@4"
    assert node.uuid(0) == other
    assert node.uuid(4) != struck
    assert agent.taints() == {}


async def test_an_xid_that_needs_a_reset_ends_what_runs_on_the_gpu(agent: Looks) -> None:
    await agent.look()
    control.report_xid(agent.simulator, index=0, xid=119)
    reason, message = await agent.look()
    assert reason == "GPUUnhealthy"
    assert "the driver asks to reset the GPU, after Xid 119 at 2" in message
    assert "nvidia-smi -i 0 --gpu-reset" in message
    assert set(agent.taints().values()) == {"recovery-action-1:NoExecute"}
    control.reload_driver(agent.simulator)
    assert (await agent.look())[0] == "Published"
    assert agent.taints() == {}


async def test_a_burst_of_xids_is_counted_and_is_one_write_of_the_status(node: AgentNode) -> None:
    effects = Effects()
    with looking(node, effects) as agent:
        await agent.look()
        assert await agent.claim("a", "2g.20gb@4") == ""
        await agent.look()
        control.report_xid(agent.simulator, index=0, xid=94, mig_uuid=node.uuid(4))
        with node.state.change() as state:
            (event,) = state.events
            state.events = [replace(event, number=event.number + more) for more in range(2000)]
            state.serials += 2000
        counter = {"xid": "94", "gpu": agent.gpu.uuid}
        before = REGISTRY.get_sample_value("tessera_xids_total", counter) or 0
        effects.expect()
        await agent.look()
        await agent.look()
        assert effects.names.count("API: apply GPUNode/status") == 1
        assert REGISTRY.get_sample_value("tessera_xids_total", counter) == before + 2000


async def test_errors_of_applications_change_nothing(agent: Looks, node: AgentNode) -> None:
    await agent.look()
    assert await agent.claim("a", "2g.20gb@4") == ""
    before = await agent.look()
    for xid in (13, 31, 43, 45, 68, 109):
        control.report_xid(agent.simulator, index=0, xid=xid, mig_uuid=node.uuid(4))
    assert await agent.look() == before
    assert agent.taints() == {}
