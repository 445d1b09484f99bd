"""Whatever NVML, the disk or the API refuses, an agent goes back to the old layout, and the next try works.

Every NVML call of a preparation fails once, questions too, and every call that changes something also takes
effect and loses its answer. Every write to the disk and to the API is refused once.
"""

from __future__ import annotations

from pathlib import Path

from simulation.agent_effects import CHANGING, Effects
from simulation.agent_node import AgentNode, Process
from simulation.agent_scenarios import SCENARIOS, Scenario
from tessera.kube.errors import Unreachable

NO_SPACE = OSError(28, "No space left on device")


def scenario(name: str) -> Scenario:
    return next(scenario for scenario in SCENARIOS if scenario.name == name)


async def old_layout_is_back(node: AgentNode, process: Process, old: str) -> None:
    process.effects.expect()
    assert node.layout() == old
    await process.agent.refresh()
    node.assert_in_agreement(process)


async def test_every_nvml_call_of_a_preparation_fails_once(tmp_path: Path) -> None:
    """The same agent goes on: what it undid is what the next try begins with."""
    case = scenario("with room to make")
    node = await case.node(tmp_path / "node")
    pids = node.pids()
    number, after, refused = 1, False, 0
    with node.start(Effects()) as process:
        await process.agent.refresh()
        while True:
            process.effects.expect(fail_call=number, fail_after=after)
            told = await process.prepare("asked-0")
            if len(process.effects.calls) < number:
                break
            symbol = process.effects.calls[number - 1]
            assert told["asked-0"], symbol
            assert node.layout() == case.layouts[0], symbol
            assert node.pids() == pids
            assert process.agent.ledger == node.checkpoint.load()
            assert node.checkpoint.load().claims.keys() == node.specs().keys() == {"uid-neighbour"}
            assert {one.compute[0].uuid for one in node.instances()} == {
                *node.specs()["uid-neighbour"],
                *node.checkpoint.load().warm,
            }
            refused += 1
            after = symbol in CHANGING and not after
            number += 0 if after else 1
        assert told == {"asked-0": ""}
        assert node.layout() == case.layouts[-1]
        process.effects.expect()
        await process.agent.refresh()
        node.assert_in_agreement(process)
    assert refused > 150


async def test_every_write_of_a_preparation_is_refused_once(tmp_path: Path) -> None:
    case = scenario("two requests in one claim")
    node = await case.node(tmp_path / "node")
    with node.start(Effects(error=NO_SPACE)) as process:
        await process.agent.refresh()
        for number in range(1, 100):
            process.effects.expect(refuse=number)
            try:
                told = await process.prepare("asked-0")
            except OSError:
                break  # the answer itself: everything before it has been refused
            assert "No space left" in told["asked-0"], process.effects.names[number - 1]
            await old_layout_is_back(node, process, case.layouts[0])
        assert number > 16
        await process.agent.refresh()
        assert node.layout() == case.layouts[-1]
        node.assert_in_agreement(process)


async def test_every_write_of_a_release_is_refused_once(tmp_path: Path) -> None:
    case = scenario("release")
    node = await case.node(tmp_path / "node")
    for number in range(1, 100):
        copy = node.fresh(f"{number}")
        with copy.start(Effects(refuse=number, error=NO_SPACE)) as process:
            try:
                told = await process.unprepare("asked-0")
            except OSError:
                break
            assert "No space left" in told["asked-0"], process.effects.names
            assert process.agent.ledger.claims.keys() >= {"uid-asked-0"}
            process.effects.expect()
            await process.agent.refresh()
            copy.assert_in_agreement(process)
            assert await process.unprepare("asked-0") == {"asked-0": ""}
            await process.agent.refresh()
            copy.assert_in_agreement(process)
    assert number == 6


async def every_error(node: AgentNode) -> list[Effects]:
    """Of a look at the node: calls that change something fail with and without effect, the first question of
    each request to the driver fails, and every write is refused.
    """
    effects = Effects()
    with node.fresh("recorded").start(effects) as process:
        await process.agent.refresh()
    changing = [number for number, symbol in enumerate(effects.calls, start=1) if symbol in CHANGING]
    assert len(changing) >= 3
    errors = [Effects(fail_call=number, fail_after=after) for number in changing for after in (False, True)]
    errors += [Effects(fail_call=number) for number in effects.methods if number not in changing]
    for number, name in enumerate(effects.names, start=1):
        if not name.startswith("NVML"):
            error = Unreachable("PATCH", "connection refused") if name.startswith("API") else NO_SPACE
            errors.append(Effects(refuse=number, error=error))
    return errors


async def look_once(process: Process) -> None:
    """With the error; the loop around it tries again."""
    try:
        await process.agent.refresh()
    except (Unreachable, OSError):
        assert process.effects.refuse


async def test_every_error_of_a_start_is_mended_by_the_next_look(tmp_path: Path) -> None:
    """The agent before died with much to undo."""
    case = scenario("start after a kill")
    node = await case.node(tmp_path / "node")
    pids = node.pids()
    for number, tried in enumerate(await every_error(node)):
        copy = node.fresh(f"{number}")
        with copy.start(tried) as process:
            await look_once(process)
            await old_layout_is_back(copy, process, copy.layout())
            assert copy.layout() in ("1g.10gb@0", case.layouts[-1])
            assert copy.pids() == pids


async def test_after_every_error_of_a_layout_there_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    """What the driver or the disk refuses is not tried again at once, but by the next agent."""
    case = scenario("layout")
    node = await case.node(tmp_path / "node")
    pids = node.pids()
    states = set()
    for number, tried in enumerate(await every_error(node)):
        copy = node.fresh(f"{number}")
        with copy.start(tried) as process:
            await look_once(process)
            process.effects.expect()
            await process.agent.refresh()
            state = copy.api.layout()["state"]
            assert copy.layout() == case.layouts[-1 if state == "Applied" else 0]
            copy.assert_in_agreement(process)
            assert copy.pids() == pids
            states.add(state)
        if state == "Applied":
            continue
        with copy.start() as process:
            await process.agent.refresh()
            assert (copy.layout(), copy.api.layout()) == (case.layouts[-1], {"state": "Applied"})
            assert copy.pids() == pids
    assert states == {"Applied", "Failed"}
