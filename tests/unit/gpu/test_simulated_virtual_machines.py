"""Simulated GPUs inside virtual machines, and the driver's kernel modules unloaded and loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pynvml
import pytest
from tessera.gpu.simulator import control
from tessera.gpu.simulator.control import NotPossible
from unit.gpu.mig_calls import create_two


def test_in_a_vgpu_guest_nothing_about_mig_can_be_changed(gpu: Any, node_directory: Path) -> None:
    instance = create_two(gpu)
    control.virtualize(node_directory, index=0, mode="vgpu")
    assert pynvml.nvmlDeviceGetVirtualizationMode(gpu) == pynvml.NVML_GPU_VIRTUALIZATION_MODE_VGPU
    for change, arguments in (
        (create_two, (gpu, 2)),
        (pynvml.nvmlDeviceCreateGpuInstance, (gpu, 14)),
        (pynvml.nvmlGpuInstanceDestroy, (instance,)),
        (pynvml.nvmlDeviceSetMigMode, (gpu, 0)),
    ):
        with pytest.raises(pynvml.NVMLError_NotSupported):
            change(*arguments)
    assert pynvml.nvmlGpuInstanceGetInfo(instance).placement.start == 0


def test_passed_through_ampere_gets_its_mode_only_from_a_reboot_of_the_machine(
    bind: Any, node_directory: Path
) -> None:
    bind("A100-80GB")
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    control.virtualize(node_directory, index=0, mode="passthrough")
    assert pynvml.nvmlDeviceSetMigMode(gpu, 0) == pynvml.NVML_ERROR_RESET_REQUIRED
    with pytest.raises(NotPossible, match="reboot the machine"):
        control.reset(node_directory, index=0)
    assert pynvml.nvmlDeviceGetMigMode(gpu) == [1, 0]
    control.reboot(node_directory)
    assert pynvml.nvmlDeviceGetMigMode(gpu) == [0, 0]


def test_instances_can_be_made_on_a_passed_through_gpu(gpu: Any, node_directory: Path) -> None:
    control.virtualize(node_directory, index=0, mode="passthrough")
    create_two(gpu)


def test_an_unknown_virtualization_mode_is_refused(gpu: Any, node_directory: Path) -> None:
    with pytest.raises(ValueError, match="use none, passthrough, vgpu"):
        control.virtualize(node_directory, index=0, mode="xen")


@pytest.mark.parametrize(("model", "mode"), [("A100-80GB", [1, 1]), ("H100-80GB", [0, 0])])
def test_reloading_the_driver_clears_instances_and_the_mode_of_hopper(
    bind: Any, node_directory: Path, model: str, mode: list[int]
) -> None:
    bind(model)
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    pynvml.nvmlDeviceSetMigMode(gpu, 1)
    instance = create_two(gpu)
    control.reload_driver(node_directory)
    assert pynvml.nvmlDeviceGetMigMode(gpu) == mode
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlGpuInstanceGetInfo(instance)


def test_the_driver_cannot_be_unloaded_while_a_process_uses_a_gpu(gpu: Any, node_directory: Path) -> None:
    control.hold(node_directory, index=0, pid=os.getpid())
    with pytest.raises(NotPossible, match="GPU 0 is in use"):
        control.reload_driver(node_directory)
    assert pynvml.nvmlDeviceGetMigMode(gpu) == [1, 1]
