"""NVML symbols about GPM, the performance counters of Hopper and newer (names and arguments: nvml.h).

A caller allocates two samples, reads each at its time from a GPU or from one GPU instance, and asks for
metrics over the time between. A sample is a copy of the meter (`metering.py`); it belongs to the process. A
compute instance narrower than its GPU instance cannot fill it: 1 of 2 slices is at most 50 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pynvml

from tessera.gpu.profiles import board
from tessera.gpu.simulator import rules
from tessera.gpu.simulator.memory import Kind, handle, number, put_handle, put_struct, read_handle, target
from tessera.gpu.simulator.metering import ACTIVITY_WHILE_BUSY
from tessera.gpu.simulator.registry import Library, Missing, find_gpu, symbol
from tessera.gpu.simulator.rules import INVALID_ARGUMENT, NOT_FOUND, NOT_SUPPORTED, SUCCESS, VERSION_MISMATCH
from tessera.gpu.simulator.state import Instance, Node, SimulatedGPU

_WITHOUT = ("ampere", "ada")
_METRICS = {
    pynvml.NVML_GPM_METRIC_GRAPHICS_UTIL: "engine",
    pynvml.NVML_GPM_METRIC_SM_UTIL: "multiprocessors",
    pynvml.NVML_GPM_METRIC_SM_OCCUPANCY: "occupancy",
    pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL: "dram_bandwidth",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """Busy seconds of a GPU (`instance` 0) or of one of its GPU instances, at one moment.

    `share` is its part of the GPU's compute slices: the busy seconds that it can have in a second.
    """

    gpu: int
    instance: int
    at: float
    busy_s: float
    share: float


def _supported(gpu: SimulatedGPU) -> bool:
    return board(gpu.model).architecture not in _WITHOUT


def _known(library: Library, argument: Any) -> int:
    kind, serial = read_handle(argument)
    if kind != Kind.GPM_SAMPLE or serial not in library.gpm_samples:
        raise Missing
    return serial


@symbol
def nvmlGpmQueryDeviceSupport(library: Library, device: Any, support: Any) -> int:
    gpu = find_gpu(library.read(), device)
    if target(support).version != pynvml.NVML_GPM_SUPPORT_VERSION:
        return VERSION_MISMATCH
    put_struct(support, isSupportedDevice=int(_supported(gpu)))
    return SUCCESS


@symbol
def nvmlGpmSampleAlloc(library: Library, sample: Any) -> int:
    serial = max(library.gpm_samples, default=0) + 1
    library.gpm_samples[serial] = None
    put_handle(sample, handle(Kind.GPM_SAMPLE, serial))
    return SUCCESS


@symbol
def nvmlGpmSampleFree(library: Library, sample: Any) -> int:
    del library.gpm_samples[_known(library, sample)]
    return SUCCESS


@symbol
def nvmlGpmSampleGet(library: Library, device: Any, sample: Any) -> int:
    node = library.read()
    return _take(library, node, find_gpu(node, device), None, sample)


@symbol
def nvmlGpmMigSampleGet(library: Library, device: Any, instance_id: Any, sample: Any) -> int:
    node = library.read()
    gpu = find_gpu(node, device)
    for instance in gpu.instances:
        if instance.id == number(instance_id):
            return _take(library, node, gpu, instance, sample)
    return NOT_FOUND


def _take(library: Library, node: Node, gpu: SimulatedGPU, instance: Instance | None, sample: Any) -> int:
    if not _supported(gpu):
        return NOT_SUPPORTED
    known = _known(library, sample)
    meter = library.meters.read(node, gpu)
    serial, share = 0, 1.0
    if instance is not None:
        table = rules.geometry(gpu)
        serial = instance.serial
        share = table.profile_by_id(instance.profile_id).compute_slices / table.compute_slices
    library.gpm_samples[known] = Sample(gpu.serial, serial, meter.at, meter.busy_s.get(serial, 0.0), share)
    return SUCCESS


@symbol
def nvmlGpmMetricsGet(library: Library, request: Any) -> int:
    """Percent of each metric; one that is not simulated has NOT_SUPPORTED as its own return code."""
    wanted = target(request)
    if wanted.version != pynvml.NVML_GPM_METRICS_GET_VERSION:
        return VERSION_MISMATCH
    first = library.gpm_samples[_known(library, wanted.sample1)]
    second = library.gpm_samples[_known(library, wanted.sample2)]
    if first is None or second is None or second.at <= first.at:
        return INVALID_ARGUMENT
    if (first.gpu, first.instance) != (second.gpu, second.instance) or second.busy_s < first.busy_s:
        return INVALID_ARGUMENT  # of different things, or the driver was loaded again in between
    busy = (second.busy_s - first.busy_s) / (second.at - first.at) / second.share
    for metric in wanted.metrics[: wanted.numMetrics]:
        name = _METRICS.get(metric.metricId)
        metric.nvmlReturn = NOT_SUPPORTED if name is None else SUCCESS
        metric.value = 0.0 if name is None else 100 * busy * ACTIVITY_WHILE_BUSY[name]
    return SUCCESS
