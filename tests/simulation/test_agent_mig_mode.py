"""MIG mode is switched where nobody uses the GPU; elsewhere the condition says why not and what to do. A GPU
whose MIG mode is off is offered as a whole.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from simulation.agent_looks import Looks, looking
from simulation.agent_node import AgentNode
from tessera.api.names import LEAVING_TAINT_KEY
from tessera.gpu.simulator import control

AMPERE, HOPPER = "A100-80GB", "H100-80GB"
Start = Callable[..., Looks]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """An agent that has looked at a node of that model once; MIG is on, unless it waits for a reset."""
    with ExitStack() as stack:

        def begin(model: str, *, mig: bool = True) -> Looks:
            node = AgentNode.new(tmp_path / "node", mig=mig, model=model)
            with node.state.change() as state:
                state.gpus[0].mig_current = state.gpus[0].mig_pending = mig
            return stack.enter_context(looking(node))

        yield begin


@pytest.fixture
def monitor() -> Iterator[subprocess.Popen[bytes]]:
    """A program that holds the GPU, as a monitoring daemon does, until it is killed."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def modes(agent: Looks) -> tuple[bool, bool]:
    return agent.gpu.mig_current, agent.gpu.mig_pending


def offered(agent: Looks) -> list[str]:
    """What is published, by the part of the name after the GPU's."""
    return [device["name"][len("gpu-00000000-") :] for device in agent.devices()]


async def settle(agent: Looks) -> tuple[str, str]:
    """Two looks: the first empties the GPU, and asks for the second."""
    await agent.look()
    return await agent.look()


async def test_hopper_is_switched_off_when_only_warm_slices_are_there(start: Start) -> None:
    agent = start(HOPPER)
    await agent.look()
    assert await agent.claim("a", "2g.20gb@0") == ""
    await agent.process.unprepare("a")
    agent.want("Disabled")
    assert await settle(agent) == ("Published", "1 of 1 GPUs are published")
    assert modes(agent) == (False, False)
    assert agent.node.layout() == ""
    assert offered(agent) == ["gpu-0"]
    assert agent.status["gpus"][0]["migMode"] == "Disabled"
    agent.want("Enabled")
    assert (await settle(agent))[0] == "Published"
    assert modes(agent) == (True, True)
    assert len(agent.devices()) == 25


async def test_ampere_waits_for_a_reset_either_way(start: Start) -> None:
    agent = start(AMPERE)
    await agent.look()
    agent.want("Disabled")
    for _ in range(3):
        reason, message = await agent.look()
        assert modes(agent) == (True, False)
        assert "waits for a GPU reset" in message
        assert "nvidia-smi -i 0 --gpu-reset" in message
        assert (reason, agent.devices()) == ("MIGDisabled", [])
    assert agent.process.effects.calls.count("nvmlDeviceSetMigMode") == 1
    assert agent.status["gpus"][0]["migMode"] == "DisablePending"
    control.reset(agent.simulator, index=0)
    await agent.look()
    assert (modes(agent), offered(agent)) == ((False, False), ["gpu-0"])
    agent.want("Enabled")
    for _ in range(3):
        reason, message = await agent.look()
        assert modes(agent) == (False, True)
        assert (reason, agent.devices()) == ("MIGDisabled", [])
        assert "nvidia-smi -i 0 --gpu-reset" in message
    control.reset(agent.simulator, index=0)
    assert (await agent.look())[0] == "Published"


async def test_a_change_that_waits_for_a_reset_can_be_taken_back(start: Start) -> None:
    agent = start(AMPERE)
    await agent.look()
    offered = agent.devices()
    agent.want("Disabled")
    await agent.look()
    agent.want("Enabled")
    assert (await agent.look())[0] == "Published"
    assert modes(agent) == (True, True)
    assert agent.devices() == offered


@pytest.mark.parametrize("model", [AMPERE, HOPPER])
async def test_a_gpu_in_use_waits_and_the_condition_names_who_holds_it(start: Start, model: str) -> None:
    agent = start(model)
    await agent.look()
    assert await agent.claim("a", "2g.20gb@0") == await agent.claim("b", "2g.20gb@2") == ""
    await agent.process.unprepare("b")
    agent.want("Disabled")
    _, message = await settle(agent)
    assert modes(agent) == (True, True)
    assert "MIG mode is to be switched off; " in message
    assert "default/a" in message
    assert agent.node.layout() == "2g.20gb@0 2g.20gb@2"
    assert [device["name"][-9:] for device in agent.devices()] == ["2g-20gb-0"]
    assert "(the whole GPU)" in await agent.claim("late", "1g.10gb@4")
    await agent.process.unprepare("a")
    await settle(agent)
    assert (agent.node.layout(), agent.gpu.mig_pending) == ("", False)


@pytest.mark.parametrize("model", [AMPERE, HOPPER])
async def test_what_tessera_did_not_make_is_not_touched(start: Start, model: str) -> None:
    agent = start(model)
    await agent.look()
    await agent.driver.create_gpu_instance(agent.gpu.uuid, profile_id=14, start=0, size=2)
    agent.want("Disabled")
    _, message = await settle(agent)
    assert modes(agent) == (True, True)
    assert "which Tessera did not make" in message
    assert "2g.20gb@0(half made)" in agent.node.layout()


async def test_a_program_that_holds_the_gpu_is_waited_for(
    start: Start, monitor: subprocess.Popen[bytes]
) -> None:
    agent = start(HOPPER, mig=False)
    control.hold(agent.simulator, index=0, pid=monitor.pid)
    for _ in range(2):
        reason, message = await agent.look()
        assert reason == "MIGDisabled"
        assert "enabling MIG answered IN_USE; stop the programs that hold the GPU" in message
    monitor.kill()
    monitor.wait()
    assert (await agent.look())[0] == "Published"


async def test_a_virtual_machine_is_rebooted_where_a_reset_is_needed(start: Start) -> None:
    agent = start(AMPERE, mig=False)
    control.virtualize(agent.simulator, index=0, mode="passthrough")
    for _ in range(2):
        reason, message = await agent.look()
        assert reason == "MIGDisabled"
        assert "reboot this virtual machine, which cannot reset its GPU itself" in message
    control.reboot(agent.simulator)
    assert (await agent.look())[0] == "Published"


@pytest.mark.parametrize("model", [AMPERE, HOPPER])
async def test_the_mode_of_a_vgpu_is_the_hosts(start: Start, model: str) -> None:
    agent = start(model, mig=False)
    control.virtualize(agent.simulator, index=0, mode="vgpu")
    for _ in range(2):
        reason, message = await agent.look()
        assert reason == "MIGDisabled"
        assert "this is a vGPU, whose MIG mode the host decides; change it there" in message


async def test_an_unmanaged_gpu_keeps_its_mode(start: Start) -> None:
    agent = start(HOPPER)
    await agent.look()
    agent.want("Unmanaged")
    assert (await settle(agent))[0] == "Published"
    assert modes(agent) == (True, True)
    assert "layout" not in agent.status["gpus"][0]


@pytest.mark.parametrize("model", [AMPERE, HOPPER])
async def test_the_mode_of_a_gpu_that_is_held_as_a_whole_is_not_switched(start: Start, model: str) -> None:
    """Its device stays as long as its claim, and nobody new comes to it."""
    agent = start(model, mig=False)
    agent.want("Disabled")
    await agent.look()
    assert await agent.claim("a", "gpu@0") == ""
    agent.want("Enabled")
    for _ in range(2):
        reason, message = await agent.look()
        assert (reason, modes(agent)) == ("MIGDisabled", (False, False))
        assert "MIG mode is to be switched on; claim default/a holds the GPU as a whole" in message
        assert "nvmlDeviceSetMigMode" not in agent.process.effects.calls
        ((place, taints),) = agent.node.api.taints().items()
        assert (place, taints[-1]["key"]) == ("gpu@0", LEAVING_TAINT_KEY)
    assert agent.status["slicesInUse"] == 1
    await agent.process.unprepare("a")
    await agent.look()
    assert modes(agent) == (model == HOPPER, True)
    assert "gpu-0" not in offered(agent)
    assert "MIG mode" in await agent.claim("late", "gpu@0") or model == AMPERE


async def test_a_layout_waits_for_who_holds_the_gpu_as_a_whole(start: Start) -> None:
    agent = start(HOPPER, mig=False)
    agent.want("Disabled")
    await agent.look()
    assert await agent.claim("a", "gpu@0") == ""
    agent.node.demand("3g.40gb@4")
    await agent.look()
    told = agent.node.api.layout()
    assert (told["state"], [one["name"] for one in told["blockers"]]) == ("Blocked", ["a"])
    assert offered(agent) == ["gpu-0"]
    await agent.process.unprepare("a")
    await agent.look()
    assert (agent.node.layout(), offered(agent)) == ("3g.40gb@4", ["3g-40gb-4"])


async def test_a_claim_that_comes_while_its_gpu_is_withdrawn_keeps_it(start: Start) -> None:
    """The kubelet asks between the look at the GPU and the change of its mode."""
    agent = start(HOPPER, mig=False)
    agent.want("Disabled")
    await agent.look()
    agent.want("Enabled")
    api, told = agent.process.agent._client, list[str]()
    delete = api.delete

    async def claim_first(resource: Any, name: str) -> None:
        if not told:
            told.append(await agent.claim("a", "gpu@0"))
        await delete(resource, name)

    with patch.object(api, "delete", claim_first):
        reason, message = await agent.look()
    assert (told, modes(agent)) == ([""], (False, False))
    assert (reason, offered(agent)) == ("MIGDisabled", ["gpu-0"])
    assert "claim default/a holds the GPU as a whole" in message


async def test_a_lost_gpu_ends_the_pod_that_has_it_as_a_whole(start: Start) -> None:
    agent = start(HOPPER, mig=False)
    agent.want("Disabled")
    await agent.look()
    assert await agent.claim("a", "gpu@0") == ""
    control.lose(agent.simulator, index=0)
    await agent.look()
    assert agent.taints() == {"gpu@0": "lost:NoExecute"}
    with looking(agent.node) as another:
        await another.look()
        assert another.taints() == {"gpu@0": "lost:NoExecute"}
