"""NVML symbols about GPU instances (function names and order of arguments: nvml.h)."""

from __future__ import annotations

from typing import Any

import pynvml

from tessera.gpu.profiles import Profile, UnknownProfile
from tessera.gpu.simulator import rules
from tessera.gpu.simulator.memory import (
    Kind,
    field,
    handle,
    number,
    put,
    put_handle,
    put_handles,
    put_placements,
    put_struct,
    target,
)
from tessera.gpu.simulator.registry import Library, find_gpu, find_instance, symbol
from tessera.gpu.simulator.rules import (
    IN_USE,
    INSUFFICIENT_RESOURCES,
    INVALID_ARGUMENT,
    NOT_FOUND,
    NOT_SUPPORTED,
    SUCCESS,
    VERSION_MISMATCH,
)
from tessera.gpu.simulator.state import SimulatedGPU

_GPU_PROFILE_COUNT = pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT
_VERSIONS = (pynvml.nvmlGpuInstanceProfileInfo_v2, 0x03000098)
"""Struct versions 2 and 3: the size in bytes, and the number in the highest byte."""

_GRAPHICS = 2  # NVML_GPU_INSTANCE_PROFILE_CAPS_GFX; peer to peer (1) exists between no two instances


def _put_profile(gpu: SimulatedGPU, profile: Profile, info: Any) -> int:
    put_struct(
        info,
        id=profile.id,
        isP2pSupported=0,
        sliceCount=profile.compute_slices,
        instanceCount=profile.max_count,
        multiprocessorCount=profile.multiprocessors or 0,
        copyEngineCount=profile.copy_engines or 0,
        decoderCount=profile.decoders or 0,
        encoderCount=profile.encoders or 0,
        jpegCount=profile.jpeg_engines or 0,
        ofaCount=profile.optical_flow_engines or 0,
        memorySizeMB=rules.nominal_memory_mib(gpu, profile),
        capabilities=_GRAPHICS if profile.graphics else 0,
        name=f"MIG {profile.name}".encode(),
    )
    return SUCCESS


@symbol
def nvmlDeviceGetGpuInstanceProfileInfo(library: Library, device: Any, enum: Any, info: Any) -> int:
    gpu = find_gpu(library.read(), device)
    if number(enum) >= _GPU_PROFILE_COUNT:
        return INVALID_ARGUMENT
    for profile in rules.geometry(gpu).profiles:
        if profile.enum == number(enum):
            return _put_profile(gpu, profile, info)
    return NOT_SUPPORTED


@symbol
def nvmlDeviceGetGpuInstanceProfileInfoV(library: Library, device: Any, enum: Any, info: Any) -> int:
    if target(info).version not in _VERSIONS:
        return VERSION_MISMATCH
    return int(nvmlDeviceGetGpuInstanceProfileInfo(library, device, enum, info))


@symbol
def nvmlDeviceGetGpuInstanceProfileInfoByIdV(
    library: Library, device: Any, profile_id: Any, info: Any
) -> int:
    gpu = find_gpu(library.read(), device)
    if target(info).version not in _VERSIONS:
        return VERSION_MISMATCH
    try:
        return _put_profile(gpu, rules.geometry(gpu).profile_by_id(number(profile_id)), info)
    except UnknownProfile:
        return INVALID_ARGUMENT


@symbol
def nvmlDeviceGetGpuInstancePossiblePlacements_v2(
    library: Library, device: Any, profile_id: Any, placements: Any, count: Any
) -> int:
    """Static: what the board allows, whatever is occupied and whether MIG is on."""
    gpu = find_gpu(library.read(), device)
    try:
        profile = rules.geometry(gpu).profile_by_id(number(profile_id))
    except UnknownProfile:
        return INVALID_ARGUMENT
    return put_placements(placements, count, starts=profile.starts, size=profile.memory_slices)


@symbol
def nvmlDeviceGetGpuInstanceRemainingCapacity(
    library: Library, device: Any, profile_id: Any, count: Any
) -> int:
    gpu = find_gpu(library.read(), device)
    if not gpu.mig_current:
        return NOT_SUPPORTED
    try:
        put(count, rules.remaining_capacity(gpu, rules.geometry(gpu).profile_by_id(number(profile_id))))
    except UnknownProfile:
        return INVALID_ARGUMENT
    return SUCCESS


def _create(library: Library, device: Any, profile_id: int, start: int, size: int, instance: Any) -> int:
    with library.change() as node:
        gpu = find_gpu(node, device)
        code = rules.check_create(gpu, profile_id=profile_id, start=start, size=size)
        if code == SUCCESS:
            created = rules.create_instance(node, gpu, profile_id=profile_id, start=start, size=size)
            put_handle(instance, handle(Kind.INSTANCE, created.serial))
        return code


@symbol
def nvmlDeviceCreateGpuInstanceWithPlacement(
    library: Library, device: Any, profile_id: Any, placement: Any, instance: Any
) -> int:
    wanted = target(placement)
    return _create(library, device, number(profile_id), wanted.start, wanted.size, instance)


@symbol
def nvmlDeviceCreateGpuInstance(library: Library, device: Any, profile_id: Any, instance: Any) -> int:
    gpu = find_gpu(library.read(), device)
    if not rules.can_change(gpu):
        return NOT_SUPPORTED
    try:
        profile = rules.geometry(gpu).profile_by_id(number(profile_id))
    except UnknownProfile:
        return INVALID_ARGUMENT
    start = rules.driver_choice(gpu, profile)
    if start is None:
        return INSUFFICIENT_RESOURCES
    return _create(library, device, profile.id, start, profile.memory_slices, instance)


@symbol
def nvmlGpuInstanceDestroy(library: Library, instance: Any) -> int:
    with library.change() as node:
        gpu, found = find_instance(node, instance)
        if not rules.can_change(gpu):
            return NOT_SUPPORTED
        if found.compute:
            return IN_USE
        gpu.instances.remove(found)
    return SUCCESS


@symbol
def nvmlDeviceGetGpuInstances(
    library: Library, device: Any, profile_id: Any, instances: Any, count: Any
) -> int:
    gpu = find_gpu(library.read(), device)
    found = [
        handle(Kind.INSTANCE, instance.serial)
        for instance in gpu.instances
        if instance.profile_id == number(profile_id)
    ]
    put_handles(instances, found)
    put(count, len(found))
    return SUCCESS


@symbol
def nvmlDeviceGetGpuInstanceById(library: Library, device: Any, instance_id: Any, instance: Any) -> int:
    for found in find_gpu(library.read(), device).instances:
        if found.id == number(instance_id):
            put_handle(instance, handle(Kind.INSTANCE, found.serial))
            return SUCCESS
    return NOT_FOUND


@symbol
def nvmlGpuInstanceGetInfo(library: Library, instance: Any, info: Any) -> int:
    gpu, found = find_instance(library.read(), instance)
    struct = target(info)
    put_handle(field(struct, "device"), handle(Kind.GPU, gpu.serial))
    struct.id = found.id
    struct.profileId = found.profile_id
    struct.placement.start = found.start
    struct.placement.size = found.size
    return SUCCESS
