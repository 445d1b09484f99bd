"""NVML symbols about the board that other tools ask for: device plugin, DRA driver, exporter."""

from __future__ import annotations

from typing import Any

import pynvml

from tessera.gpu.profiles import board
from tessera.gpu.simulator.memory import Kind, handle, number, put, put_handle, put_struct, target, text
from tessera.gpu.simulator.registry import Library, find_gpu, symbol
from tessera.gpu.simulator.rules import NOT_FOUND, NOT_SUPPORTED, SUCCESS, VERSION_MISMATCH

_FABRIC_VERSIONS = (pynvml.nvmlGpuFabricInfo_v2, pynvml.nvmlGpuFabricInfo_v3)


@symbol
def nvmlDeviceGetPciInfo_v3(library: Library, device: Any, info: Any) -> int:
    gpu = find_gpu(library.read(), device)
    put_struct(
        info,
        domain=0,
        bus=gpu.pci_bus,
        device=0,
        pciDeviceId=(board(gpu.model).pci_device_ids[0] << 16) | 0x10DE,
        pciSubSystemId=0,
        busId=gpu.pci_bus_id.encode(),
        busIdLegacy=gpu.pci_bus_id[4:].encode(),
    )
    return SUCCESS


@symbol
def nvmlDeviceGetHandleByPciBusId_v2(library: Library, bus_id: Any, device: Any) -> int:
    wanted = text(bus_id).upper()
    for gpu in library.read().gpus:
        if wanted in (gpu.pci_bus_id, gpu.pci_bus_id[4:]):  # the domain has eight digits, or four
            put_handle(device, handle(Kind.GPU, gpu.serial))
            return SUCCESS
    return NOT_FOUND


@symbol
def nvmlDeviceGetBrand(library: Library, device: Any, brand: Any) -> int:
    product = board(find_gpu(library.read(), device).model).product
    put(brand, pynvml.NVML_BRAND_NVIDIA_RTX if "RTX" in product else pynvml.NVML_BRAND_NVIDIA)
    return SUCCESS


@symbol
def nvmlDeviceGetModuleId(library: Library, device: Any, module: Any) -> int:
    put(module, find_gpu(library.read(), device).index)
    return SUCCESS


@symbol
def nvmlDeviceGetAddressingMode(library: Library, device: Any, mode: Any) -> int:
    """Grace boards share their address space with the processor (ATS); the others do not."""
    gpu = find_gpu(library.read(), device)
    if target(mode).version != pynvml.nvmlDeviceAddressingMode_v1:
        return VERSION_MISMATCH
    grace = gpu.model.startswith("G")
    shared, none = pynvml.NVML_DEVICE_ADDRESSING_MODE_ATS, pynvml.NVML_DEVICE_ADDRESSING_MODE_NONE
    put_struct(mode, value=shared if grace else none)
    return SUCCESS


@symbol
def nvmlDeviceGetGpuFabricInfo(library: Library, device: Any, info: Any) -> int:
    """No fabric is simulated."""
    find_gpu(library.read(), device)
    put_struct(info, state=pynvml.NVML_GPU_FABRIC_STATE_NOT_SUPPORTED, cliqueId=0, status=0)
    return SUCCESS


@symbol
def nvmlDeviceGetGpuFabricInfoV(library: Library, device: Any, info: Any) -> int:
    if target(info).version not in _FABRIC_VERSIONS:
        return VERSION_MISMATCH
    return int(nvmlDeviceGetGpuFabricInfo(library, device, info))


@symbol
def nvmlDeviceGetFieldValues(library: Library, device: Any, count: Any, values: Any) -> int:
    """Of all fields there is one here: what the GPU needs before it can be used again."""
    gpu = find_gpu(library.read(), device)
    for position in range(number(count)):
        entry = target(values)[position]
        known = entry.fieldId == pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION
        entry.nvmlReturn = SUCCESS if known else NOT_SUPPORTED
        if known:
            entry.valueType = pynvml.NVML_VALUE_TYPE_UNSIGNED_INT
            entry.value.uiVal = gpu.recovery_action
    return SUCCESS
