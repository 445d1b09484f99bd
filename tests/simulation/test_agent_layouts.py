"""A GPU gets the layout that the GPUNode's spec demands, all or nothing, and offers no other slices."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from agent_api import NODE
from clock import Clock
from simulation.agent_node import AgentNode
from simulation.agent_serving import APPLIED, HALVES, MIXED, Serving
from tessera.agent.layouts import RETRY_SECONDS
from tessera.api.names import FOREIGN_TAINT_KEY, LEAVING_TAINT_KEY
from tessera.gpu.faults import IN_USE, NVMLFault
from tessera.gpu.simulator import control
from tessera.kube.resources import GPU_NODES
from tessera.metrics.registry import LAYOUTS


def gpus_by_state() -> dict[str, float]:
    """What the metric says of this node."""
    (metric,) = LAYOUTS.collect()
    return {
        sample.labels["state"]: sample.value for sample in metric.samples if sample.labels["node"] == NODE
    }


async def test_the_gpu_is_cut_as_the_spec_says_and_offers_nothing_else(gpu: Serving) -> None:
    assert await gpu.get(*MIXED) == APPLIED
    assert gpu.stands() == MIXED
    assert gpu.offered() == {place: set() for place in MIXED}
    assert set(gpu.node.api.reported().values()) == {"Warm"}


async def test_an_empty_layout_leaves_no_slice(gpu: Serving) -> None:
    await gpu.get(*HALVES)
    assert await gpu.get() == APPLIED
    assert (gpu.stands(), gpu.offered()) == ((), {})


async def test_slices_that_stand_where_they_are_wanted_stay(gpu: Serving) -> None:
    await gpu.look()
    assert await gpu.claim("used", "1g.10gb@2") == ""
    await gpu.leave_warm("warm", "2g.20gb@0")
    await gpu.leave_warm("elsewhere", "1g.10gb@4")
    before = gpu.mig_uuids()
    assert await gpu.get(*MIXED) == APPLIED
    assert gpu.stands() == MIXED
    assert [gpu.mig_uuids()[start] for start in (0, 2)] == [before[start] for start in (0, 2)]


async def test_a_claim_that_holds_what_has_to_go_blocks_all_of_it(gpu: Serving) -> None:
    await gpu.look()
    await gpu.leave_warm("warm", "1g.10gb@0")
    assert await gpu.claim("held", "2g.20gb@4") == ""
    told = await gpu.get(*HALVES)
    assert told["state"] == "Blocked"
    assert told["blockers"] == [{"namespace": "default", "name": "held", "uid": "uid-held"}]
    assert "claim default/held; end their pods, or wait" in told["message"]
    assert gpu.stands() == ("1g.10gb@0", "2g.20gb@4")
    assert gpu.offered() == {"3g.40gb@0": set(), "3g.40gb@4": set(), "2g.20gb@4": {LEAVING_TAINT_KEY}}
    assert gpus_by_state()["Blocked"] == 1
    await gpu.process.unprepare("held")
    assert await gpu.look() == APPLIED
    assert gpu.stands() == tuple(gpu.offered()) == HALVES
    assert (gpus_by_state()["Blocked"], gpus_by_state()["Applied"]) == (0, 1)


async def test_a_foreign_instance_blocks_it_with_the_remedy(gpu: Serving) -> None:
    instance = await gpu.foreign(14, 4, 2)
    told = await gpu.get(*HALVES)
    assert (told["state"], "blockers" in told) == ("Blocked", False)
    assert "which Tessera did not make; destroy it with nvidia-smi mig -dci and -dgi" in told["message"]
    assert gpu.stands() == ("2g.20gb@4(half", "made)")
    assert gpu.offered() == {"3g.40gb@0": set(), "3g.40gb@4": {FOREIGN_TAINT_KEY}}
    await gpu.driver.destroy_gpu_instance(gpu.uuid, gpu_instance_id=instance)
    assert await gpu.look() == APPLIED


@pytest.mark.parametrize(
    ("places", "why"),
    [
        (("2g.20gb@1",), "2g.20gb cannot start at 1 on H100-80GB; legal starts: 0, 2, 4"),
        (("9g.90gb@0",), "unknown profile slug '9g-90gb'"),
        (("3g.40gb@0", "2g.20gb@2"), "overlap"),
    ],
)
async def test_a_layout_that_cannot_be_fails_and_changes_nothing(
    gpu: Serving, places: tuple[str, ...], why: str
) -> None:
    await gpu.look()
    await gpu.leave_warm("warm", "1g.10gb@6")
    told = await gpu.get(*places)
    assert told["state"] == "Failed"
    assert why in told["message"]
    assert (gpu.stands(), gpu.offered()) == (("1g.10gb@6",), {})


async def test_without_mig_mode_it_waits_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Serving(AgentNode.new(tmp_path / "node", mig=False))
    with monkeypatch.context() as refusing:
        refusing.setattr(gpu.driver, "set_mig_mode", refuse)
        told = await gpu.get(*HALVES)
    assert told["state"] == "Blocked"
    assert "nvidia-smi -i 0 -mig 1" in told["message"]
    assert await gpu.look() == APPLIED
    gpu.end()


async def refuse(*_: Any, **__: Any) -> Any:
    """As the driver does while something is used."""
    raise NVMLFault(IN_USE, call="nvml", target="the GPU")


@pytest.fixture
async def failed(gpu: Serving, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The driver has refused a layout, for which a warm slice had to go."""
    clock = Clock()
    gpu.start(clock=clock)
    await gpu.look()
    await gpu.leave_warm("goes", "1g.10gb@6")
    await gpu.leave_warm("stays", "3g.40gb@0")
    create, tries = gpu.driver.create_gpu_instance, 0

    async def once_refused(*arguments: Any, **options: Any) -> int:
        nonlocal tries
        tries += 1
        return await (refuse() if tries == 1 else create(*arguments, **options))

    with monkeypatch.context() as refusing:
        refusing.setattr(gpu.driver, "create_gpu_instance", once_refused)
        told = await gpu.get(*HALVES)
    assert told["state"] == "Failed"
    assert "IN_USE" in told["message"]
    assert "stop its processes, or wait until they end; what was begun is undone" in told["message"]
    assert gpu.stands() == ("3g.40gb@0", "1g.10gb@6")
    assert gpu.offered() == {"3g.40gb@0": set()}
    gpu.node.assert_in_agreement(gpu.process)
    return clock


async def test_a_refused_layout_is_not_tried_again_at_once(gpu: Serving, failed: Clock) -> None:
    before = gpu.mig_uuids()
    failed.now += RETRY_SECONDS - 1
    for _ in range(3):
        assert (await gpu.look())["state"] == "Failed"
    assert gpu.mig_uuids() == before
    assert gpu.offered() == {"3g.40gb@0": set()}


async def test_a_refused_layout_is_tried_again_after_a_time(gpu: Serving, failed: Clock) -> None:
    failed.now += RETRY_SECONDS
    assert await gpu.look() == APPLIED
    assert gpu.offered() == {place: set() for place in HALVES}


async def test_while_it_is_tried_again_only_what_is_there_is_offered(
    gpu: Serving, failed: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed.now += RETRY_SECONDS
    seen = []

    async def watched(*_: Any, **__: Any) -> Any:
        seen.append(gpu.offered())
        await refuse()

    monkeypatch.setattr(gpu.driver, "create_gpu_instance", watched)
    await gpu.look()
    assert {tuple(offered) for offered in seen} == {("3g.40gb@0",)}


async def test_a_refused_layout_is_tried_again_when_the_gpu_changes(gpu: Serving, failed: Clock) -> None:
    control.reset(gpu.simulator, index=0)
    assert await gpu.look() == APPLIED


async def test_a_refused_layout_is_tried_again_by_the_next_agent(gpu: Serving, failed: Clock) -> None:
    gpu.start(clock=failed)
    assert await gpu.look() == APPLIED


async def test_another_layout_is_tried_at_once(gpu: Serving, failed: Clock) -> None:
    assert await gpu.get(*MIXED) == APPLIED
    assert gpu.stands() == MIXED


async def test_a_refused_layout_that_is_taken_back_and_demanded_again_is_tried_at_once(
    gpu: Serving, failed: Clock
) -> None:
    gpu.node.api.demand_nothing()
    await gpu.look()
    assert await gpu.get(*HALVES) == APPLIED


async def test_the_status_names_the_generation_that_was_acted_upon(
    gpu: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator writes another spec while the agent is at work with the one before."""
    await gpu.look()
    look = gpu.driver.inventory

    def demand(generation: int, *places: str) -> None:
        gpu.node.demand(*places)
        gpu.node.api.objects[GPU_NODES.kind, NODE]["metadata"]["generation"] = generation

    async def meanwhile() -> Any:
        demand(8, *MIXED)
        return await look()

    demand(7, *HALVES)
    with monkeypatch.context() as busy:
        busy.setattr(gpu.driver, "inventory", meanwhile)
        await gpu.look()
    assert (gpu.status["observedGeneration"], gpu.stands()) == (7, HALVES)
    await gpu.look()
    assert (gpu.status["observedGeneration"], gpu.stands()) == (8, MIXED)


async def test_the_status_names_the_layout_that_it_is_about(gpu: Serving) -> None:
    await gpu.look()
    assert await gpu.claim("held", "2g.20gb@4") == ""
    asked = {"layout": [{"profile": "3g.40gb", "start": 4}], "layoutGeneration": 7}
    gpu.node.api.specify({"uuid": gpu.uuid, "partition": "fixed", **asked})
    told = await gpu.look()
    assert (told["state"], told["generation"]) == ("Blocked", 7)
    await gpu.process.unprepare("held")
    assert await gpu.look() == APPLIED | {"generation": 7}


async def test_a_process_on_one_slice_runs_on_while_the_rest_of_the_gpu_changes(gpu: Serving) -> None:
    await gpu.look()
    assert await gpu.claim("runs", "1g.10gb@6") == ""
    gpu.node.occupy(6, os.getpid())
    pids = gpu.node.pids()
    for places in (("4g.40gb@0",), ("3g.40gb@0", "2g.20gb@4"), tuple(f"1g.10gb@{at}" for at in range(6))):
        assert await gpu.get(*places, "1g.10gb@6") == APPLIED
        assert gpu.stands() == (*places, "1g.10gb@6")
        assert gpu.node.pids() == pids


async def test_a_damaged_checkpoint_costs_no_slice_of_the_layout(gpu: Serving) -> None:
    await gpu.get(*MIXED)
    assert await gpu.claim("a", "1g.10gb@2") == ""
    before = gpu.mig_uuids()
    gpu.lose_checkpoint()
    assert await gpu.look() == APPLIED
    assert gpu.mig_uuids() == before
    assert sorted(gpu.node.api.reported().values()) == ["InUse", "Warm", "Warm"]


async def test_what_a_layout_left_unfinished_is_found_without_its_checkpoint(gpu: Serving) -> None:
    """One slice that no status has named yet, one half made."""
    await gpu.look()
    await gpu.foreign(9, 0, 4, whole=True)
    await gpu.foreign(9, 4, 4)
    gpu.lose_checkpoint()
    assert await gpu.get(*HALVES) == APPLIED
    assert gpu.stands() == HALVES


async def test_a_foreign_instance_in_a_layouts_place_stays_foreign_without_the_checkpoint(
    gpu: Serving,
) -> None:
    await gpu.foreign(9, 0, 4, whole=True)
    await gpu.get(*HALVES)
    gpu.lose_checkpoint()
    assert (await gpu.look())["state"] == "Blocked"
    assert set(gpu.node.api.reported().values()) == {"Foreign"}
