"""NVML symbols about the driver, GPUs and MIG devices (function names and order of arguments: nvml.h)."""

from __future__ import annotations

from typing import Any

from tessera.gpu import faults as catalogue
from tessera.gpu.profiles import board
from tessera.gpu.simulator import rules
from tessera.gpu.simulator.memory import (
    Kind,
    handle,
    number,
    put,
    put_handle,
    put_struct,
    put_text,
    read_handle,
    text,
)
from tessera.gpu.simulator.registry import Library, find_compute, find_gpu, is_mig_device, symbol
from tessera.gpu.simulator.rules import INVALID_ARGUMENT, NOT_FOUND, NOT_SUPPORTED, SUCCESS

_ARCHITECTURES = {"ampere": 7, "ada": 8, "hopper": 9, "blackwell": 10}


@symbol
def nvmlInitWithFlags(library: Library, flags: Any) -> int:
    library.references += 1
    return SUCCESS


@symbol
def nvmlShutdown(library: Library) -> int:
    library.references -= 1
    return SUCCESS


@symbol
def nvmlErrorString(library: Library, code: Any) -> bytes:
    return catalogue.symbol(number(code)).encode()


@symbol
def nvmlSystemGetDriverVersion(library: Library, buffer: Any, length: Any) -> int:
    put_text(buffer, library.read().driver_version)
    return SUCCESS


@symbol
def nvmlSystemGetNVMLVersion(library: Library, buffer: Any, length: Any) -> int:
    put_text(buffer, library.read().nvml_version)
    return SUCCESS


@symbol
def nvmlSystemGetCudaDriverVersion_v2(library: Library, version: Any) -> int:
    put(version, library.read().cuda_version)
    return SUCCESS


@symbol
def nvmlDeviceGetCount_v2(library: Library, count: Any) -> int:
    put(count, len(library.read().gpus))
    return SUCCESS


@symbol
def nvmlDeviceGetHandleByIndex_v2(library: Library, index: Any, device: Any) -> int:
    gpus = library.read().gpus
    if number(index) >= len(gpus):
        return INVALID_ARGUMENT
    put_handle(device, handle(Kind.GPU, gpus[number(index)].serial))
    return SUCCESS


@symbol
def nvmlDeviceGetHandleByUUID(library: Library, uuid: Any, device: Any) -> int:
    wanted = text(uuid)
    for gpu in library.read().gpus:
        if gpu.uuid == wanted:
            put_handle(device, handle(Kind.GPU, gpu.serial))
            return SUCCESS
        for compute in (item for instance in gpu.instances for item in instance.compute):
            if compute.uuid == wanted:
                put_handle(device, handle(Kind.MIG_DEVICE, compute.serial))
                return SUCCESS
    return NOT_FOUND


@symbol
def nvmlDeviceGetUUID(library: Library, device: Any, buffer: Any, length: Any) -> int:
    node = library.read()
    if is_mig_device(device):
        put_text(buffer, find_compute(node, device, Kind.MIG_DEVICE)[2].uuid)
    else:
        # The UUID of a lost GPU stays readable, so that the agent can name it.
        known = {(int(Kind.GPU), gpu.serial): gpu.uuid for gpu in node.gpus}
        if read_handle(device) not in known:
            return INVALID_ARGUMENT
        put_text(buffer, known[read_handle(device)])
    return SUCCESS


@symbol
def nvmlDeviceGetName(library: Library, device: Any, buffer: Any, length: Any) -> int:
    node = library.read()
    if is_mig_device(device):
        gpu, instance, _ = find_compute(node, device, Kind.MIG_DEVICE)
        profile = rules.geometry(gpu).profile_by_id(instance.profile_id)
        put_text(buffer, f"{board(gpu.model).product} MIG {profile.name}")
    else:
        put_text(buffer, board(find_gpu(node, device).model).product)
    return SUCCESS


@symbol
def nvmlDeviceGetIndex(library: Library, device: Any, index: Any) -> int:
    put(index, find_gpu(library.read(), device).index)
    return SUCCESS


@symbol
def nvmlDeviceGetMinorNumber(library: Library, device: Any, minor: Any) -> int:
    put(minor, find_gpu(library.read(), device).index)
    return SUCCESS


@symbol
def nvmlDeviceGetArchitecture(library: Library, device: Any, architecture: Any) -> int:
    put(architecture, _ARCHITECTURES[board(find_gpu(library.read(), device).model).architecture])
    return SUCCESS


@symbol
def nvmlDeviceGetCudaComputeCapability(library: Library, device: Any, major: Any, minor: Any) -> int:
    capability = board(find_gpu(library.read(), device).model).compute_capability
    put(major, capability[0])
    put(minor, capability[1])
    return SUCCESS


@symbol
def nvmlDeviceGetMigMode(library: Library, device: Any, current: Any, pending: Any) -> int:
    gpu = find_gpu(library.read(), device)
    put(current, int(gpu.mig_current))
    put(pending, int(gpu.mig_pending))
    return SUCCESS


@symbol
def nvmlDeviceSetMigMode(library: Library, device: Any, mode: Any, activation: Any) -> int:
    if number(mode) not in (0, 1):
        return INVALID_ARGUMENT
    with library.change() as node:
        gpu = find_gpu(node, device)
        if gpu.virtualization == rules.VGPU:  # the host decides
            return NOT_SUPPORTED
        put(activation, rules.set_mig_mode(gpu, enabled=bool(number(mode))))
    return SUCCESS


@symbol
def nvmlDeviceGetVirtualizationMode(library: Library, device: Any, mode: Any) -> int:
    put(mode, find_gpu(library.read(), device).virtualization)
    return SUCCESS


@symbol
def nvmlDeviceGetMaxMigDeviceCount(library: Library, device: Any, count: Any) -> int:
    gpu = find_gpu(library.read(), device)
    put(count, rules.max_mig_devices(gpu) if gpu.mig_current else 0)
    return SUCCESS


@symbol
def nvmlDeviceGetMigDeviceHandleByIndex(library: Library, device: Any, index: Any, mig_device: Any) -> int:
    gpu = find_gpu(library.read(), device)
    if not gpu.mig_current:
        return NOT_SUPPORTED
    if number(index) >= rules.max_mig_devices(gpu):
        return INVALID_ARGUMENT
    for compute in (item for instance in gpu.instances for item in instance.compute):
        if compute.slot == number(index):
            put_handle(mig_device, handle(Kind.MIG_DEVICE, compute.serial))
            return SUCCESS
    return NOT_FOUND


@symbol
def nvmlDeviceIsMigDeviceHandle(library: Library, device: Any, is_mig: Any) -> int:
    put(is_mig, int(is_mig_device(device)))
    return SUCCESS


@symbol
def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(library: Library, mig_device: Any, device: Any) -> int:
    gpu, _, _ = find_compute(library.read(), mig_device, Kind.MIG_DEVICE)
    put_handle(device, handle(Kind.GPU, gpu.serial))
    return SUCCESS


@symbol
def nvmlDeviceGetGpuInstanceId(library: Library, mig_device: Any, number_out: Any) -> int:
    put(number_out, find_compute(library.read(), mig_device, Kind.MIG_DEVICE)[1].id)
    return SUCCESS


@symbol
def nvmlDeviceGetComputeInstanceId(library: Library, mig_device: Any, number_out: Any) -> int:
    put(number_out, find_compute(library.read(), mig_device, Kind.MIG_DEVICE)[2].id)
    return SUCCESS


@symbol
def nvmlDeviceGetAttributes_v2(library: Library, mig_device: Any, attributes: Any) -> int:
    gpu, instance, compute = find_compute(library.read(), mig_device, Kind.MIG_DEVICE)
    profile = rules.geometry(gpu).profile_by_id(instance.profile_id)
    put_struct(
        attributes,
        **rules.compute_engines(profile, width=compute.size),
        gpuInstanceSliceCount=profile.compute_slices,
        computeInstanceSliceCount=compute.size,
        memorySizeMB=rules.nominal_memory_mib(gpu, profile),
    )
    return SUCCESS
