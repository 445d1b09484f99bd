"""NVML calls that make slices: several lines each in `pynvml`, and needed by many tests."""

from __future__ import annotations

import ctypes
from typing import Any

import pynvml

TWO = 14
"""The profile id of 2g on the 8-slice boards: 2 memory slices wide, 2 of 7 compute slices."""


def create(gpu: Any, profile_id: int, start: int, size: int) -> Any:
    """A GPU instance at that placement; its handle."""
    placement = pynvml.c_nvmlGpuInstancePlacement_t(start, size)
    return pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(gpu, profile_id, ctypes.byref(placement))


def create_two(gpu: Any, start: int = 0) -> Any:
    """A 2g at that start; its handle."""
    return create(gpu, TWO, start, 2)


def create_compute(instance: Any, enum: int = 1) -> Any:
    """A compute instance of the profile with that enum: 0 has one compute slice, 1 has two; its handle."""
    profile = pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(instance, enum, 0)
    return pynvml.nvmlGpuInstanceCreateComputeInstance(instance, profile.id)


def uuid_of(compute: Any) -> str:
    """The UUID of a compute instance's MIG device."""
    return str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlComputeInstanceGetInfo_v2(compute).device))
