"""CDI specs are there for prepared claims and for no others; and a slice is looked at before it is given."""

from __future__ import annotations

from typing import Any

import pytest
from tessera.agent.claims import PrepareError
from tessera.gpu.driver import ComputeInstance, LocalDriver
from tessera.gpu.simulator import control
from tessera.gpu.simulator.faults import Fault

Workbench = Any


async def test_a_spec_that_vanished_is_written_again_for_the_next_container(bench: Workbench) -> None:
    record = await bench.transactions.prepare(bench.claim("a", ("2g.20gb", 4)))
    bench.cdi.remove("uid-a")
    await bench.transactions.refresh()
    (again,) = bench.cdi.records()
    assert again.devices == record.devices


async def test_a_spec_for_slices_that_a_reset_removed_is_not_written(bench: Workbench) -> None:
    await bench.transactions.prepare(bench.claim("a", ("2g.20gb", 4)))
    bench.cdi.remove("uid-a")
    control.reset(bench.simulator, index=0)
    await bench.transactions.refresh()
    assert bench.cdi.claim_uids() == set()


async def test_a_spec_of_no_prepared_claim_is_removed(bench: Workbench) -> None:
    record = await bench.transactions.prepare(bench.claim("a", ("2g.20gb", 4)))
    await bench.transactions.release("uid-a")
    bench.cdi.write(record)
    (bench.directory / "cdi" / ".gpu.tessera.dev-claim-uid-b.json.tmp").write_text("half a sp")
    await bench.transactions.refresh()
    assert list((bench.directory / "cdi").iterdir()) == []


async def test_another_claim_is_not_refused_because_of_what_a_dead_agent_left(bench: Workbench) -> None:
    """Undoing failed once, as when the agent dies; nobody has looked at the node since."""
    bench.fail(
        Fault("nvmlGpuInstanceCreateComputeInstance", code=999), Fault("nvmlGpuInstanceDestroy", code=999)
    )
    with pytest.raises(PrepareError):
        await bench.transactions.prepare(bench.claim("dead", ("3g.40gb", 4)))
    assert bench.layout() == [("3g.40gb", 4, 0)]
    bench.restart()
    await bench.transactions.prepare(bench.claim("other", ("2g.20gb", 4)))
    assert bench.layout() == [("2g.20gb", 4, 1)]


async def test_a_claim_is_not_prepared_on_top_of_its_own_half_made_slices(bench: Workbench) -> None:
    bench.fail(
        Fault("nvmlGpuInstanceCreateComputeInstance", code=999), Fault("nvmlGpuInstanceDestroy", times=0)
    )
    for expected in ("nvmlGpuInstanceCreateComputeInstance", "half-made slices could not be removed"):
        with pytest.raises(PrepareError, match=expected):
            await bench.transactions.prepare(bench.claim("a", ("3g.40gb", 4)))
    assert bench.checkpoint.load().claims["uid-a"].devices[0].slice is None


async def test_a_slice_that_is_not_where_it_was_asked_for_is_destroyed_and_not_given(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LocalDriver.create_gpu_instance

    async def elsewhere(self: LocalDriver, gpu_uuid: str, *, profile_id: int, start: int, size: int) -> int:
        return await real(self, gpu_uuid, profile_id=profile_id, start=0, size=size)

    monkeypatch.setattr(LocalDriver, "create_gpu_instance", elsewhere)
    with pytest.raises(PrepareError, match=r"at 4:2 of .* was made but is profile id 14 at 0:2"):
        await bench.transactions.prepare(bench.claim("a", ("2g.20gb", 4)))
    assert bench.layout() == []
    assert bench.checkpoint.load().claims == {}


async def test_a_slice_that_another_program_removes_at_once_is_not_given(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LocalDriver.create_compute_instance

    async def removed(self: LocalDriver, gpu_uuid: str, *, gpu_instance_id: int) -> ComputeInstance:
        compute = await real(self, gpu_uuid, gpu_instance_id=gpu_instance_id)
        await self.destroy_compute_instance(
            gpu_uuid, gpu_instance_id=gpu_instance_id, compute_instance_id=compute.id
        )
        await self.destroy_gpu_instance(gpu_uuid, gpu_instance_id=gpu_instance_id)
        return compute

    monkeypatch.setattr(LocalDriver, "create_compute_instance", removed)
    with pytest.raises(PrepareError, match="was made but is not there"):
        await bench.transactions.prepare(bench.claim("a", ("2g.20gb", 4)))
    assert bench.layout() == []
