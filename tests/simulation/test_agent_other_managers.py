"""Where NVIDIA's programs manage the GPUs the agent offers and changes nothing, and keeps what it gave."""

from __future__ import annotations

from pathlib import Path

import pytest
from simulation.agent_effects import CHANGING, Effects, Killed
from simulation.agent_looks import Looks, looking
from simulation.agent_node import AgentNode

DEPLOYED = "nvidia.com/gpu.deploy.mig-manager"


def changes(agent: Looks) -> list[str]:
    """What the agent has changed on the GPU since the last time."""
    made = [call for call in agent.process.effects.calls if call in CHANGING]
    agent.process.effects.calls.clear()
    return made


async def test_devices_go_and_slices_stay_until_the_other_is_gone(agent: Looks, node: AgentNode) -> None:
    await agent.look()
    assert await agent.claim("a", "2g.20gb@0") == await agent.claim("b", "2g.20gb@2") == ""
    assert await agent.process.unprepare("b") == {"b": ""}
    await agent.look()
    offered, stands = agent.devices(), node.layout()
    changes(agent)

    agent.label({"nvidia.com/mig.config": "all-1g.10gb", "nvidia.com/mig.config.state": "success"})
    reason, message = await agent.look()
    assert reason == "ManagedByOthers"
    assert "NVIDIA's mig-manager (labels nvidia.com/mig.config=all-1g.10gb" in message
    assert "kubectl label node node-a" in message
    assert agent.devices() == []
    assert "NVIDIA's mig-manager" in await agent.claim("late", "1g.10gb@4")
    assert await agent.process.unprepare("a") == {"a": ""}
    await agent.look()
    assert (node.layout(), changes(agent)) == (stands, [])

    agent.label({})
    assert (await agent.look())[0] == "Published"
    assert agent.devices() == offered
    assert (await agent.process.prepare("late"))["late"] == ""
    await agent.look()
    node.assert_in_agreement(agent.process)


async def test_mig_mode_is_left_alone(tmp_path: Path) -> None:
    with looking(AgentNode.new(tmp_path / "node", mig=False)) as agent:
        agent.label({DEPLOYED: "true"})
        assert (await agent.look())[0] == "ManagedByOthers"
        assert not agent.gpu.mig_pending
        agent.label({DEPLOYED: "false"})
        assert (await agent.look())[0] == "Published"


async def test_a_kubelet_that_asks_before_the_first_look_is_refused_too(
    agent: Looks, node: AgentNode
) -> None:
    agent.label({DEPLOYED: "true"})
    assert "NVIDIA's mig-manager" in await agent.claim("early", "1g.10gb@0")
    assert node.layout() == ""


async def test_what_a_dead_agent_left_half_made_waits(node: AgentNode) -> None:
    with looking(node) as agent:
        await agent.look()
    intent, gpu_instance = 4, 1  # a file that is replaced is four steps
    with pytest.raises(Killed), looking(node, Effects(kill=intent + gpu_instance + 1)) as agent:
        await agent.claim("a", "2g.20gb@0")
    assert "half made" in node.layout()
    with looking(node) as agent:
        agent.label({DEPLOYED: "true"})
        await agent.look()
        assert "half made" in node.layout()
        agent.label({})
        await agent.look()
        assert node.layout() == ""
