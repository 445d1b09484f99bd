"""NVML symbols about GPU instances and compute instances (function names and order of arguments: nvml.h)."""

from __future__ import annotations

from typing import Any

import pynvml

from tessera.gpu.profiles import Profile, UnknownProfile
from tessera.gpu.simulator import rules
from tessera.gpu.simulator.memory import (
    Kind,
    field,
    handle,
    is_null,
    number,
    put,
    put_handle,
    put_handles,
    put_struct,
    target,
)
from tessera.gpu.simulator.registry import Library, find_compute, find_gpu, find_instance, symbol
from tessera.gpu.simulator.rules import (
    IN_USE,
    INSUFFICIENT_RESOURCES,
    INVALID_ARGUMENT,
    NOT_FOUND,
    NOT_SUPPORTED,
    SUCCESS,
)
from tessera.gpu.simulator.state import SimulatedGPU

INSUFFICIENT_SIZE = 7
VERSION_MISMATCH = 25
_GPU_PROFILE_COUNT = pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT
_COMPUTE_PROFILE_COUNT = pynvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT
_GPU_PROFILE_V2 = pynvml.nvmlGpuInstanceProfileInfo_v2
_COMPUTE_PROFILE_V2 = pynvml.nvmlComputeInstanceProfileInfo_v2


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
    if target(info).version != _GPU_PROFILE_V2:
        return VERSION_MISMATCH
    return int(nvmlDeviceGetGpuInstanceProfileInfo(library, device, enum, info))


@symbol
def nvmlDeviceGetGpuInstanceProfileInfoByIdV(
    library: Library, device: Any, profile_id: Any, info: Any
) -> int:
    gpu = find_gpu(library.read(), device)
    if target(info).version != _GPU_PROFILE_V2:
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
    room = number(target(count))
    put(count, len(profile.starts))
    if is_null(placements):
        return SUCCESS
    if room < len(profile.starts):
        return INSUFFICIENT_SIZE
    for position, start in enumerate(profile.starts):
        entry = target(placements)[position]
        entry.start = start
        entry.size = profile.memory_slices
    return SUCCESS


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


@symbol
def nvmlGpuInstanceGetComputeInstanceProfileInfo(
    library: Library, instance: Any, enum: Any, engines: Any, info: Any
) -> int:
    gpu, found = find_instance(library.read(), instance)
    if number(enum) >= _COMPUTE_PROFILE_COUNT or number(engines) != 0:
        return INVALID_ARGUMENT
    compute = rules.compute_profiles(gpu, found).get(number(enum))
    if compute is None:
        return NOT_SUPPORTED
    profile_id, width = compute
    profile = rules.geometry(gpu).profile_by_id(found.profile_id)
    put_struct(
        info,
        id=profile_id,
        sliceCount=width,
        instanceCount=len(rules.compute_starts(gpu, found, width)),
        multiprocessorCount=(profile.multiprocessors or 0) * width // profile.compute_slices,
        sharedCopyEngineCount=profile.copy_engines or 0,
        sharedDecoderCount=profile.decoders or 0,
        sharedEncoderCount=profile.encoders or 0,
        sharedJpegCount=profile.jpeg_engines or 0,
        sharedOfaCount=profile.optical_flow_engines or 0,
        name=(
            f"MIG {profile.name}" if width == profile.compute_slices else f"MIG {width}c.{profile.name}"
        ).encode(),
    )
    return SUCCESS


@symbol
def nvmlGpuInstanceGetComputeInstanceProfileInfoV(
    library: Library, instance: Any, enum: Any, engines: Any, info: Any
) -> int:
    if target(info).version != _COMPUTE_PROFILE_V2:
        return VERSION_MISMATCH
    return int(nvmlGpuInstanceGetComputeInstanceProfileInfo(library, instance, enum, engines, info))


@symbol
def nvmlGpuInstanceCreateComputeInstance(
    library: Library, instance: Any, profile_id: Any, compute: Any
) -> int:
    with library.change() as node:
        gpu, found = find_instance(node, instance)
        widths = dict(rules.compute_profiles(gpu, found).values())
        width = widths.get(number(profile_id))
        if width is None:
            return INVALID_ARGUMENT
        start = rules.free_compute_start(gpu, found, width)
        if start is None:
            return INSUFFICIENT_RESOURCES
        created = rules.create_compute(
            node, gpu, found, profile_id=number(profile_id), start=start, size=width
        )
        put_handle(compute, handle(Kind.COMPUTE, created.serial))
    return SUCCESS


@symbol
def nvmlGpuInstanceGetComputeInstances(
    library: Library, instance: Any, profile_id: Any, computes: Any, count: Any
) -> int:
    _, found = find_instance(library.read(), instance)
    handles = [
        handle(Kind.COMPUTE, item.serial) for item in found.compute if item.profile_id == number(profile_id)
    ]
    put_handles(computes, handles)
    put(count, len(handles))
    return SUCCESS


@symbol
def nvmlGpuInstanceGetComputeInstanceById(
    library: Library, instance: Any, compute_id: Any, compute: Any
) -> int:
    _, found = find_instance(library.read(), instance)
    for item in found.compute:
        if item.id == number(compute_id):
            put_handle(compute, handle(Kind.COMPUTE, item.serial))
            return SUCCESS
    return NOT_FOUND


@symbol
def nvmlComputeInstanceGetInfo_v2(library: Library, compute: Any, info: Any) -> int:
    _, instance, found = find_compute(library.read(), compute)
    struct = target(info)
    put_handle(field(struct, "device"), handle(Kind.MIG_DEVICE, found.serial))
    put_handle(field(struct, "gpuInstance"), handle(Kind.INSTANCE, instance.serial))
    struct.id = found.id
    struct.profileId = found.profile_id
    struct.placement.start = found.start
    struct.placement.size = found.size
    return SUCCESS


@symbol
def nvmlComputeInstanceDestroy(library: Library, compute: Any) -> int:
    with library.change() as node:
        _, instance, found = find_compute(node, compute)
        if rules.compute_in_use(found):
            return IN_USE
        instance.compute.remove(found)
    return SUCCESS
