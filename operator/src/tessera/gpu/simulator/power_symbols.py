"""NVML symbols about energy, power and temperature (names, units and order of arguments: nvml.h).

They exist for a GPU as a whole only: no driver knows them of a MIG device.
"""

from __future__ import annotations

from typing import Any

import pynvml

from tessera.gpu.profiles import board
from tessera.gpu.simulator.memory import number, put, target
from tessera.gpu.simulator.metering import business, power_w
from tessera.gpu.simulator.meters import loads
from tessera.gpu.simulator.registry import Library, find_gpu, is_mig_device, symbol
from tessera.gpu.simulator.rules import INVALID_ARGUMENT, NOT_SUPPORTED, SUCCESS, VERSION_MISMATCH


@symbol
def nvmlDeviceGetTotalEnergyConsumption(library: Library, device: Any, millijoules: Any) -> int:
    """Since the driver was loaded; never falls."""
    if is_mig_device(device):
        return NOT_SUPPORTED
    node = library.read()
    put(millijoules, int(library.meters.read(node, find_gpu(node, device)).energy_j * 1000))
    return SUCCESS


@symbol
def nvmlDeviceGetPowerUsage(library: Library, device: Any, milliwatts: Any) -> int:
    if is_mig_device(device):
        return NOT_SUPPORTED
    gpu = find_gpu(library.read(), device)
    put(milliwatts, round(power_w(board(gpu.model).power_limit_w, business(loads(gpu))[0]) * 1000))
    return SUCCESS


@symbol
def nvmlDeviceGetPowerManagementLimit(library: Library, device: Any, milliwatts: Any) -> int:
    if is_mig_device(device):
        return NOT_SUPPORTED
    put(milliwatts, board(find_gpu(library.read(), device).model).power_limit_w * 1000)
    return SUCCESS


@symbol
def nvmlDeviceGetPowerManagementDefaultLimit(library: Library, device: Any, milliwatts: Any) -> int:
    return int(nvmlDeviceGetPowerManagementLimit(library, device, milliwatts))


@symbol
def nvmlDeviceGetEnforcedPowerLimit(library: Library, device: Any, milliwatts: Any) -> int:
    return int(nvmlDeviceGetPowerManagementLimit(library, device, milliwatts))


def _temperature_c(library: Library, device: Any) -> int:
    node = library.read()
    return round(library.meters.read(node, find_gpu(node, device)).temperature_c)


@symbol
def nvmlDeviceGetTemperature(library: Library, device: Any, sensor: Any, celsius: Any) -> int:
    if is_mig_device(device):
        return NOT_SUPPORTED
    if number(sensor) != pynvml.NVML_TEMPERATURE_GPU:
        return INVALID_ARGUMENT
    put(celsius, _temperature_c(library, device))
    return SUCCESS


@symbol
def nvmlDeviceGetTemperatureV(library: Library, device: Any, reading: Any) -> int:
    if is_mig_device(device):
        return NOT_SUPPORTED
    struct = target(reading)
    if struct.version != pynvml.nvmlTemperature_v1:
        return VERSION_MISMATCH
    if struct.sensorType != pynvml.NVML_TEMPERATURE_GPU:
        return INVALID_ARGUMENT
    struct.temperature = _temperature_c(library, device)
    return SUCCESS
