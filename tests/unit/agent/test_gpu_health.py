"""What is wrong with a GPU, for how long, and what it was before it fell silent."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from tessera.agent.devices import Owner, slices_for
from tessera.agent.health import Ailment, Health, Struck, healthy, struck
from tessera.agent.published import gpus_in, struck_in, told_in
from tessera.gpu.device_names import encode
from tessera.gpu.driver import GPU, Inventory
from tessera.gpu.profiles import models
from tessera.gpu.simulator import control
from tessera.gpu.simulator.faults import Fault
from tessera.gpu.xids import Harm
from tessera.metrics.registry import REGISTRY

Workbench = Any

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NO_RECOVERY_ACTION = Fault("nvmlDeviceGetFieldValues", times=1_000_000, code=3)
"""A driver from before these."""


class Ward:
    """One node's health over looks that follow each other; `seconds` pass when the test says so."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.seconds = 0.0
        self.health = Health(grace_seconds=30, clock=lambda: self.seconds, now=lambda: NOW)
        self.uuids = [gpu.uuid for gpu in bench.nvml.inventory().gpus]

    async def look(self, inventory: Inventory | None = None) -> dict[int, tuple[Ailment, ...]]:
        """What is wrong, by the index that each GPU had at first."""
        await self.health.listen(self.bench.driver)
        self.seen = self.health.judge(inventory or await self.bench.driver.inventory())
        return {self.uuids.index(uuid): found for uuid, found in self.seen.ailments.items()}

    def gpu(self, number: int) -> GPU:
        return next(gpu for gpu in self.seen.inventory.gpus if gpu.uuid == self.uuids[number])

    def without(self, number: int) -> Inventory:
        """The driver's list without that GPU; the others have moved up."""
        inventory: Inventory = self.bench.nvml.inventory()
        left = [gpu for gpu in inventory.gpus if gpu.uuid != self.uuids[number]]
        return replace(inventory, gpus=tuple(replace(gpu, index=index) for index, gpu in enumerate(left)))

    def cut(self, start: int, number: int = 0) -> str:
        """A 2g.20gb there; its MIG UUID."""
        instance = self.bench.nvml.create_gpu_instance(self.uuids[number], 14, start, 2)
        return str(self.bench.nvml.create_compute_instance(self.uuids[number], instance).uuid)

    def report(self, xid: int, *, mig_uuid: str = "", times: int = 1) -> None:
        for _ in range(times):
            control.report_xid(self.bench.simulator, index=0, xid=xid, mig_uuid=mig_uuid)


@pytest.fixture
async def ward(bench: Workbench) -> Ward:
    made = Ward(bench)
    assert await made.look() == {}
    return made


def counted(xid: int, uuid: str) -> float:
    return REGISTRY.get_sample_value("tessera_xids_total", {"xid": str(xid), "gpu": uuid}) or 0.0


async def test_errors_of_the_application_are_counted_and_do_no_harm(ward: Ward) -> None:
    mig = ward.cut(0)
    ward.report(31, mig_uuid=mig, times=3)
    ward.report(13)
    before = [counted(xid, ward.uuids[0]) for xid in (31, 13)]
    assert await ward.look() == {}
    assert [counted(xid, ward.uuids[0]) for xid in (31, 13)] == [before[0] + 3, before[1] + 1]


async def test_a_lost_gpu_stays_as_it_was_until_it_answers_again(ward: Ward) -> None:
    ward.cut(4)
    await ward.look()
    before = ward.gpu(0)
    control.lose(ward.bench.simulator, index=0)
    ((ailment,),) = (await ward.look()).values()
    assert (ailment.cause, ailment.harm, ailment.mask) == ("lost", Harm.RESET, None)
    assert "GPU_IS_LOST" in ailment.message
    assert "after Xid 79 at 2026-01-02T03:04:05Z" in ailment.message
    assert replace(ward.gpu(0), fault="", lost=False) == before
    control.reset(ward.bench.simulator, index=0)
    assert await ward.look() == {}
    assert ward.gpu(0).instances == ()


async def test_a_gpu_that_the_driver_lists_no_more_is_lost_after_the_grace_time(ward: Ward) -> None:
    found = await ward.look(ward.without(0))
    assert [(one.cause, one.harm) for one in found[0]] == [("unreachable", Harm.DRAIN)]
    ward.seconds = 29
    assert (await ward.look(ward.without(0)))[0][0].harm is Harm.DRAIN
    ward.seconds = 30
    found = await ward.look(ward.without(0))
    assert [(one.cause, one.harm) for one in found[0]] == [("lost", Harm.RESET)]
    assert ward.gpu(0).model is not None
    assert await ward.look() == {}
    ward.seconds = 45
    assert (await ward.look(ward.without(0)))[0][0].harm is Harm.DRAIN


async def test_a_gpu_that_comes_back_with_another_index_is_the_same_gpu(ward: Ward) -> None:
    control.lose(ward.bench.simulator, index=0)
    await ward.look(ward.without(0))
    assert (ward.gpu(0).index, ward.gpu(1).index) == (0, 0)
    control.reset(ward.bench.simulator, index=0)
    inventory = ward.bench.nvml.inventory()
    swapped = [replace(gpu, index=1 - gpu.index) for gpu in inventory.gpus]
    assert await ward.look(replace(inventory, gpus=tuple(swapped))) == {}
    assert (ward.gpu(0).index, ward.gpu(1).index) == (1, 0)


async def test_a_call_that_fails_keeps_new_work_away_and_ends_nothing(ward: Ward) -> None:
    ward.bench.fail(Fault("nvmlDeviceGetMigMode", times=1, code=999))
    ((ailment,),) = (await ward.look()).values()
    assert (ailment.cause, ailment.harm) == ("unreachable", Harm.DRAIN)
    assert ward.gpu(0).model is not None
    assert await ward.look() == {}


@pytest.mark.parametrize(
    ("xid", "harm", "cause"), [(95, Harm.RESET, "recovery-action-1"), (9999, Harm.NONE, "")]
)
async def test_the_driver_itself_says_whether_the_gpu_needs_a_reset(
    ward: Ward, xid: int, harm: Harm, cause: str
) -> None:
    ward.report(xid)
    found = await ward.look()
    assert [(one.cause, one.harm) for one in found.get(0, ())] == ([(cause, harm)] if cause else [])
    if cause:
        (ailment,) = found[0]
        assert "the driver asks to reset the GPU, after Xid 95 at 2026-01-02T03:04:05Z" in ailment.message
        assert "nvidia-smi -i 0 --gpu-reset" in ailment.message
    control.reset(ward.bench.simulator, index=0)
    assert await ward.look() == {}


async def test_a_virtual_machine_is_told_to_reboot(ward: Ward) -> None:
    control.virtualize(ward.bench.simulator, index=0, mode="passthrough")
    ward.report(95)
    ((ailment,),) = (await ward.look()).values()
    assert "reboot this virtual machine" in ailment.message


@pytest.mark.parametrize(("xid", "harm"), [(119, Harm.RESET), (9999, Harm.DRAIN)])
async def test_an_old_driver_is_judged_by_the_catalogue_until_the_instances_are_gone(
    ward: Ward, xid: int, harm: Harm
) -> None:
    ward.bench.fail(NO_RECOVERY_ACTION)
    ward.cut(0)
    ward.report(xid)
    ((ailment,),) = (await ward.look()).values()
    assert (ailment.cause, ailment.harm, ailment.mask) == (f"xid-{xid}", harm, None)
    assert await ward.look() == {0: (ailment,)}
    control.reset(ward.bench.simulator, index=0)
    assert await ward.look() == {}


async def test_on_an_old_driver_a_lost_gpu_that_answers_has_been_reset(ward: Ward) -> None:
    ward.bench.fail(NO_RECOVERY_ACTION)
    control.lose(ward.bench.simulator, index=0)
    assert (await ward.look())[0][0].cause == "lost"
    control.reset(ward.bench.simulator, index=0)
    assert await ward.look() == {}


async def test_a_contained_error_concerns_its_instance_until_that_is_gone(ward: Ward) -> None:
    sick, well = ward.cut(0), ward.cut(4)
    ward.report(94, mig_uuid=sick, times=2)
    found = await ward.look()
    (ailment,) = found[0]
    assert (ailment.cause, ailment.harm, ailment.mask) == ("xid-94", Harm.INSTANCE, 0b11)
    assert (ailment.concerns(0b10), ailment.concerns(0b110000)) == (True, False)
    assert healthy(found[0])
    assert [one.compute[0].uuid for one in struck(ward.gpu(0), found[0])] == [sick]
    ward.report(94, mig_uuid=sick)
    assert await ward.look() == found
    instance = struck(ward.gpu(0), found[0])[0]
    ward.bench.nvml.destroy_compute_instance(ward.uuids[0], instance.id, 0)
    ward.bench.nvml.destroy_gpu_instance(ward.uuids[0], instance.id)
    assert await ward.look() == {}
    assert [one.compute[0].uuid for one in ward.gpu(0).instances] == [well]


async def test_an_error_of_an_instance_that_is_gone_already_concerns_nobody(ward: Ward) -> None:
    mig = ward.cut(0)
    ward.report(94, mig_uuid=mig)
    control.reset(ward.bench.simulator, index=0)
    assert await ward.look() == {}


async def test_events_that_cannot_be_read_are_told_and_do_no_harm(ward: Ward) -> None:
    ward.bench.fail(Fault("nvmlEventSetWait_v2", times=1, code=999))
    found = await ward.look()
    assert [(one.cause, one.harm) for one in found[0]] == [("unheard", Harm.NONE)]
    assert healthy(found[0])
    assert await ward.look() == {}
    ward.bench.fail(Fault("nvmlDeviceGetCount_v2", times=1, code=999))
    assert [one.cause for found in (await ward.look()).values() for one in found] == ["unheard"] * 2
    assert await ward.look() == {}


@pytest.mark.parametrize("model", ["A30-24GB", "H100-80GB", "RTXPRO6000-96GB"])
def test_published_gpus_are_read_back_as_they_were(model: str, bench: Workbench) -> None:
    owner = Owner("n", "u")
    cut = replace(bench.gpu(0), model=models()[model], instances=(), mig_pending=True)
    gpus = [cut, replace(cut, uuid=bench.gpu(1).uuid, index=1, mig_current=False)]
    slices = slices_for(owner, gpus, generation=7)
    assert slices_for(owner, gpus_in(slices), generation=7) == slices
    assert [gpu.mig_current for gpu in gpus_in(slices)] == [True, False]


def test_what_was_told_of_an_xid_is_read_back(bench: Workbench) -> None:
    gpu = bench.gpu()
    told = {gpu.uuid: (Ailment("xid-94", "", Harm.INSTANCE, mask=0b110000),)}
    slices = slices_for(Owner("n", "u"), [gpu], generation=7, ailments=told)
    for taint in (
        taint for item in slices for device in item["spec"].get("devices", []) for taint in device["taints"]
    ):
        taint["timeAdded"] = "2026-01-02T03:04:05Z"  # as the API server does
    instances = [
        {
            "device": encode(gpu_uuid=gpu.uuid, profile="2g.20gb", start=start),
            "start": start,
            "size": 2,
            "uuid": f"MIG-{start}",
        }
        for start in (0, 4)
    ]
    gpu_node = {"status": {"gpus": [{"uuid": gpu.uuid, "instances": instances}]}}
    assert list(struck_in(slices, gpu_node)) == [Struck(gpu.uuid, "MIG-4", 0b110000, 94, False, NOW)]


def test_slices_of_other_drivers_are_no_gpus_of_ours() -> None:
    assert gpus_in([{"spec": {"driver": "gpu.nvidia.com", "devices": [{"name": "gpu-0"}]}}]) == ()


@pytest.mark.parametrize("attribute", ["productName", "gpuUUID"])
def test_slices_of_another_version_that_cannot_be_read_tell_nothing(attribute: str, bench: Workbench) -> None:
    slices = slices_for(Owner("n", "u"), [bench.gpu()], generation=7)
    for item in slices:
        for device in item["spec"].get("devices", []):
            del device["attributes"][attribute]
    assert told_in(slices, {}) == ((), ())
