"""The simulated driver through the unmodified pynvml: each test names one behaviour of real MIG."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml
import pytest
from tessera.gpu.simulator import control
from tessera.gpu.simulator.library import SimulatedLibrary
from unit.gpu.mig_calls import create, create_compute

ONE, TWO, THREE, FOUR, SEVEN, ONE_MEDIA, ONE_DOUBLE = 19, 14, 9, 5, 0, 20, 15


def error_of(call: Callable[..., Any], *arguments: Any) -> int:
    with pytest.raises(pynvml.NVMLError) as raised:
        call(*arguments)
    return int(raised.value.value)


def placements(gpu: Any, profile_id: int) -> list[tuple[int, int]]:
    count = ctypes.c_uint(0)
    pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, profile_id, None, ctypes.byref(count))
    buffer = (pynvml.c_nvmlGpuInstancePlacement_t * count.value)()
    pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, profile_id, buffer, ctypes.byref(count))
    return [(item.start, item.size) for item in buffer]


def test_the_argument_of_profile_info_is_the_enum_and_its_answer_has_the_id(gpu: Any) -> None:
    info = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE)
    assert info.id == ONE != pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE
    assert info.name == b"MIG 1g.10gb" or info.name == "MIG 1g.10gb"


def test_absent_profiles_are_not_supported_and_the_end_of_the_list_is_an_invalid_argument(gpu: Any) -> None:
    assert error_of(pynvml.nvmlDeviceGetGpuInstanceProfileInfo, gpu, 5) == pynvml.NVML_ERROR_NOT_SUPPORTED
    count = pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT
    assert (
        error_of(pynvml.nvmlDeviceGetGpuInstanceProfileInfo, gpu, count) == pynvml.NVML_ERROR_INVALID_ARGUMENT
    )


def test_a_struct_of_another_version_is_refused(gpu: Any) -> None:
    info = pynvml.c_nvmlGpuInstanceProfileInfo_v2_t()
    info.version = 0x04000098
    function = pynvml._nvmlGetFunctionPointer("nvmlDeviceGetGpuInstanceProfileInfoV")
    assert function(gpu, 0, ctypes.byref(info)) == pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH


def test_the_first_struct_version_has_the_same_numbers(gpu: Any) -> None:
    old = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, 1, version=1)
    new = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, 1, version=2)
    assert (old.id, old.sliceCount, old.memorySizeMB) == (new.id, new.sliceCount, new.memorySizeMB)
    assert (new.multiprocessorCount, new.memorySizeMB) == (32, 20090)


def test_an_unknown_symbol_is_function_not_found(gpu: Any) -> None:
    code = error_of(pynvml.nvmlDeviceGetFanSpeed, gpu)
    assert code == pynvml.NVML_ERROR_FUNCTION_NOT_FOUND


def test_calls_before_init_are_refused(tmp_path: Path) -> None:
    library = SimulatedLibrary.at(tmp_path, model="A30-24GB", count=1, seed="x")
    assert library.nvmlDeviceGetCount_v2(ctypes.byref(ctypes.c_uint())) == pynvml.NVML_ERROR_UNINITIALIZED


def test_possible_placements_ignore_occupancy(gpu: Any) -> None:
    before = placements(gpu, TWO)
    assert before == [(0, 2), (2, 2), (4, 2)]
    create(gpu, SEVEN, 0, 8)
    assert placements(gpu, TWO) == before


def test_a_too_small_buffer_for_placements_is_insufficient_size(gpu: Any) -> None:
    count = ctypes.c_uint(1)
    buffer = (pynvml.c_nvmlGpuInstancePlacement_t * 1)()
    code = error_of(pynvml.nvmlDeviceGetGpuInstancePossiblePlacements, gpu, TWO, buffer, ctypes.byref(count))
    assert (code, count.value) == (pynvml.NVML_ERROR_INSUFFICIENT_SIZE, 3)


def test_remaining_capacity_follows_occupancy(gpu: Any) -> None:
    assert pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity(gpu, TWO) == 3
    create(gpu, THREE, 4, 4)
    assert pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity(gpu, TWO) == 2
    assert pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity(gpu, SEVEN) == 0
    assert pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity(gpu, THREE) == 1


def test_overlap_is_insufficient_resources(gpu: Any) -> None:
    create(gpu, THREE, 4, 4)
    assert error_of(create, gpu, TWO, 4, 2) == pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES


@pytest.mark.parametrize(("profile", "start", "size"), [(TWO, 1, 2), (TWO, 6, 2), (TWO, 0, 3), (99, 0, 1)])
def test_an_illegal_placement_is_an_invalid_argument(gpu: Any, profile: int, start: int, size: int) -> None:
    assert error_of(create, gpu, profile, start, size) == pynvml.NVML_ERROR_INVALID_ARGUMENT


def test_only_one_instance_has_media_extensions(gpu: Any) -> None:
    create(gpu, ONE_MEDIA, 0, 1)
    assert error_of(create, gpu, ONE_MEDIA, 1, 1) == pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES
    create(gpu, ONE, 1, 1)


def test_all_media_engines_exclude_every_profile_that_has_some(bind: Any) -> None:
    bind("RTXPRO6000-96GB")
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    pynvml.nvmlDeviceSetMigMode(gpu, 1)
    create(gpu, 65, 0, 3)
    assert error_of(create, gpu, 14, 3, 3) == pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES
    create(gpu, 67, 3, 3)


def test_without_mig_mode_nothing_can_be_created(bind: Any) -> None:
    bind()
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    assert error_of(create, gpu, TWO, 0, 2) == pynvml.NVML_ERROR_NOT_SUPPORTED
    assert pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu) == 0


def test_the_drivers_own_choice_depends_on_the_order_of_creation(gpu: Any) -> None:
    """NVIDIA's getting-started guide: 19,19,14,9 fails at the 3g, 9,19,14,19 works."""
    bad = [pynvml.nvmlDeviceCreateGpuInstance(gpu, profile) for profile in (ONE, ONE, TWO)]
    starts = [pynvml.nvmlGpuInstanceGetInfo(instance).placement.start for instance in bad]
    assert starts == [6, 4, 0]
    code = error_of(pynvml.nvmlDeviceCreateGpuInstance, gpu, THREE)
    assert code == pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES
    for instance in bad:
        pynvml.nvmlGpuInstanceDestroy(instance)
    for profile in (THREE, ONE, TWO, ONE):
        pynvml.nvmlDeviceCreateGpuInstance(gpu, profile)


def test_a_gpu_instance_id_says_nothing_about_the_placement(gpu: Any) -> None:
    seen = set()
    for _ in range(6):
        instance = create(gpu, TWO, 0, 2)
        seen.add(pynvml.nvmlGpuInstanceGetInfo(instance).id)
        pynvml.nvmlGpuInstanceDestroy(instance)
    assert len(seen) > 1


def test_a_mig_uuid_is_new_at_each_creation(gpu: Any) -> None:
    uuids = []
    for _ in range(2):
        instance = create(gpu, TWO, 0, 2)
        compute = create_compute(instance, 1)
        uuids.append(pynvml.nvmlDeviceGetUUID(pynvml.nvmlComputeInstanceGetInfo_v2(compute).device))
        pynvml.nvmlComputeInstanceDestroy(compute)
        pynvml.nvmlGpuInstanceDestroy(instance)
    assert uuids[0] != uuids[1]
    assert all(uuid.startswith("MIG-") for uuid in uuids)


def test_a_handle_is_invalid_after_destroy(gpu: Any) -> None:
    instance = create(gpu, TWO, 0, 2)
    pynvml.nvmlGpuInstanceDestroy(instance)
    create(gpu, TWO, 0, 2)
    assert error_of(pynvml.nvmlGpuInstanceGetInfo, instance) == pynvml.NVML_ERROR_INVALID_ARGUMENT


def test_the_list_of_mig_devices_has_holes(gpu: Any) -> None:
    computes = [create_compute(create(gpu, ONE, start, 1), 0) for start in (0, 1, 2)]
    pynvml.nvmlComputeInstanceDestroy(computes[1])
    pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0)
    hole = error_of(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, gpu, 1)
    assert hole == pynvml.NVML_ERROR_NOT_FOUND
    mig = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 2)
    assert pynvml.nvmlDeviceIsMigDeviceHandle(mig).value == 1
    assert pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig)).startswith(
        "GPU-"
    )


def test_a_gpu_instance_with_a_compute_instance_is_in_use(gpu: Any) -> None:
    instance = create(gpu, TWO, 0, 2)
    compute = create_compute(instance, 1)
    assert error_of(pynvml.nvmlGpuInstanceDestroy, instance) == pynvml.NVML_ERROR_IN_USE
    pynvml.nvmlComputeInstanceDestroy(compute)
    pynvml.nvmlGpuInstanceDestroy(instance)


def test_a_compute_instance_with_a_process_is_in_use_until_the_process_ends(
    gpu: Any, node_directory: Path
) -> None:
    compute = create_compute(create(gpu, TWO, 0, 2), 1)
    mig = pynvml.nvmlComputeInstanceGetInfo_v2(compute).device
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    control.occupy(node_directory, mig_uuid=pynvml.nvmlDeviceGetUUID(mig), pid=process.pid)
    assert [item.pid for item in pynvml.nvmlDeviceGetComputeRunningProcesses_v3(mig)] == [process.pid]
    assert error_of(pynvml.nvmlComputeInstanceDestroy, compute) == pynvml.NVML_ERROR_IN_USE
    process.kill()
    process.communicate()
    pynvml.nvmlComputeInstanceDestroy(compute)


def test_compute_profiles_follow_the_gpu_instance(gpu: Any) -> None:
    instance = create(gpu, THREE, 4, 4)
    widths = {}
    for enum in range(pynvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT):
        try:
            info = pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(instance, enum, 0)
        except pynvml.NVMLError_NotSupported:
            continue
        widths[enum] = info.sliceCount
    assert widths == {0: 1, 1: 2, 2: 3}


def test_two_compute_instances_share_a_gpu_instance(gpu: Any) -> None:
    instance = create(gpu, TWO, 0, 2)
    first, second = create_compute(instance, 0), create_compute(instance, 0)
    starts = [pynvml.nvmlComputeInstanceGetInfo_v2(item).placement.start for item in (first, second)]
    assert starts == [0, 1]
    assert error_of(create_compute, instance, 0) == pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES


def test_attributes_of_a_mig_device(gpu: Any) -> None:
    mig = pynvml.nvmlComputeInstanceGetInfo_v2(create_compute(create(gpu, THREE, 4, 4), 2)).device
    attributes = pynvml.nvmlDeviceGetAttributes_v2(mig)
    assert (attributes.gpuInstanceSliceCount, attributes.multiprocessorCount) == (3, 60)
    assert pynvml.nvmlDeviceGetMemoryInfo(mig).total == 40448 * 1024 * 1024


def test_hopper_switches_mig_at_once(bind: Any) -> None:
    bind("H100-80GB")
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    assert pynvml.nvmlDeviceGetMigMode(gpu) == [0, 0]
    assert pynvml.nvmlDeviceSetMigMode(gpu, 1) == pynvml.NVML_SUCCESS
    assert pynvml.nvmlDeviceGetMigMode(gpu) == [1, 1]


def test_a_busy_gpu_keeps_its_mode_and_says_so_in_the_activation_status(
    bind: Any, node_directory: Path
) -> None:
    bind("H100-80GB")
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    control.hold(node_directory, index=0, pid=os.getpid())
    assert pynvml.nvmlDeviceSetMigMode(gpu, 1) == pynvml.NVML_ERROR_IN_USE
    assert pynvml.nvmlDeviceGetMigMode(gpu) == [0, 1]


def test_ampere_waits_for_a_reset(bind: Any, node_directory: Path) -> None:
    bind("A100-80GB")
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    assert pynvml.nvmlDeviceSetMigMode(gpu, 0) == pynvml.NVML_ERROR_RESET_REQUIRED
    assert pynvml.nvmlDeviceGetMigMode(gpu) == [1, 0]
    control.reset(node_directory, index=0)
    assert pynvml.nvmlDeviceGetMigMode(gpu) == [0, 0]


@pytest.mark.parametrize(("model", "mode"), [("A100-80GB", [1, 1]), ("H100-80GB", [0, 0])])
def test_a_reboot_clears_instances_and_only_ampere_keeps_the_mode(
    bind: Any, node_directory: Path, model: str, mode: list[int]
) -> None:
    bind(model)
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    pynvml.nvmlDeviceSetMigMode(gpu, 1)
    instance = create(gpu, SEVEN, 0, 8)
    control.reboot(node_directory)
    assert pynvml.nvmlDeviceGetMigMode(gpu) == mode
    assert error_of(pynvml.nvmlGpuInstanceGetInfo, instance) == pynvml.NVML_ERROR_INVALID_ARGUMENT


def test_utilization_is_not_available_under_mig(gpu: Any) -> None:
    assert error_of(pynvml.nvmlDeviceGetUtilizationRates, gpu) == pynvml.NVML_ERROR_NOT_SUPPORTED


def test_every_call_on_a_lost_gpu_says_so_and_the_others_work(bind: Any, node_directory: Path) -> None:
    bind(count=2)
    lost, fine = (pynvml.nvmlDeviceGetHandleByIndex(index) for index in (0, 1))
    control.lose(node_directory, index=0)
    assert error_of(pynvml.nvmlDeviceGetMigMode, lost) == pynvml.NVML_ERROR_GPU_IS_LOST
    assert pynvml.nvmlDeviceGetUUID(lost).startswith("GPU-")
    assert pynvml.nvmlDeviceGetMigMode(fine) == [0, 0]


def test_uuids_are_fixed_by_the_seed(tmp_path: Path) -> None:
    uuids = [
        SimulatedLibrary.at(tmp_path / name, model="H100-80GB", count=2, seed=seed).read().gpus[0].uuid
        for name, seed in (("a", "one"), ("b", "one"), ("c", "two"))
    ]
    assert uuids[0] == uuids[1] != uuids[2]


@pytest.mark.parametrize("model", ["GH200-144GB", "B300-269GB"])
def test_blank_cells_of_the_table_are_answered_with_the_share_of_the_board(bind: Any, model: str) -> None:
    bind(model)
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    total = pynvml.nvmlDeviceGetMemoryInfo(gpu).total // 1024 // 1024
    assert pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, 4).memorySizeMB == total
