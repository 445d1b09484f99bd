"""A GPU gets the layout that the GPUNode's spec demands, all or nothing, and offers no other slices."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from agent_api import NODE
from simulation.agent_node import AgentNode, Process
from tessera.agent.layouts import RETRY_SECONDS
from tessera.api.gpu_node import GPUNodeStatus
from tessera.api.names import DEVICE_TAINT_KEY, FOREIGN_TAINT_KEY, LEAVING_TAINT_KEY
from tessera.gpu.driver import Driver
from tessera.gpu.faults import NVMLFault
from tessera.gpu.simulator import control
from tessera.kube.errors import Unreachable
from tessera.kube.resources import GPU_NODES, RESOURCE_SLICES
from tessera.metrics.registry import LAYOUTS

HALVES = ("3g.40gb@0", "3g.40gb@4")
MIXED = ("2g.20gb@0", "1g.10gb@2", "3g.40gb@4")
IN_USE = 19


class Serving:
    """An agent that serves the node, until the next one does."""

    def __init__(self, node: AgentNode) -> None:
        self.node = node
        self._stack = ExitStack()
        self.process: Process
        self.start()

    def start(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stack.close()
        self.process = self._stack.enter_context(self.node.start(clock=clock))

    def end(self) -> None:
        self._stack.close()

    @property
    def driver(self) -> Driver:
        driver: Driver = self.process.agent._driver
        return driver

    @property
    def uuid(self) -> str:
        return self.node.state.read().gpus[0].uuid

    @property
    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.node.api.objects[GPU_NODES.kind, NODE]["status"]
        return status

    async def look(self) -> dict[str, Any]:
        """One look at the node; how far the layout is."""
        await self.process.agent.refresh()
        GPUNodeStatus.model_validate(self.status)
        return self.node.api.layout()

    async def get(self, *places: str) -> dict[str, Any]:
        """The layout is demanded; how far it is after one look."""
        self.node.demand(*places)
        return await self.look()

    async def claim(self, name: str, place: str) -> str:
        """The claim is placed and prepared; what the kubelet is told."""
        self.node.allocate(name, place)
        return (await self.process.prepare(name))[name]

    async def leave_warm(self, name: str, place: str) -> None:
        assert await self.claim(name, place) == ""
        assert await self.process.unprepare(name) == {name: ""}

    def stands(self) -> tuple[str, ...]:
        return tuple(self.node.layout().split())

    def offered(self) -> dict[str, set[str]]:
        """The taints of each device, without the one that all have."""
        return {place: taints - {DEVICE_TAINT_KEY} for place, taints in self.node.api.devices().items()}

    def mig_uuids(self) -> dict[int, str]:
        return {instance.start: instance.compute[0].uuid for instance in self.node.instances()}

    async def foreign(self, profile_id: int, start: int, size: int, *, whole: bool = False) -> int:
        """Another program makes an instance."""
        driver = self.driver
        number = await driver.create_gpu_instance(self.uuid, profile_id=profile_id, start=start, size=size)
        if whole:
            await driver.create_compute_instance(self.uuid, gpu_instance_id=number)
        return number

    def lose_checkpoint(self) -> None:
        self.node.checkpoint.path.write_text("torn")
        self.start()


@pytest.fixture
def gpu(tmp_path: Path) -> Iterator[Serving]:
    serving = Serving(AgentNode.new(tmp_path / "node"))
    yield serving
    serving.end()


APPLIED = {"state": "Applied"}


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


class Clock:
    """Seconds that pass when the test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


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
    control.reset(gpu.node.directory / "simulator", index=0)
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


async def test_without_a_layout_the_slices_are_cut_on_demand_again(gpu: Serving) -> None:
    await gpu.get(*HALVES)
    gpu.node.api.demand_nothing()
    assert await gpu.look() == {}
    assert len(gpu.offered()) == 25
    assert await gpu.claim("a", "4g.40gb@0") == ""
    assert gpu.stands() == ("4g.40gb@0", "3g.40gb@4")


async def test_a_claim_gets_the_warm_slice_of_the_layout(gpu: Serving) -> None:
    await gpu.get(*HALVES)
    before = gpu.mig_uuids()
    assert await gpu.claim("a", "3g.40gb@4") == ""
    assert await gpu.look() == APPLIED
    assert gpu.mig_uuids() == before


async def test_a_missing_slice_of_the_layout_is_made_for_its_claim(gpu: Serving) -> None:
    """After a reset of the GPU, before the next look."""
    await gpu.get(*HALVES)
    control.reset(gpu.node.directory / "simulator", index=0)
    assert await gpu.claim("a", "3g.40gb@4") == ""
    assert gpu.stands() == ("3g.40gb@4",)
    assert await gpu.look() == APPLIED
    assert gpu.stands() == HALVES


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_slice_beside_the_layout_is_refused_and_takes_nothing_of_it(
    gpu: Serving, restarted: bool
) -> None:
    """Also by an agent that has not looked at the node yet."""
    await gpu.get(*HALVES)
    if restarted:
        gpu.start()
    told = await gpu.claim("late", "2g.20gb@4")
    for words in ("claim default/late", gpu.uuid, "3g.40gb at 0, 3g.40gb at 4", "delete the pod"):
        assert words in told
    assert gpu.stands() == HALVES


async def test_a_claim_waits_while_a_new_agent_cannot_read_the_spec(
    gpu: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gpu.get(*HALVES)
    gpu.start()

    list_all = gpu.node.api.list

    async def unreachable(resource: Any, **options: Any) -> Any:
        if resource is GPU_NODES:
            raise Unreachable("GET /gpunodes", "connection refused")
        return await list_all(resource, **options)

    with monkeypatch.context() as broken:
        broken.setattr(gpu.node.api, "list", unreachable)
        assert "GPUNode node-a could not be read" in await gpu.claim("a", "3g.40gb@4")
    assert await gpu.claim("a", "3g.40gb@4") == ""


async def test_what_is_held_or_warm_beside_a_blocked_layout_is_still_prepared(gpu: Serving) -> None:
    await gpu.look()
    assert await gpu.claim("held", "2g.20gb@4") == ""
    await gpu.leave_warm("warm", "1g.10gb@0")
    await gpu.get(*HALVES)
    before = gpu.mig_uuids()
    gpu.start()
    assert await gpu.claim("held", "2g.20gb@4") == ""
    assert await gpu.claim("placed before", "1g.10gb@0") == ""
    assert [blocker["name"] for blocker in (await gpu.look())["blockers"]] == ["held", "placed before"]
    assert gpu.mig_uuids() == before


async def test_what_goes_is_withdrawn_before_it_is_destroyed(
    gpu: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gpu.get(*HALVES)
    seen = []
    destroy = gpu.driver.destroy_gpu_instance

    async def watched(*arguments: Any, **options: Any) -> None:
        seen.append(tuple(gpu.offered()))
        await destroy(*arguments, **options)

    monkeypatch.setattr(gpu.driver, "destroy_gpu_instance", watched)
    await gpu.get("3g.40gb@0", "2g.20gb@4")
    assert [set(places) for places in seen] == [{"3g.40gb@0", "2g.20gb@4"}]


async def test_a_claim_that_is_prepared_while_its_slice_is_withdrawn_keeps_it(
    gpu: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gpu.look()
    await gpu.leave_warm("warm", "2g.20gb@4")
    gpu.node.allocate("just in time", "2g.20gb@4")
    apply = gpu.node.api.apply

    async def meanwhile(resource: Any, item: dict[str, Any], **options: Any) -> dict[str, Any]:
        if resource is RESOURCE_SLICES:
            assert await gpu.process.prepare("just in time") == {"just in time": ""}
        return await apply(resource, item, **options)

    with monkeypatch.context() as busy:
        busy.setattr(gpu.node.api, "apply", meanwhile)
        assert (await gpu.get(*HALVES))["state"] == "Blocked"
    assert gpu.stands() == ("2g.20gb@4",)
    await gpu.process.unprepare("just in time")
    assert await gpu.look() == APPLIED  # nothing was tried, so nothing has failed


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
