"""NVML symbols about who uses what: memory, processes, utilisation (names and order of arguments: nvml.h)."""

from __future__ import annotations

from typing import Any

import pynvml

from tessera.gpu.profiles import board
from tessera.gpu.simulator import rules
from tessera.gpu.simulator.memory import Kind, is_null, number, put, put_struct, target
from tessera.gpu.simulator.metering import business
from tessera.gpu.simulator.meters import loads
from tessera.gpu.simulator.registry import Library, find_compute, find_gpu, is_mig_device, symbol
from tessera.gpu.simulator.rules import (
    INSUFFICIENT_SIZE,
    NOT_FOUND,
    NOT_SUPPORTED,
    SUCCESS,
    VERSION_MISMATCH,
)

_MEMORY_V2 = pynvml.nvmlMemory_v2
_MIB = 1024 * 1024


@symbol
def nvmlDeviceGetMemoryInfo(library: Library, device: Any, info: Any) -> int:
    node = library.read()
    if is_mig_device(device):
        gpu, instance, _ = find_compute(node, device, Kind.MIG_DEVICE)
        total = rules.nominal_memory_mib(gpu, rules.geometry(gpu).profile_by_id(instance.profile_id))
        used = rules.used_memory_mib(instance)
    else:
        gpu = find_gpu(node, device)
        total = board(gpu.model).memory_mib
        used = sum(client.memory_mib for client in gpu.clients if client.alive())
        used += sum(rules.used_memory_mib(instance) for instance in gpu.instances)
    put_struct(info, total=total * _MIB, free=(total - used) * _MIB, used=used * _MIB, reserved=0)
    return SUCCESS


@symbol
def nvmlDeviceGetMemoryInfo_v2(library: Library, device: Any, info: Any) -> int:
    if target(info).version != _MEMORY_V2:
        return VERSION_MISMATCH
    return int(nvmlDeviceGetMemoryInfo(library, device, info))


@symbol
def nvmlDeviceGetUtilizationRates(library: Library, device: Any, utilization: Any) -> int:
    """Not available under MIG, nor for a MIG device. Memory is as busy as the GPU, for want of a model."""
    if is_mig_device(device):
        return NOT_SUPPORTED
    gpu = find_gpu(library.read(), device)
    if gpu.mig_current:
        return NOT_SUPPORTED
    percent = round(100 * business(loads(gpu))[0])
    put_struct(utilization, gpu=percent, memory=percent)
    return SUCCESS


@symbol
def nvmlDeviceGetComputeRunningProcesses_v3(library: Library, device: Any, count: Any, infos: Any) -> int:
    node = library.read()
    none = 0xFFFFFFFF
    if is_mig_device(device):
        _, instance, compute = find_compute(node, device, Kind.MIG_DEVICE)
        running = [(process, instance.id, compute.id) for process in compute.processes]
    else:
        gpu = find_gpu(node, device)
        running = [(process, none, none) for process in gpu.clients]
        running += [
            (process, instance.id, compute.id)
            for instance in gpu.instances
            for compute in instance.compute
            for process in compute.processes
        ]
    running = [entry for entry in running if entry[0].alive()]
    room = number(target(count))
    put(count, len(running))
    if len(running) > room or (running and is_null(infos)):
        return INSUFFICIENT_SIZE
    for position, (process, gpu_instance, compute_instance) in enumerate(running):
        entry = target(infos)[position]
        entry.pid = process.pid
        entry.usedGpuMemory = process.memory_mib * _MIB
        entry.gpuInstanceId = gpu_instance
        entry.computeInstanceId = compute_instance
    return SUCCESS


@symbol
def nvmlDeviceGetProcessUtilization(
    library: Library, device: Any, samples: Any, count: Any, since: Any
) -> int:
    """Not available under MIG, nor for a MIG device; elsewhere nothing is sampled."""
    node = library.read()
    if is_mig_device(device) or find_gpu(node, device).mig_current:
        return NOT_SUPPORTED
    put(count, 0)
    return NOT_FOUND
