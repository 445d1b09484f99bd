"""The calls that MIG tools make, all answered: mig-parted, device plugin, DRA driver, exporter."""

from __future__ import annotations

import ctypes
from typing import Any

import pynvml
import pytest
from tessera.gpu.simulator.library import SimulatedLibrary

CONSUMERS = {
    "pynvml": "nvmlInitWithFlags nvmlShutdown nvmlErrorString nvmlSystemGetDriverVersion "
    "nvmlSystemGetNVMLVersion nvmlSystemGetCudaDriverVersion_v2",
    "mig-parted": "nvmlDeviceGetCount_v2 nvmlDeviceGetHandleByIndex_v2 nvmlDeviceGetHandleByUUID "
    "nvmlDeviceGetHandleByPciBusId_v2 nvmlDeviceGetPciInfo_v3 nvmlDeviceGetUUID nvmlDeviceGetIndex "
    "nvmlDeviceGetMemoryInfo nvmlDeviceGetMigMode nvmlDeviceSetMigMode nvmlDeviceGetGpuInstanceProfileInfo "
    "nvmlDeviceGetGpuInstances nvmlDeviceCreateGpuInstance nvmlDeviceCreateGpuInstanceWithPlacement "
    "nvmlGpuInstanceGetInfo nvmlGpuInstanceDestroy nvmlGpuInstanceGetComputeInstanceProfileInfo "
    "nvmlGpuInstanceGetComputeInstances nvmlGpuInstanceCreateComputeInstance nvmlComputeInstanceGetInfo_v2 "
    "nvmlComputeInstanceDestroy",
    "device plugin": "nvmlDeviceGetName nvmlDeviceGetBrand nvmlDeviceGetArchitecture "
    "nvmlDeviceGetCudaComputeCapability nvmlDeviceGetMinorNumber nvmlDeviceGetMaxMigDeviceCount "
    "nvmlDeviceGetMigDeviceHandleByIndex nvmlDeviceGetDeviceHandleFromMigDeviceHandle "
    "nvmlDeviceGetGpuInstanceId nvmlDeviceGetComputeInstanceId nvmlDeviceGetAttributes_v2 "
    "nvmlDeviceIsMigDeviceHandle nvmlDeviceGetAddressingMode nvmlDeviceGetGpuFabricInfo "
    "nvmlDeviceGetGpuFabricInfoV nvmlEventSetCreate nvmlEventSetWait_v2 nvmlEventSetFree "
    "nvmlDeviceRegisterEvents nvmlDeviceGetSupportedEventTypes",
    "DRA driver": "nvmlDeviceGetGpuInstancePossiblePlacements_v2 nvmlDeviceGetGpuInstanceById "
    "nvmlGpuInstanceGetComputeInstanceById nvmlDeviceGetVirtualizationMode nvmlDeviceGetModuleId",
    "dcgm-exporter": "nvmlDeviceGetComputeRunningProcesses_v3 nvmlDeviceGetProcessUtilization",
    "benchmark": "nvmlDeviceGetTotalEnergyConsumption nvmlDeviceGetPowerUsage "
    "nvmlDeviceGetEnforcedPowerLimit nvmlDeviceGetTemperature nvmlDeviceGetUtilizationRates "
    "nvmlGpmQueryDeviceSupport nvmlGpmSampleAlloc nvmlGpmSampleGet nvmlGpmMigSampleGet nvmlGpmMetricsGet "
    "nvmlGpmSampleFree",
    "tessera": "nvmlDeviceGetGpuInstanceProfileInfoV nvmlDeviceGetGpuInstanceProfileInfoByIdV "
    "nvmlDeviceGetGpuInstanceRemainingCapacity nvmlGpuInstanceGetComputeInstanceProfileInfoV",
}


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_every_call_of_a_consumer_exists(bind: Any, consumer: str) -> None:
    library: SimulatedLibrary = bind()
    missing = [symbol for symbol in CONSUMERS[consumer].split() if not hasattr(library, symbol)]
    assert missing == []


def test_a_gpu_is_found_by_its_pci_bus_id_in_both_forms(bind: Any) -> None:
    bind(count=2)
    second = pynvml.nvmlDeviceGetHandleByIndex(1)
    pci = pynvml.nvmlDeviceGetPciInfo(second)
    for bus_id in (pci.busId, pci.busIdLegacy, "0000:29:00.0"):
        found = pynvml.nvmlDeviceGetHandleByPciBusId(bus_id)
        assert pynvml.nvmlDeviceGetUUID(found) == pynvml.nvmlDeviceGetUUID(second)
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetHandleByPciBusId("0000:FF:00.0")


@pytest.mark.parametrize(
    ("model", "brand", "addressing"),
    [
        ("H100-80GB", pynvml.NVML_BRAND_NVIDIA, pynvml.NVML_DEVICE_ADDRESSING_MODE_NONE),
        ("GH200-96GB", pynvml.NVML_BRAND_NVIDIA, pynvml.NVML_DEVICE_ADDRESSING_MODE_ATS),
        ("RTXPRO6000-96GB", pynvml.NVML_BRAND_NVIDIA_RTX, pynvml.NVML_DEVICE_ADDRESSING_MODE_NONE),
    ],
)
def test_brand_and_addressing_mode_are_the_boards(bind: Any, model: str, brand: int, addressing: int) -> None:
    bind(model)
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    assert pynvml.nvmlDeviceGetBrand(gpu) == brand
    assert pynvml.nvmlDeviceGetAddressingMode(gpu) == addressing
    assert pynvml.nvmlDeviceGetModuleId(gpu) == 0


def test_no_fabric_is_there_and_an_unknown_struct_version_is_refused(gpu: Any) -> None:
    info = pynvml.c_nvmlGpuFabricInfo_v3_t()
    info.state = 9
    pynvml.nvmlDeviceGetGpuFabricInfoV(gpu, ctypes.byref(info))
    assert info.state == pynvml.NVML_GPU_FABRIC_STATE_NOT_SUPPORTED
    info.version = 0
    with pytest.raises(pynvml.NVMLError) as raised:
        pynvml.nvmlDeviceGetGpuFabricInfoV(gpu, ctypes.byref(info))
    assert raised.value.value == pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH


def test_the_utilization_of_processes_is_not_available_under_mig(gpu: Any) -> None:
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetProcessUtilization(gpu, 0)
    pynvml.nvmlDeviceSetMigMode(gpu, 0)
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetProcessUtilization(gpu, 0)
