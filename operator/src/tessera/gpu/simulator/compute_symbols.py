"""NVML symbols about compute instances (function names and order of arguments: nvml.h).

A compute instance's placement is counted in compute slices of its GPU instance.
"""

from __future__ import annotations

from typing import Any

import pynvml

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
from tessera.gpu.simulator.registry import Library, find_compute, find_instance, symbol
from tessera.gpu.simulator.rules import (
    IN_USE,
    INSUFFICIENT_RESOURCES,
    INVALID_ARGUMENT,
    NOT_FOUND,
    NOT_SUPPORTED,
    SUCCESS,
    VERSION_MISMATCH,
)
from tessera.gpu.simulator.state import Instance, SimulatedGPU

_PROFILE_COUNT = pynvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT
_VERSIONS = (pynvml.nvmlComputeInstanceProfileInfo_v2, 0x0300008C)
"""Struct versions 2 and 3: the size in bytes, and the number in the highest byte."""

_GRAPHICS = 1  # NVML_COMPUTE_INSTANCE_PROFILE_CAPS_GFX


def _width(gpu: SimulatedGPU, instance: Instance, profile_id: int) -> int | None:
    """Width in compute slices of that compute profile; None where this GPU instance does not have it."""
    return dict(rules.compute_profiles(gpu, instance).values()).get(profile_id)


@symbol
def nvmlGpuInstanceGetComputeInstanceProfileInfo(
    library: Library, instance: Any, enum: Any, engines: Any, info: Any
) -> int:
    gpu, found = find_instance(library.read(), instance)
    if number(enum) >= _PROFILE_COUNT or number(engines) != 0:
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
        **rules.compute_engines(profile, width=width),
        capabilities=_GRAPHICS if profile.graphics else 0,
        name=(
            f"MIG {profile.name}" if width == profile.compute_slices else f"MIG {width}c.{profile.name}"
        ).encode(),
    )
    return SUCCESS


@symbol
def nvmlGpuInstanceGetComputeInstanceProfileInfoV(
    library: Library, instance: Any, enum: Any, engines: Any, info: Any
) -> int:
    if target(info).version not in _VERSIONS:
        return VERSION_MISMATCH
    return int(nvmlGpuInstanceGetComputeInstanceProfileInfo(library, instance, enum, engines, info))


@symbol
def nvmlGpuInstanceGetComputeInstancePossiblePlacements(
    library: Library, instance: Any, profile_id: Any, placements: Any, count: Any
) -> int:
    """Static, as a GPU's: whatever is occupied."""
    gpu, found = find_instance(library.read(), instance)
    width = _width(gpu, found, number(profile_id))
    if width is None:
        return NOT_SUPPORTED
    return put_placements(placements, count, starts=rules.compute_starts(gpu, found, width), size=width)


@symbol
def nvmlGpuInstanceGetComputeInstanceRemainingCapacity(
    library: Library, instance: Any, profile_id: Any, count: Any
) -> int:
    gpu, found = find_instance(library.read(), instance)
    width = _width(gpu, found, number(profile_id))
    if width is None:
        return NOT_SUPPORTED
    put(count, len(rules.free_compute_starts(gpu, found, width)))
    return SUCCESS


def _create(
    library: Library, instance: Any, profile_id: int, placement: tuple[int, int] | None, compute: Any
) -> int:
    with library.change() as node:
        gpu, found = find_instance(node, instance)
        width = _width(gpu, found, profile_id)
        if width is None:
            return INVALID_ARGUMENT
        legal = {(start, width) for start in rules.compute_starts(gpu, found, width)}
        if placement is not None and placement not in legal:
            return INVALID_ARGUMENT
        free = rules.free_compute_starts(gpu, found, width)
        start = next((start for start in free if placement is None or start == placement[0]), None)
        if start is None:
            return INSUFFICIENT_RESOURCES
        created = rules.create_compute(node, gpu, found, profile_id=profile_id, start=start, size=width)
        put_handle(compute, handle(Kind.COMPUTE, created.serial))
    return SUCCESS


@symbol
def nvmlGpuInstanceCreateComputeInstance(
    library: Library, instance: Any, profile_id: Any, compute: Any
) -> int:
    return _create(library, instance, number(profile_id), None, compute)


@symbol
def nvmlGpuInstanceCreateComputeInstanceWithPlacement(
    library: Library, instance: Any, profile_id: Any, placement: Any, compute: Any
) -> int:
    wanted = target(placement)
    return _create(library, instance, number(profile_id), (wanted.start, wanted.size), compute)


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
