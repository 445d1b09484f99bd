"""A GPU whose MIG mode is off is given as a whole: prepared and released without a change of the GPU."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tessera.agent.checkpoint import ClaimRecord, Phase
from tessera.agent.claims import PrepareError
from tessera.agent.device_nodes import HostFiles
from tessera.agent.gpunode import View, status_for
from tessera.agent.plan import resolve
from tessera.agent.recovery import rebuild
from tessera.api.gpu_node import GPUNodeStatus
from tessera.api.reasons import Reason
from tessera.gpu.simulator import control
from tessera.gpu.simulator.faults import Fault

Workbench = Any
WHOLE = ("gpu", 0)


@pytest.fixture
def off(bench: Workbench) -> Workbench:
    """MIG mode of the first GPU is off."""
    bench.nvml.set_mig_mode(bench.gpu().uuid, False)
    return bench


async def test_the_container_sees_the_gpu(off: Workbench) -> None:
    await off.transactions.prepare(off.claim("a", WHOLE))
    (path,) = (off.directory / "cdi").iterdir()
    gpu = off.gpu()
    assert json.loads(path.read_text())["devices"][0]["containerEdits"]["env"] == [
        f"NVIDIA_VISIBLE_DEVICES={gpu.uuid}",
        f"CUDA_VISIBLE_DEVICES={gpu.uuid}",
        "TESSERA_SLICE_PROFILE=gpu",
        f"TESSERA_SLICE_MEMORY_BYTES={gpu.memory_mib * 1024 * 1024}",
        f"TESSERA_SLICE_UUID={gpu.uuid}",
        "TESSERA_SIMULATED=1",
    ]


async def test_its_device_nodes_are_the_gpus_without_capabilities(off: Workbench) -> None:
    record = await off.transactions.prepare(off.claim("a", WHOLE))
    host = HostFiles(control.publish_capabilities(off.simulator), off.directory / "cdi")
    assert [node["path"] for node in host.device_nodes(record.slices)] == [
        "/dev/nvidiactl",
        "/dev/nvidia-uvm",
        "/dev/nvidia-uvm-tools",
        "/dev/nvidia0",
    ]


async def test_preparing_again_and_by_another_agent_changes_nothing(off: Workbench) -> None:
    claim = off.claim("a", WHOLE)
    first = await off.transactions.prepare(claim)
    off.cdi.remove("uid-a")
    off.restart()
    assert await off.transactions.prepare(claim) == first
    assert off.cdi.exists("uid-a")
    assert [record.key.uid for record in off.cdi.records()] == ["uid-a"]


async def test_a_released_gpu_is_free_and_not_warm(off: Workbench) -> None:
    await off.transactions.prepare(off.claim("a", WHOLE))
    with pytest.raises(
        PrepareError, match=r"claim default/a holds GPU .* as a whole; its pod must end first"
    ) as raised:
        await off.transactions.prepare(off.claim("b", WHOLE))
    assert raised.value.reason is Reason.CONFLICT
    await off.transactions.release("uid-a")
    assert (off.transactions.ledger.claims, off.transactions.ledger.warm) == ({}, {})
    assert not off.cdi.exists("uid-a")
    await off.transactions.prepare(off.claim("b", WHOLE))


async def test_one_claim_may_have_a_gpu_and_a_slice_of_another(off: Workbench) -> None:
    both = replace(
        off.claim("a", WHOLE),
        devices=(*off.claim("a", WHOLE).devices, *off.claim("a", ("2g.20gb", 4), index=1).devices),
    )
    record = await off.transactions.prepare(both)
    assert [device.profile for device in record.devices] == ["gpu", "2g.20gb"]
    assert off.layout(1) == [("2g.20gb", 4, 1)]
    await off.transactions.release("uid-a")
    assert [warm.profile for warm in off.transactions.ledger.warm.values()] == ["2g.20gb"]


async def test_an_error_beside_it_leaves_it_free(off: Workbench) -> None:
    claim = replace(
        off.claim("a", WHOLE),
        devices=(*off.claim("a", WHOLE).devices, *off.claim("a", ("2g.20gb", 4), index=1).devices),
    )
    off.fail(Fault("nvmlGpuInstanceCreateComputeInstance", code=999))
    with pytest.raises(PrepareError):
        await off.transactions.prepare(claim)
    assert (off.layout(1), off.checkpoint.load().claims) == ([], {})
    await off.transactions.prepare(off.claim("b", WHOLE))


async def test_a_slice_of_it_and_the_whole_of_a_cut_gpu_are_refused(off: Workbench) -> None:
    with pytest.raises(PrepareError, match=r"MIG mode of GPU .* is off; .* delete the pod") as raised:
        await off.transactions.prepare(off.claim("a", ("7g.80gb", 0)))
    assert raised.value.reason is Reason.MIG_DISABLED
    with pytest.raises(PrepareError, match=r"MIG mode of GPU .* is on; .* delete the pod") as raised:
        await off.transactions.prepare(off.claim("a", WHOLE, index=1))
    assert raised.value.reason is Reason.CONFLICT


async def test_a_claim_keeps_its_gpu_while_that_does_not_answer(off: Workbench) -> None:
    claim = off.claim("a", WHOLE)
    first = await off.transactions.prepare(claim)
    off.fail(Fault("nvmlDeviceGetMigMode", code=999))
    with pytest.raises(PrepareError, match="does not answer"):
        await off.transactions.prepare(claim)
    assert await off.transactions.prepare(claim) == first


async def test_the_ledger_is_rebuilt_from_its_spec(off: Workbench) -> None:
    record = await off.transactions.prepare(off.claim("a", WHOLE))
    gpus = off.nvml.inventory().gpus
    known = rebuild(gpus=gpus, specs=off.cdi.records(), claims=[off.claim("b", WHOLE)], published=set())
    assert known.claims == {"uid-a": record}
    cut = [replace(gpus[0], mig_current=True)]
    assert rebuild(gpus=cut, specs=off.cdi.records(), claims=[], published=set()).claims == {}


async def test_the_status_says_who_holds_it(off: Workbench) -> None:
    await off.transactions.prepare(off.claim("a", WHOLE))
    inventory, ledger = await off.transactions.refresh()
    status = status_for(View(inventory=inventory, ledger=ledger, registered=True), generation=1, before=None)
    GPUNodeStatus.model_validate(status)
    gpu = off.gpu()
    assert status["gpus"][0]["instances"] == [
        {
            "device": f"gpu-{gpu.uuid[4:12]}-gpu-0",
            "profile": "gpu",
            "start": 0,
            "size": 8,
            "uuid": gpu.uuid,
            "state": "InUse",
            "claim": {"namespace": "default", "name": "a", "uid": "uid-a"},
        }
    ]
    assert status["slicesInUse"] == 1


async def test_an_attempt_that_died_is_undone(off: Workbench) -> None:
    """Its intent names the GPU; there is nothing to destroy."""
    claim = off.claim("a", WHOLE)
    record = await off.transactions.prepare(claim)
    intent = ClaimRecord(key=claim.key, phase=Phase.PREPARING, devices=record.devices)
    off.transactions.ledger.claims["uid-a"] = intent
    off.checkpoint.store(off.transactions.ledger)
    off.restart()
    await off.transactions.refresh()
    assert (off.checkpoint.load().claims, off.cdi.claim_uids()) == ({}, set())
    (device,) = claim.devices
    assert resolve(device, {gpu.uuid: gpu for gpu in off.nvml.inventory().gpus}).profile == "gpu"
