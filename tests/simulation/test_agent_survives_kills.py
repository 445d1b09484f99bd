"""An agent that is killed at any of its side effects is as good as new after one start.

The side effects are recorded, not guessed, and every one is tried: the agent dies before each of them, and
after the last. The next agent finds what is on the disk and in the GPU. Once it looks around first, once the
kubelet asks first; both are tried at every place. Then there is the old or the new layout, checkpoint, CDI
specs, API and GPU agree, the neighbour's process runs on, and the kubelet gets what it asks for, however
often it asks.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from simulation.agent_effects import Effects, Killed
from simulation.agent_node import AgentNode, Process
from simulation.agent_scenarios import SCENARIOS, Scenario


async def recorded(scenario: Scenario, node: AgentNode) -> Effects:
    """Do the work on a copy, undisturbed."""
    copy, effects = node.fresh("recorded"), Effects()
    with copy.start(effects) as process:
        await scenario.work(copy, process)
        copy.assert_in_agreement(process)
    assert copy.layout() == scenario.layouts[-1]
    return effects


def in_words(effects: Effects) -> str:
    """The side effects as docs/agent.md lists them: a file that is replaced as a whole is one word."""
    text = ", ".join(effects.names)
    for file in ("damaged checkpoint", "checkpoint", "CDI spec"):
        replaced = ", ".join(
            f"{file}: {step}" for step in ("write", "fsync file", "rename", "fsync directory")
        )
        text = text.replace(replaced, file)
    for prefix in ("NVML: ", "kubelet: ", "API: apply "):
        text = text.replace(prefix, "")
    return text


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_the_side_effects_are_those_that_the_page_lists(tmp_path: Path, scenario: Scenario) -> None:
    words = in_words(await recorded(scenario, await scenario.node(tmp_path / "node")))
    page = Path(__file__).parents[2] / "docs" / "agent.md"
    assert f"| {scenario.name} | {words} |" in page.read_text(encoding="utf-8").splitlines()


async def test_a_known_answer_counts_as_the_calls_that_it_took(tmp_path: Path) -> None:
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == "with room to make")
    node = await scenario.node(tmp_path / "node")
    node.known = {}
    counted = []
    for name in ("asked", "known"):
        copy, effects = node.fresh(name), Effects()
        with copy.start(effects) as process:
            await scenario.work(copy, process)
        counted.append((effects.calls, effects.methods, effects.names))
    assert counted[0] == counted[1]


def places(effects: Effects) -> list[int]:
    """Before each side effect, and after the last; an fsync is left out, no kill can tell it."""
    return [number for number in range(1, len(effects.names) + 2) if number not in effects.syncs]


async def killed(scenario: Scenario, node: AgentNode, number: int) -> bool:
    """Let an agent die before that side effect; whether it had answered the kubelet."""
    effects = Effects(kill=number)
    try:
        with node.start(effects) as process:
            await scenario.work(node, process)
    except Killed:
        await process.ended()
    return bool(process.answers)


async def ask_again(scenario: Scenario, process: Process) -> None:
    call = process.unprepare if scenario.releases else process.prepare
    told = await call(*scenario.claims())
    assert set(told.values()) == {""}, told


@pytest.mark.parametrize(
    ("scenario", "first"),
    [
        pytest.param(scenario, first, id=f"{scenario.name}, {first} first")
        for scenario in SCENARIOS
        for first in ("agent looks", "kubelet asks")
        if first == "agent looks" or (scenario.claims() and not scenario.is_start)
    ],
)
async def test_a_kill_at_every_side_effect_is_mended_by_one_start(
    tmp_path: Path, scenario: Scenario, first: str
) -> None:
    node = await scenario.node(tmp_path / "node")
    effects = await recorded(scenario, node)
    assert len(places(effects)) >= 3
    for number in places(effects):
        copy = node.fresh(f"{number}")
        before = copy.pids()
        answered = await killed(scenario, copy, number)
        told = copy.specs() if answered else {}
        with copy.start() as process:
            if first == "kubelet asks":
                await ask_again(scenario, process)
                assert copy.layout() == scenario.layouts[-1]
            await process.agent.refresh()
            assert copy.layout() in scenario.layouts
            copy.assert_in_agreement(process)
            assert copy.pids() == before
            if scenario.is_start or first == "kubelet asks":
                assert told.items() <= copy.specs().items() or scenario.releases
                continue
            await ask_again(scenario, process)
            assert copy.layout() == scenario.layouts[-1]
            assert told.items() <= copy.specs().items() or scenario.releases
            await process.agent.refresh()
            copy.assert_in_agreement(process)
            done = len(process.effects.names)
            await ask_again(scenario, process)
            assert process.effects.names[done:] == ["kubelet: answer"]
            assert copy.pids() == before


async def test_another_claim_that_asks_first_finds_the_old_layout(tmp_path: Path) -> None:
    """The dead agent's claim is gone; its half-done work is in the way of nobody."""
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == "with room to make")
    node = await scenario.node(tmp_path / "node")
    effects = await recorded(scenario, node)
    renamed = [number for number, name in enumerate(effects.names, start=1) if name == "checkpoint: rename"]
    for number in [place for place in places(effects) if place <= renamed[-1]]:
        copy = node.fresh(f"{number}")
        before = copy.pids()
        await killed(scenario, copy, number)
        copy.allocate("other", "2g.20gb@4")
        with copy.start() as process:
            assert await process.prepare("other") == {"other": ""}
            await process.agent.refresh()
            assert copy.layout() == scenario.layouts[0]
            copy.assert_in_agreement(process)
            assert copy.pids() == before
