"""Preparing and releasing claims:

whatever fails, and wherever the agent dies, the layout is the old or the new one.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import pytest
from forked import in_a_fork
from tessera.agent.checkpoint import Phase
from tessera.agent.claims import PrepareError
from tessera.agent.transactions import Transactions
from tessera.api.reasons import Reason
from tessera.gpu.driver import LocalDriver
from tessera.gpu.faults import NVMLFault
from tessera.gpu.nvml import NVML
from tessera.gpu.simulator import control
from tessera.gpu.simulator.faults import Fault
from tessera.gpu.simulator.library import SimulatedLibrary

Workbench = Any

CREATE_GI = "nvmlDeviceCreateGpuInstanceWithPlacement"
CREATE_CI = "nvmlGpuInstanceCreateComputeInstance"
DESTROY_CI = "nvmlComputeInstanceDestroy"
DESTROY_GI = "nvmlGpuInstanceDestroy"
READ_UUID = "nvmlComputeInstanceGetInfo_v2"
STEPS = (DESTROY_CI, DESTROY_GI, CREATE_GI, CREATE_CI)


async def test_a_slice_is_cut_at_the_allocated_placement(bench: Workbench) -> None:
    record = await bench.transactions.prepare(bench.claim("a", ("2g.20gb", 4)))
    assert bench.layout() == [("2g.20gb", 4, 1)]
    (device,) = record.devices
    assert device.slice is not None
    assert device.slice.uuid == bench.gpu().instances[0].compute[0].uuid


async def test_the_container_sees_its_slice(bench: Workbench) -> None:
    record = await bench.transactions.prepare(bench.claim("a", ("2g.20gb", 4)))
    (path,) = (bench.directory / "cdi").iterdir()
    spec = json.loads(path.read_text())
    uuid = record.devices[0].slice.uuid
    assert (spec["kind"], spec["devices"][0]["name"]) == ("gpu.tessera.dev/claim", "uid-a")
    assert spec["devices"][0]["containerEdits"]["env"] == [
        f"NVIDIA_VISIBLE_DEVICES={uuid}",
        f"CUDA_VISIBLE_DEVICES={uuid}",
        "TESSERA_SLICE_PROFILE=2g.20gb",
        f"TESSERA_SLICE_MEMORY_BYTES={20090 * 1024 * 1024}",
        f"TESSERA_SLICE_UUID={uuid}",
        "TESSERA_SIMULATED=1",
    ]


async def test_preparing_again_changes_nothing(bench: Workbench) -> None:
    claim = bench.claim("a", ("2g.20gb", 4))
    first = await bench.transactions.prepare(claim)
    assert await bench.transactions.prepare(claim) == first
    bench.restart()
    assert await bench.transactions.prepare(claim) == first
    assert len(bench.layout()) == 1


async def test_preparing_again_writes_a_missing_cdi_spec(bench: Workbench) -> None:
    claim = bench.claim("a", ("2g.20gb", 4))
    await bench.transactions.prepare(claim)
    bench.cdi.remove("uid-a")
    await bench.transactions.prepare(claim)
    assert bench.cdi.exists("uid-a")


async def test_a_released_slice_stays_warm_and_is_used_again(bench: Workbench) -> None:
    first = await bench.transactions.prepare(bench.claim("a", ("2g.20gb", 4)))
    await bench.transactions.release("uid-a")
    assert not bench.cdi.exists("uid-a")
    assert bench.layout() == [("2g.20gb", 4, 1)]
    second = await bench.transactions.prepare(bench.claim("b", ("2g.20gb", 4)))
    assert second.devices[0].slice == first.devices[0].slice
    assert bench.transactions.ledger.warm == {}


async def test_warm_slices_make_room(bench: Workbench) -> None:
    await bench.leave_warm("a", "2g.20gb", 4)
    await bench.leave_warm("b", "2g.20gb", 0)
    await bench.transactions.prepare(bench.claim("c", ("3g.40gb", 4)))
    assert bench.layout() == [("2g.20gb", 0, 1), ("3g.40gb", 4, 1)]
    assert len(bench.transactions.ledger.warm) == 1


async def test_a_warm_slice_elsewhere_gives_up_the_media_engines(bench: Workbench) -> None:
    """A GPU has them once, wherever the slice stands; another claim at that very slice takes it with them."""
    await bench.leave_warm("a", "1g.10gb+me", 0)
    await bench.leave_warm("b", "1g.10gb", 1)
    await bench.transactions.prepare(bench.claim("c", ("1g.10gb+me", 4), ("1g.10gb", 1)))
    assert bench.layout() == [("1g.10gb", 1, 1), ("1g.10gb+me", 4, 1)]
    await bench.transactions.release("uid-c")
    await bench.transactions.prepare(bench.claim("d", ("1g.10gb+me", 4)))
    assert bench.layout() == [("1g.10gb", 1, 1), ("1g.10gb+me", 4, 1)]


async def test_releasing_an_unknown_claim_is_fine(bench: Workbench) -> None:
    assert await bench.transactions.release("never-seen") is None


async def test_a_release_needs_no_driver(bench: Workbench) -> None:
    await bench.transactions.prepare(bench.claim("a", ("2g.20gb", 4)))
    bench.fail(*(Fault(symbol, times=0, code=15) for symbol in ("nvmlDeviceGetCount_v2", READ_UUID)))
    record = await bench.transactions.release("uid-a")
    assert record is not None
    assert not bench.cdi.exists("uid-a")


async def test_another_claim_in_the_way_is_named(bench: Workbench) -> None:
    await bench.transactions.prepare(bench.claim("a", ("3g.40gb", 4)))
    with pytest.raises(PrepareError, match=r"claim default/a holds; its pod must end first") as raised:
        await bench.transactions.prepare(bench.claim("b", ("2g.20gb", 4)))
    assert raised.value.reason is Reason.CONFLICT
    assert bench.layout() == [("3g.40gb", 4, 1)]


async def test_a_foreign_instance_is_never_touched(bench: Workbench) -> None:
    gpu = bench.gpu()
    await bench.driver.create_gpu_instance(gpu.uuid, profile_id=14, start=4, size=2)
    for placement in (("2g.20gb", 4), ("7g.80gb", 0)):
        with pytest.raises(PrepareError, match="which Tessera did not make"):
            await bench.transactions.prepare(bench.claim("a", placement))
    assert bench.layout() == [("2g.20gb", 4, 0)]


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu-00000000-2g-20gb-4", "is on no GPU of this node"),
        ("gpu-{}-9g-20gb-4", "unknown profile slug"),
        ("gpu-{}-2g-20gb-5", "cannot start at 5 on H100-80GB; legal starts: 0, 2, 4"),
    ],
)
async def test_a_wrong_device_is_refused_with_what_is_wrong(
    bench: Workbench, device: str, message: str
) -> None:
    from dataclasses import replace

    claim = bench.claim("a", ("2g.20gb", 4))
    name = device.format(bench.gpu().uuid[4:12])
    wrong = replace(claim, devices=(replace(claim.devices[0], device=name),))
    with pytest.raises(PrepareError, match=message):
        await bench.transactions.prepare(wrong)
    assert bench.transactions.ledger.claims == {}


async def test_overlapping_devices_of_one_claim_are_refused(bench: Workbench) -> None:
    with pytest.raises(PrepareError, match="overlap; allocate the claim again"):
        await bench.transactions.prepare(bench.claim("a", ("2g.20gb", 4), ("3g.40gb", 4)))


async def test_a_claim_with_several_devices_is_all_or_nothing(bench: Workbench) -> None:
    bench.fail(Fault(CREATE_GI, nth=2, code=23))
    with pytest.raises(PrepareError):
        await bench.transactions.prepare(bench.claim("a", ("2g.20gb", 0), ("2g.20gb", 4)))
    assert bench.layout() == []
    record = await bench.transactions.prepare(bench.claim("a", ("2g.20gb", 0), ("2g.20gb", 4)))
    assert len({device.slice.uuid for device in record.devices}) == 2


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("symbol", STEPS)
async def test_an_error_at_any_step_restores_the_old_layout(bench: Workbench, symbol: str, when: str) -> None:
    await bench.leave_warm("old", "2g.20gb", 4)
    await bench.transactions.prepare(bench.claim("other", ("1g.10gb", 0)))
    before = bench.layout()
    bench.fail(Fault(symbol, code=999, when=when))
    with pytest.raises(PrepareError):
        await bench.transactions.prepare(bench.claim("new", ("3g.40gb", 4)))
    assert bench.layout() == before
    assert bench.checkpoint.load().claims.keys() == {"uid-other"}
    assert {item.uuid for item in bench.transactions.ledger.warm.values()} == {
        bench.gpu().instances[1].compute[0].uuid
    }
    await bench.transactions.prepare(bench.claim("new", ("3g.40gb", 4)))
    assert bench.layout() == [("1g.10gb", 0, 1), ("3g.40gb", 4, 1)]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("symbol", STEPS)
async def test_when_undoing_fails_too_it_is_done_later(bench: Workbench, symbol: str, when: str) -> None:
    await bench.leave_warm("old", "2g.20gb", 4)
    new = bench.claim("new", ("3g.40gb", 4))
    one_look = 2 * 7  # two GPUs with seven profiles, listed one by one
    bench.fail(
        Fault(symbol, code=999, when=when), Fault("nvmlDeviceGetGpuInstances", nth=one_look + 1, times=0)
    )
    with pytest.raises(PrepareError):
        await bench.transactions.prepare(new)
    assert bench.transactions.ledger.claims["uid-new"].phase is Phase.PREPARING
    bench.fail()
    await bench.transactions.refresh()
    assert bench.layout() == [("2g.20gb", 4, 1)]
    assert bench.checkpoint.load().claims == {}


async def test_a_half_made_claim_is_released_at_once_and_undone_later(bench: Workbench) -> None:
    bench.fail(Fault(CREATE_CI, code=999), Fault(DESTROY_GI, code=999, times=0))
    with pytest.raises(PrepareError):
        await bench.transactions.prepare(bench.claim("a", ("3g.40gb", 4)))
    assert await bench.transactions.release("uid-a") is not None
    assert bench.checkpoint.load().claims["uid-a"].phase is Phase.PREPARING
    bench.fail()
    bench.restart()
    await bench.transactions.refresh()
    assert bench.layout() == []
    assert bench.checkpoint.load().claims == {}


async def test_what_a_half_made_claim_leaves_in_the_way_is_not_called_foreign(bench: Workbench) -> None:
    bench.fail(Fault(CREATE_CI, code=999), Fault(DESTROY_GI, code=999, times=0))
    with pytest.raises(PrepareError):
        await bench.transactions.prepare(bench.claim("a", ("3g.40gb", 4)))
    with pytest.raises(PrepareError, match="is left of claim default/a; the agent removes it") as raised:
        await bench.transactions.prepare(bench.claim("b", ("2g.20gb", 4)))
    assert raised.value.reason is Reason.CONFLICT


async def test_a_claim_on_a_gpu_lost_while_it_was_prepared_is_released(bench: Workbench) -> None:
    """Otherwise its pod could never end. The node's other GPU serves on."""
    bench.fail(Fault(CREATE_CI, action="lose", index=0))
    with pytest.raises(PrepareError, match="GPU_IS_LOST"):
        await bench.transactions.prepare(bench.claim("a", ("3g.40gb", 4)))
    for _ in range(2):
        assert await bench.transactions.release("uid-a") is not None
    await bench.transactions.prepare(bench.claim("b", ("3g.40gb", 4), index=1))
    assert bench.layout(1) == [("3g.40gb", 4, 1)]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("symbol", STEPS)
async def test_death_at_any_step_is_undone_by_the_next_agent(
    bench: Workbench, symbol: str, when: str
) -> None:
    await bench.leave_warm("old", "2g.20gb", 4)
    bench.fail(Fault(symbol, action="exit", when=when))
    assert _prepare_in_a_process(bench, "new", "3g.40gb", 4) == 137
    bench.fail()
    bench.restart()
    await bench.transactions.refresh()
    assert bench.layout() == [("2g.20gb", 4, 1)]
    assert bench.checkpoint.load().claims == {}
    await bench.transactions.prepare(bench.claim("new", ("3g.40gb", 4)))
    assert bench.layout() == [("3g.40gb", 4, 1)]


async def test_a_warm_slice_with_a_process_is_not_destroyed(bench: Workbench) -> None:
    await bench.leave_warm("a", "2g.20gb", 4)
    (uuid,) = bench.transactions.ledger.warm
    control.occupy(bench.simulator, mig_uuid=uuid, pid=os.getpid())
    with pytest.raises(PrepareError, match="IN_USE"):
        await bench.transactions.prepare(bench.claim("b", ("3g.40gb", 4)))
    assert bench.layout() == [("2g.20gb", 4, 1)]
    assert list(bench.transactions.ledger.warm) == [uuid]


async def test_a_slice_that_a_reset_removed_is_cut_again(bench: Workbench) -> None:
    claim = bench.claim("a", ("2g.20gb", 4))
    first = await bench.transactions.prepare(claim)
    await bench.leave_warm("b", "1g.10gb", 0)
    control.reset(bench.simulator, index=0)
    await bench.transactions.refresh()
    assert bench.transactions.ledger.warm == {}
    second = await bench.transactions.prepare(claim)
    assert second.devices[0].slice.uuid != first.devices[0].slice.uuid
    assert bench.layout() == [("2g.20gb", 4, 1)]


async def test_a_gpu_that_does_not_answer_once_takes_no_slice_from_its_claim(bench: Workbench) -> None:
    """A kubelet that starts again asks for every claim again, while the pods run on."""
    claim = bench.claim("a", ("2g.20gb", 4))
    first = await bench.transactions.prepare(claim)
    bench.fail(Fault("nvmlDeviceGetMigMode", code=999))
    with pytest.raises(PrepareError, match="does not answer") as raised:
        await bench.transactions.prepare(claim)
    assert raised.value.reason is Reason.GPU_UNHEALTHY
    assert bench.cdi.exists("uid-a")
    assert await bench.transactions.prepare(claim) == first


async def test_a_moved_allocation_keeps_the_old_slice_where_the_gpu_does_not_answer(bench: Workbench) -> None:
    first = await bench.transactions.prepare(bench.claim("a", ("2g.20gb", 4)))
    bench.fail(Fault("nvmlDeviceGetMigMode", code=999))
    await bench.transactions.prepare(bench.claim("a", ("2g.20gb", 4), index=1))
    await bench.transactions.refresh()
    assert list(bench.transactions.ledger.warm.values()) == [first.devices[0].slice]


async def test_an_allocation_that_moved_releases_the_old_slice(bench: Workbench) -> None:
    await bench.transactions.prepare(bench.claim("a", ("2g.20gb", 4)))
    await bench.transactions.prepare(bench.claim("a", ("2g.20gb", 0)))
    assert {warm.start for warm in bench.transactions.ledger.warm.values()} == {4}
    assert [device.start for device in bench.transactions.ledger.claims["uid-a"].devices] == [0]


async def test_without_mig_mode_it_is_told_what_becomes_of_the_claim(bench: Workbench) -> None:
    await bench.driver.set_mig_mode(bench.gpu().uuid, False)
    with pytest.raises(PrepareError, match=r"MIG mode of GPU .* is off; .* delete the pod") as raised:
        await bench.transactions.prepare(bench.claim("a", ("2g.20gb", 4)))
    assert raised.value.reason is Reason.MIG_DISABLED


async def test_a_driver_that_does_not_answer_refuses_and_keeps_everything(bench: Workbench) -> None:
    await bench.leave_warm("a", "2g.20gb", 4)
    bench.fail(Fault("nvmlDeviceGetCount_v2", times=0, code=999))
    with pytest.raises(PrepareError, match="an unknown driver error"):
        await bench.transactions.prepare(bench.claim("b", ("2g.20gb", 4)))
    with pytest.raises(NVMLFault):
        await bench.transactions.refresh()
    assert len(bench.transactions.ledger.warm) == 1


def _prepare_in_a_process(bench: Workbench, name: str, profile: str, start: int) -> int:
    """Run one prepare in a process of its own, which knows what is on disk; return its exit code."""

    def prepare() -> None:
        library = SimulatedLibrary.at(bench.simulator, model="H100-80GB", count=2, seed="node-a")
        transactions = Transactions(
            driver=LocalDriver(NVML(library), simulated=True),
            checkpoint=bench.checkpoint,
            cdi=bench.cdi,
            ledger=bench.checkpoint.load(),
        )
        asyncio.run(transactions.prepare(bench.claim(name, (profile, start))))

    return in_a_fork(prepare)
