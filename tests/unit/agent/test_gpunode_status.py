"""GPUNode status: what is there, and one condition that says what is wrong and what to do."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from tessera.agent.checkpoint import Ledger
from tessera.agent.gpunode import View, mig_mode, readiness, status_for
from tessera.agent.layouts import Progress
from tessera.api.gpu_node import GPUNodeStatus
from tessera.gpu.driver import GPU, Inventory
from tessera.gpu.faults import HANG, NVMLFault

Workbench = Any


def inventory(*gpus: GPU) -> Inventory:
    return Inventory(driver_version="580.65.06", nvml_version="13.580", gpus=gpus)


def plain(bench: Workbench, **changes: Any) -> GPU:
    gpu: GPU = bench.gpu()
    return replace(gpu, **changes)


def test_a_good_node_is_published(bench: Workbench) -> None:
    view = View(inventory=inventory(plain(bench)), ledger=Ledger(), registered=True)
    assert readiness(view) == (True, "Published", "1 of 1 GPUs are published")


@pytest.mark.parametrize(
    ("fault", "reason", "remedy"),
    [
        (NVMLFault(12, call="nvmlInit"), "DriverMissing", "install the NVIDIA driver"),
        (NVMLFault(9, call="nvmlInit"), "DriverMissing", "modprobe nvidia"),
        (NVMLFault(18, call="nvmlInit"), "NVMLError", "reboot the node after the driver update"),
        (NVMLFault(HANG, call="inventory"), "NVMLError", "look for Xid errors in dmesg"),
    ],
)
def test_a_driver_that_does_not_answer(fault: NVMLFault, reason: str, remedy: str) -> None:
    ready, given, message = readiness(View(inventory=None, ledger=Ledger(), fault=fault, registered=True))
    assert (ready, given) == (False, reason)
    assert remedy in message
    assert "the agent tries again by itself" in message


def test_a_node_without_mig_gpus(bench: Workbench) -> None:
    for found in (inventory(), inventory(plain(bench, model=None, product="NVIDIA L4"))):
        ready, reason, message = readiness(View(inventory=found, ledger=Ledger(), registered=True))
        assert (ready, reason) == (False, "NoGPUs")
        assert "take the agent's label off" in message


def test_a_simulator_without_gpus_names_its_flag() -> None:
    view = View(inventory=inventory(), ledger=Ledger(), registered=True, simulated=True)
    ready, reason, message = readiness(view)
    assert (ready, reason) == (False, "NoGPUs")
    assert "--simulate-count 1" in message


def test_a_gpu_whose_mig_mode_is_off_is_published_and_the_message_says_how_to_have_slices(
    bench: Workbench,
) -> None:
    off = plain(bench, mig_current=False, mig_pending=False)
    ready, reason, message = readiness(View(inventory=inventory(off), ledger=Ledger(), registered=True))
    assert (ready, reason) == (True, "Published")
    assert message.startswith("1 of 1 GPUs are published; GPU 0 ")
    assert "MIG mode is off, so it is not cut" in message
    assert "nvidia-smi -i 0 -mig 1" in message


def test_a_gpu_that_is_to_have_slices_and_whose_mig_mode_is_off_is_not_published(bench: Workbench) -> None:
    off = plain(bench, mig_current=False, mig_pending=False)
    view = View(inventory=inventory(off), ledger=Ledger(), registered=True)
    layouts = {off.uuid: Progress("Blocked")}
    assert readiness(replace(view, layouts=layouts))[:2] == (False, "MIGDisabled")
    assert readiness(replace(view, mig_wishes={off.uuid: True}))[:2] == (False, "MIGDisabled")
    published = replace(view, layouts=layouts, mig_wishes={off.uuid: False})
    assert readiness(published) == (True, "Published", "1 of 1 GPUs are published")


def test_a_pending_mode_names_the_reset(bench: Workbench) -> None:
    pending = plain(bench, mig_current=False, mig_pending=True)
    assert mig_mode(pending) == "EnablePending"
    _, reason, message = readiness(View(inventory=inventory(pending), ledger=Ledger(), registered=True))
    assert reason == "MIGDisabled"
    assert "--gpu-reset" in message


def test_a_sick_gpu_among_good_ones_is_mentioned_and_the_node_is_ready(bench: Workbench) -> None:
    view = View(
        inventory=inventory(plain(bench), plain(bench, index=1, fault="GPU_IS_LOST")),
        ledger=Ledger(),
        registered=True,
    )
    ready, reason, message = readiness(view)
    assert (ready, reason) == (True, "Published")
    assert message.startswith("1 of 2 GPUs are published; GPU 1")


def test_only_sick_gpus(bench: Workbench) -> None:
    view = View(inventory=inventory(plain(bench, fault="GPU_IS_LOST")), ledger=Ledger(), registered=True)
    assert readiness(view)[:2] == (False, "GPUUnhealthy")


def test_a_kubelet_that_never_came(bench: Workbench) -> None:
    ready, reason, message = readiness(View(inventory=inventory(plain(bench)), ledger=Ledger()))
    assert (ready, reason) == (False, "KubeletNotRegistered")
    assert "--kubelet-dir" in message


async def test_instances_are_in_use_warm_or_foreign(bench: Workbench) -> None:
    await bench.transactions.prepare(bench.claim("a", ("2g.20gb", 4)))
    await bench.transactions.prepare(bench.claim("b", ("1g.10gb", 0)))
    await bench.transactions.release("uid-b")
    await bench.driver.create_gpu_instance(bench.gpu().uuid, profile_id=14, start=2, size=2)
    found, ledger = await bench.transactions.refresh()
    status = status_for(
        View(inventory=found, ledger=ledger, registered=True, simulated=True), generation=2, before=None
    )
    instances = status["gpus"][0]["instances"]
    assert [(item["profile"], item["start"], item["state"]) for item in instances] == [
        ("1g.10gb", 0, "Warm"),
        ("2g.20gb", 2, "Foreign"),
        ("2g.20gb", 4, "InUse"),
    ]
    assert instances[2]["claim"] == {"namespace": "default", "name": "a", "uid": "uid-a"}
    assert "claim" not in instances[0]
    assert "uuid" not in instances[1]
    assert (status["gpuCount"], status["slicesInUse"]) == (2, 1)
    GPUNodeStatus.model_validate(status)


def test_the_transition_time_moves_only_when_readiness_flips(bench: Workbench) -> None:
    def status(view: View, before: dict[str, Any] | None, hour: int) -> dict[str, Any]:
        return status_for(view, generation=1, before=before, now=datetime(2026, 1, 1, hour, tzinfo=UTC))

    good = View(inventory=inventory(plain(bench)), ledger=Ledger(), registered=True)
    sick = replace(good, fault=NVMLFault(999, call="nvmlInit"))
    first = status(good, None, 1)
    second = status(good, first, 2)
    third = status(sick, second, 3)
    assert first == second
    assert [item["conditions"][0]["lastTransitionTime"][11:13] for item in (first, second, third)] == [
        "01",
        "01",
        "03",
    ]
    assert third["gpus"][0]["healthy"] is False
