"""The node agent over an API in memory: its memory, the disk or the cluster are not as it left them."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from agent_api import NODE, Listed, MemoryAPI
from clock import Clock
from tessera.agent.claims import ClaimKey, PrepareError
from tessera.agent.node import NodeAgent, NodeOptions
from tessera.api.names import FOREIGN_TAINT_KEY
from tessera.api.reasons import Reason
from tessera.gpu.simulator import control
from tessera.gpu.simulator.faults import Fault
from tessera.gpu.simulator.state import StateFile
from tessera.kube.errors import Unreachable
from tessera.kube.resources import GPU_NODES, NODES, RESOURCE_CLAIMS, RESOURCE_SLICES

Workbench = Any

States = list[tuple[str, str]]
"""Profile and state of each instance."""


@dataclass
class APIInMemory(MemoryAPI):
    """An API server that may not answer for claims, and what the agent has asked and told it."""

    claims_unreachable: bool = False
    asked: Counter[str] = field(default_factory=Counter)
    """How often what kind was read."""

    async def get(self, resource: Any, name: str, namespace: str | None = None) -> dict[str, Any]:
        self._ask(resource)
        return await super().get(resource, name, namespace)

    async def list(self, resource: Any, **options: Any) -> Listed:
        self._ask(resource)
        return await super().list(resource, **options)

    def _ask(self, resource: Any) -> None:
        self.asked[resource.kind] += 1
        if resource is RESOURCE_CLAIMS and self.claims_unreachable:
            raise Unreachable("GET /resourceclaims", "connection refused")

    def put_claim(self, bench: Workbench, name: str, profile: str, start: int) -> ClaimKey:
        """A claim with an allocation on the node, as the scheduler writes it."""
        claim = bench.claim(name, (profile, start))
        self.allocate(name, claim.key.uid, tuple(device.device for device in claim.devices))
        key: ClaimKey = claim.key
        return key

    def ready(self) -> dict[str, Any]:
        condition: dict[str, Any] = self.status["conditions"][0]
        return condition

    def states(self) -> States:
        return [
            (instance["profile"], instance["state"])
            for gpu in self.status["gpus"]
            for instance in gpu.get("instances") or []
        ]

    def offered(self) -> int:
        """How many devices are published."""
        return len(self.devices())

    def in_the_way(self) -> set[tuple[str, int]]:
        """Published placements with the taint for foreign instances."""
        return {
            (device["attributes"]["profile"]["string"], device["attributes"]["start"]["int"])
            for device in self.devices()
            if FOREIGN_TAINT_KEY in {taint["key"] for taint in device["taints"]}
        }


@pytest.fixture
def api() -> APIInMemory:
    return APIInMemory()


def start(bench: Workbench, api: APIInMemory, *, clock: Callable[[], float] = time.monotonic) -> NodeAgent:
    """The agent as a new process would find the node."""
    client: Any = api
    agent = NodeAgent(
        client=client,
        driver=bench.driver,
        checkpoint=bench.checkpoint,
        cdi=bench.cdi,
        options=NodeOptions(name=NODE, enable_mig=True, events=False),
        clock=clock,
    )
    agent.registered = True
    agent.open()
    return agent


async def serving(bench: Workbench, api: APIInMemory, *names: str) -> NodeAgent:
    """An agent that has prepared these claims, each 2g.20gb, side by side."""
    agent = start(bench, api)
    await agent.refresh()
    for number, name in enumerate(names):
        await agent.prepare(api.put_claim(bench, name, "2g.20gb", 2 * number), timeout_seconds=5)
    await agent.refresh()
    return agent


async def test_a_look_reads_the_node_its_slices_and_its_report_once(
    bench: Workbench, api: APIInMemory
) -> None:
    agent = start(bench, api)
    await agent.refresh()
    api.asked.clear()
    await agent.refresh()
    assert api.asked == {NODES.kind: 1, RESOURCE_SLICES.kind: 1, GPU_NODES.kind: 1}


async def test_a_second_start_before_the_rebuild_still_finds_the_damage(
    bench: Workbench, api: APIInMemory
) -> None:
    await serving(bench, api, "a")
    bench.checkpoint.path.write_text("torn")
    api.claims_unreachable = True
    with pytest.raises(Unreachable):
        await start(bench, api).refresh()
    api.claims_unreachable = False
    agent = start(bench, api)
    await agent.refresh()
    assert agent.ledger.claims.keys() == {"uid-a"}
    assert api.states() == [("2g.20gb", "InUse")]
    assert bench.checkpoint.path.with_suffix(".damaged.json").read_text() == "torn"


async def test_a_missing_checkpoint_with_cdi_specs_is_rebuilt(bench: Workbench, api: APIInMemory) -> None:
    await serving(bench, api, "a")
    bench.checkpoint.path.unlink()
    agent = start(bench, api)
    await agent.refresh()
    assert agent.ledger.claims.keys() == bench.checkpoint.load().claims.keys() == {"uid-a"}


async def test_a_directory_in_the_checkpoints_place_is_moved_away(bench: Workbench, api: APIInMemory) -> None:
    await serving(bench, api, "a")
    bench.checkpoint.path.unlink()
    bench.checkpoint.path.mkdir()
    agent = start(bench, api)
    await agent.refresh()
    assert bench.checkpoint.load().claims.keys() == {"uid-a"}


async def test_nothing_is_released_before_the_ledger_is_rebuilt(bench: Workbench, api: APIInMemory) -> None:
    await serving(bench, api, "a")
    bench.checkpoint.path.write_text("torn")
    agent = start(bench, api)
    with pytest.raises(PrepareError) as raised:
        await agent.unprepare(ClaimKey(namespace="default", name="a", uid="uid-a"))
    assert raised.value.reason is Reason.RECONCILING
    await agent.refresh()
    await agent.unprepare(ClaimKey(namespace="default", name="a", uid="uid-a"))
    assert bench.checkpoint.load().claims == {}


async def test_a_claim_that_exists_no_more_gives_its_slice_up_after_the_grace_time(
    bench: Workbench, api: APIInMemory
) -> None:
    await serving(bench, api, "gone", "made-again", "there")
    del api.objects[RESOURCE_CLAIMS.kind, "gone"]
    api.objects[RESOURCE_CLAIMS.kind, "made-again"]["metadata"]["uid"] = "another"
    clock = Clock()
    agent = start(bench, api, clock=clock)
    await agent.refresh()
    clock.now += 59
    await agent.refresh()
    assert len(agent.ledger.claims) == 3
    clock.now += 16
    await agent.refresh()
    assert bench.checkpoint.load().claims.keys() == {"uid-there"}
    assert sorted(state for _, state in api.states()) == ["InUse", "Warm", "Warm"]


async def test_a_claim_that_exists_no_more_keeps_its_slice_while_a_process_runs_on_it(
    bench: Workbench, api: APIInMemory
) -> None:
    agent = await serving(bench, api, "gone")
    (record,) = agent.ledger.claims.values()
    assert record.devices[0].slice is not None
    control.occupy(bench.simulator, mig_uuid=record.devices[0].slice.uuid, pid=os.getpid())
    del api.objects[RESOURCE_CLAIMS.kind, "gone"]
    clock = Clock()
    agent = start(bench, api, clock=clock)
    for _ in range(3):
        await agent.refresh()
        clock.now += 100
    assert agent.ledger.claims.keys() == {"uid-gone"}


async def test_a_whole_gpu_is_given_up_when_its_claim_and_its_processes_are_gone(
    bench: Workbench, api: APIInMemory
) -> None:
    uuid = bench.gpu().uuid
    bench.nvml.set_mig_mode(uuid, False)
    api.specify({"uuid": uuid, "partition": "p", "migMode": "Disabled"})
    agent = start(bench, api)
    await agent.refresh()
    await agent.prepare(api.put_claim(bench, "gone", "gpu", 0), timeout_seconds=5)
    del api.objects[RESOURCE_CLAIMS.kind, "gone"]
    control.hold(bench.simulator, index=0, pid=os.getpid())
    clock = Clock()
    agent = start(bench, api, clock=clock)
    for _ in range(3):
        await agent.refresh()
        clock.now += 100
    assert api.states() == [("gpu", "InUse")]
    with StateFile(bench.simulator).change() as state:
        state.gpus[0].clients.clear()
    await agent.refresh()
    assert (agent.ledger.claims, api.states()) == ({}, [])


async def test_an_api_that_does_not_answer_is_no_proof_that_a_claim_is_gone(
    bench: Workbench, api: APIInMemory
) -> None:
    await serving(bench, api, "a")
    api.claims_unreachable = True
    clock = Clock()
    agent = start(bench, api, clock=clock)
    for _ in range(3):
        await agent.refresh()
        clock.now += 100
    assert agent.ledger.claims.keys() == {"uid-a"}


async def test_a_gpu_that_refuses_mig_mode_does_not_stop_the_others(
    bench: Workbench, api: APIInMemory
) -> None:
    for gpu in bench.nvml.inventory().gpus:
        bench.nvml.set_mig_mode(gpu.uuid, False)
    bench.fail(Fault("nvmlDeviceSetMigMode", times=1, code=999))
    await start(bench, api).refresh()
    assert [gpu["migMode"] for gpu in api.status["gpus"]] == ["Disabled", "Enabled"]
    assert api.ready()["reason"] == Reason.PUBLISHED
    assert "GPU 0: enabling MIG failed" in api.ready()["message"]


async def test_devices_are_withdrawn_after_a_time_of_faults_and_not_after_a_number_of_them(
    bench: Workbench, api: APIInMemory
) -> None:
    clock = Clock()
    agent = start(bench, api, clock=clock)
    await agent.refresh()
    offered = api.offered()
    assert offered > 0
    bench.fail(Fault("nvmlDeviceGetCount_v2", times=0, code=999))
    for _ in range(10):
        await agent.refresh()
        clock.now += 2.9
    assert api.ready()["reason"] == Reason.NVML_ERROR
    assert api.offered() == offered
    clock.now += 1.1
    await agent.refresh()
    assert api.offered() == 0


async def test_one_good_look_between_faults_begins_the_time_again(bench: Workbench, api: APIInMemory) -> None:
    clock = Clock()
    agent = start(bench, api, clock=clock)
    await agent.refresh()
    offered = api.offered()
    for _ in range(3):
        bench.fail(Fault("nvmlSystemGetDriverVersion", times=1, code=999))
        await agent.refresh()
        assert api.ready()["reason"] == Reason.NVML_ERROR
        clock.now += 20
        await agent.refresh()
        assert api.ready()["reason"] == Reason.PUBLISHED
        assert api.offered() == offered
        clock.now += 20


async def test_a_claim_that_cannot_be_prepared_is_named_until_it_is_prepared_or_released(
    bench: Workbench, api: APIInMemory
) -> None:
    agent = start(bench, api)
    await agent.refresh()
    keys = [api.put_claim(bench, name, "2g.20gb", at) for name, at in (("a", 0), ("b", 2))]
    bench.fail(Fault("nvmlDeviceCreateGpuInstanceWithPlacement", times=0, code=19))
    for claim in keys:
        with pytest.raises(PrepareError):
            await agent.prepare(claim, timeout_seconds=5)
    await agent.refresh()
    told = api.status["prepareFailures"]
    assert [entry["claim"]["name"] for entry in told] == ["a", "b"]
    assert "claim default/a: nvmlDeviceCreateGpuInstanceWithPlacement" in told[0]["message"]
    assert "IN_USE" in told[0]["message"]
    bench.fail()
    await agent.prepare(keys[0], timeout_seconds=5)
    await agent.refresh()
    assert [entry["claim"]["name"] for entry in api.status["prepareFailures"]] == ["b"]
    await agent.unprepare(keys[1])
    await agent.refresh()
    assert "prepareFailures" not in api.status


async def test_an_instance_of_an_unknown_profile_is_shown_as_foreign(
    bench: Workbench, api: APIInMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.driver.create_gpu_instance(bench.gpu().uuid, profile_id=14, start=4, size=2)
    seen = bench.nvml.inventory()
    gpu = seen.gpus[0]
    strange = replace(gpu, instances=(replace(gpu.instances[0], profile_id=77),))
    monkeypatch.setattr(bench.nvml, "inventory", lambda: replace(seen, gpus=(strange, seen.gpus[1])))
    bench.checkpoint.path.write_text("torn")
    await start(bench, api).refresh()
    (instance,) = api.status["gpus"][0]["instances"]
    assert (instance["profile"], instance["state"]) == ("id-77", "Foreign")
    assert instance["device"].endswith("-id-77-4")


async def test_placements_in_the_way_of_a_foreign_instance_are_not_offered_until_it_is_gone(
    bench: Workbench, api: APIInMemory
) -> None:
    agent = await serving(bench, api, "ours")
    assert api.in_the_way() == set()
    uuid = bench.gpu().uuid
    instance = await bench.driver.create_gpu_instance(uuid, profile_id=14, start=4, size=2)
    await agent.refresh()
    tainted = api.in_the_way()
    assert {("2g.20gb", 4), ("3g.40gb", 4), ("7g.80gb", 0), ("1g.10gb", 5)} <= tainted
    assert not {("2g.20gb", 2), ("1g.10gb", 6), ("3g.40gb", 0)} & tainted
    await bench.driver.destroy_gpu_instance(uuid, gpu_instance_id=instance)
    await agent.refresh()
    assert api.in_the_way() == set()
