"""Struct versions, compute placements and memory of the simulated driver."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import pynvml
import pytest
from tessera.gpu.simulator import control
from unit.gpu.mig_calls import create

MIB = 1024 * 1024
_COUNTS = ("copyEngineCount", "decoderCount", "encoderCount", "jpegCount", "ofaCount")


class GPUProfileV3(ctypes.Structure):
    """nvmlGpuInstanceProfileInfo_v3_t of nvml.h: the binding has no such class."""

    _fields_ = [
        ("version", ctypes.c_uint),
        ("id", ctypes.c_uint),
        ("sliceCount", ctypes.c_uint),
        ("instanceCount", ctypes.c_uint),
        ("multiprocessorCount", ctypes.c_uint),
        *((name, ctypes.c_uint) for name in _COUNTS),
        ("memorySizeMB", ctypes.c_ulonglong),
        ("name", ctypes.c_char * 96),
        ("capabilities", ctypes.c_uint),
    ]


class ComputeProfileV3(ctypes.Structure):
    """nvmlComputeInstanceProfileInfo_v3_t of nvml.h."""

    _fields_ = [
        ("version", ctypes.c_uint),
        ("id", ctypes.c_uint),
        ("sliceCount", ctypes.c_uint),
        ("instanceCount", ctypes.c_uint),
        ("multiprocessorCount", ctypes.c_uint),
        *((f"shared{name[0].upper()}{name[1:]}", ctypes.c_uint) for name in _COUNTS),
        ("name", ctypes.c_char * 96),
        ("capabilities", ctypes.c_uint),
    ]


def versioned(symbol: str, struct: Any, version: int, *arguments: Any) -> int:
    """Call a symbol with a struct of that version, whose own size is part of the version."""
    struct.version = version << 24 | ctypes.sizeof(struct)
    return int(pynvml._nvmlGetFunctionPointer(symbol)(*arguments, ctypes.byref(struct)))


def create_compute(instance: Any, profile_id: int, start: int, size: int) -> Any:
    placement = pynvml.c_nvmlComputeInstancePlacement_t(start, size)
    return pynvml.nvmlGpuInstanceCreateComputeInstanceWithPlacement(
        instance, profile_id, ctypes.byref(placement)
    )


def test_the_third_struct_version_adds_capabilities(bind: Any) -> None:
    bind("RTXPRO6000-96GB")
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    found = {}
    for enum in (0, 10):
        info = GPUProfileV3()
        assert versioned("nvmlDeviceGetGpuInstanceProfileInfoV", info, 3, gpu, enum) == 0
        found[info.name] = (info.id, info.memorySizeMB, info.ofaCount, info.capabilities)
    assert found == {b"MIG 1g.24gb": (14, 24186, 0, 0), b"MIG 1g.24gb+gfx": (47, 24186, 0, 2)}
    by_id = GPUProfileV3()
    assert versioned("nvmlDeviceGetGpuInstanceProfileInfoByIdV", by_id, 3, gpu, 47) == 0
    assert (by_id.name, by_id.capabilities) == (b"MIG 1g.24gb+gfx", 2)


def test_the_third_compute_struct_version_adds_capabilities(bind: Any) -> None:
    bind("RTXPRO6000-96GB")
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    pynvml.nvmlDeviceSetMigMode(gpu, 1)
    capabilities = []
    for profile_id, start in ((14, 0), (47, 3)):
        info = ComputeProfileV3()
        instance = create(gpu, profile_id, start, 3)
        symbol = "nvmlGpuInstanceGetComputeInstanceProfileInfoV"
        assert versioned(symbol, info, 3, instance, 0, 0) == 0
        assert info.multiprocessorCount == 46
        capabilities.append(info.capabilities)
    assert capabilities == [0, 1]


@pytest.mark.parametrize(
    ("symbol", "struct", "arguments"),
    [
        ("nvmlDeviceGetGpuInstanceProfileInfoV", GPUProfileV3, (0,)),
        ("nvmlDeviceGetGpuInstanceProfileInfoByIdV", GPUProfileV3, (19,)),
        ("nvmlDeviceGetMemoryInfo_v2", pynvml.c_nvmlMemory_v2_t, ()),
    ],
)
def test_a_version_that_the_driver_does_not_know_is_refused(
    gpu: Any, symbol: str, struct: Any, arguments: tuple[int, ...]
) -> None:
    mismatch = pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH
    assert versioned(symbol, struct(), 9, gpu, *arguments) == mismatch


def test_possible_compute_placements_ignore_occupancy_and_the_room_left_does_not(gpu: Any) -> None:
    instance = create(gpu, 9, 4, 4)
    create_compute(instance, 0, 1, 1)
    count = ctypes.c_uint(0)
    pynvml.nvmlGpuInstanceGetComputeInstancePossiblePlacements(instance, 0, None, ctypes.byref(count))
    buffer = (pynvml.c_nvmlComputeInstancePlacement_t * count.value)()
    pynvml.nvmlGpuInstanceGetComputeInstancePossiblePlacements(instance, 0, buffer, ctypes.byref(count))
    assert [(item.start, item.size) for item in buffer] == [(0, 1), (1, 1), (2, 1)]
    assert pynvml.nvmlGpuInstanceGetComputeInstanceRemainingCapacity(instance, 0) == 2
    assert pynvml.nvmlGpuInstanceGetComputeInstanceRemainingCapacity(instance, 2) == 0


def test_a_compute_instance_at_a_placement_follows_the_rules_of_placements(gpu: Any) -> None:
    instance = create(gpu, 9, 4, 4)
    info = pynvml.nvmlComputeInstanceGetInfo_v2(create_compute(instance, 0, 2, 1))
    assert (info.placement.start, info.placement.size) == (2, 1)
    with pytest.raises(pynvml.NVMLError_InsufficientResources):
        create_compute(instance, 0, 2, 1)
    for start, size in ((3, 1), (0, 2)):
        with pytest.raises(pynvml.NVMLError_InvalidArgument):
            create_compute(instance, 0, start, size)


def test_compute_instances_share_multiprocessors_but_not_engines(gpu: Any) -> None:
    instance = create(gpu, 9, 4, 4)
    mig = pynvml.nvmlComputeInstanceGetInfo_v2(create_compute(instance, 1, 0, 2)).device
    found = pynvml.nvmlDeviceGetAttributes_v2(mig)
    assert (found.gpuInstanceSliceCount, found.computeInstanceSliceCount) == (3, 2)
    assert found.multiprocessorCount == 40
    assert (found.sharedCopyEngineCount, found.sharedDecoderCount, found.sharedJpegCount) == (3, 3, 3)
    assert found.memorySizeMB == 40448


def test_the_unsupported_nvlink_compute_profile_of_a_whole_gpu_is_not_offered(gpu: Any) -> None:
    instance = create(gpu, 0, 0, 8)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(
            instance, pynvml.NVML_COMPUTE_INSTANCE_PROFILE_7_SLICE_NVL, 0
        )


def test_memory_of_a_mig_device_is_its_own_and_that_of_the_gpu_is_the_sum(
    gpu: Any, node_directory: Path
) -> None:
    instance = create(gpu, 14, 0, 2)
    devices = [
        pynvml.nvmlComputeInstanceGetInfo_v2(create_compute(instance, 0, start, 1)).device for start in (0, 1)
    ]
    other = pynvml.nvmlComputeInstanceGetInfo_v2(create_compute(create(gpu, 19, 6, 1), 0, 0, 1)).device
    uuid = pynvml.nvmlDeviceGetUUID(devices[0])
    control.occupy(node_directory, mig_uuid=uuid, pid=os.getpid(), memory_mib=1000)
    for device in devices:  # two compute instances, one memory
        info = pynvml.nvmlDeviceGetMemoryInfo(device, pynvml.nvmlMemory_v2)
        assert (info.total, info.used, info.free) == (20090 * MIB, 1000 * MIB, 19090 * MIB)
    assert pynvml.nvmlDeviceGetMemoryInfo(other).used == 0
    assert pynvml.nvmlDeviceGetMemoryInfo(gpu).used == 1000 * MIB
    (process,) = pynvml.nvmlDeviceGetComputeRunningProcesses_v3(gpu)
    assert (process.pid, process.usedGpuMemory) == (os.getpid(), 1000 * MIB)
    assert process.gpuInstanceId == pynvml.nvmlDeviceGetGpuInstanceId(devices[0])
