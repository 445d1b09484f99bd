"""GPM counters of simulated GPUs through the unmodified pynvml: two samples, and the metrics between."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml
import pytest
from tessera.gpu.simulator import control
from tessera.gpu.simulator.library import SimulatedLibrary
from unit.gpu.mig_calls import create_compute, create_two, uuid_of

SM = pynvml.NVML_GPM_METRIC_SM_UTIL
OCCUPANCY = pynvml.NVML_GPM_METRIC_SM_OCCUPANCY
DRAM = pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL


def device() -> Any:
    return pynvml.nvmlDeviceGetHandleByIndex(0)


def instance_id(mig_uuid: str) -> int:
    return int(pynvml.nvmlDeviceGetGpuInstanceId(pynvml.nvmlDeviceGetHandleByUUID(mig_uuid)))


def whole() -> Any:
    return pynvml.nvmlGpmSampleGet(device(), pynvml.nvmlGpmSampleAlloc())


def of_instance(mig_uuid: str) -> Callable[[], Any]:
    number = instance_id(mig_uuid)
    return lambda: pynvml.nvmlGpmMigSampleGet(device(), number, pynvml.nvmlGpmSampleAlloc())


def ask(first: Any, second: Any, *metrics: int) -> Any:
    request = pynvml.c_nvmlGpmMetricsGet_t()
    request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
    request.numMetrics = len(metrics)
    for position, metric in enumerate(metrics):
        request.metrics[position].metricId = metric
    request.sample1, request.sample2 = first, second
    return pynvml.nvmlGpmMetricsGet(request)


def percents(clock: Any, take: Callable[[], Any], *metrics: int) -> list[float]:
    """The metrics over ten seconds."""
    first = take()
    clock.now += 10
    answer = ask(first, take(), *metrics)
    assert [answer.metrics[at].nvmlReturn for at in range(len(metrics))] == [0] * len(metrics)
    return [float(answer.metrics[at].value) for at in range(len(metrics))]


def test_an_idle_gpu_has_no_activity(node: SimulatedLibrary, clock: Any) -> None:
    assert percents(clock, whole, SM, OCCUPANCY, DRAM) == [0, 0, 0]


def test_a_busy_gpu_instance_is_busy_and_the_gpu_by_its_share(
    node_directory: Path, mig_uuid: str, clock: Any
) -> None:
    control.occupy(node_directory, mig_uuid=mig_uuid, pid=os.getpid(), since=clock.now)
    assert percents(clock, of_instance(mig_uuid), SM, OCCUPANCY, DRAM) == pytest.approx([100, 50, 50])
    assert percents(clock, whole, SM) == pytest.approx([200 / 7])


def test_a_process_that_began_between_the_samples_counts_for_its_time(
    node_directory: Path, mig_uuid: str, clock: Any
) -> None:
    take = of_instance(mig_uuid)
    first = take()
    control.occupy(node_directory, mig_uuid=mig_uuid, pid=os.getpid(), since=clock.now + 5)
    clock.now += 10
    assert ask(first, take(), SM).metrics[0].value == pytest.approx(50)


def test_a_narrow_compute_instance_cannot_fill_its_gpu_instance(
    node: SimulatedLibrary, node_directory: Path, clock: Any
) -> None:
    pynvml.nvmlDeviceSetMigMode(device(), 1)
    mig_uuid = uuid_of(create_compute(create_two(device()), enum=0))  # 1c of 2g
    control.occupy(node_directory, mig_uuid=mig_uuid, pid=os.getpid(), since=clock.now)
    assert percents(clock, of_instance(mig_uuid), SM) == pytest.approx([50])


def test_a_metric_that_is_not_simulated_says_so_by_itself(node: SimulatedLibrary, clock: Any) -> None:
    first = whole()
    clock.now += 1
    answer = ask(first, whole(), pynvml.NVML_GPM_METRIC_PCIE_TX_PER_SEC, SM)
    assert [answer.metrics[at].nvmlReturn for at in (0, 1)] == [pynvml.NVML_ERROR_NOT_SUPPORTED, 0]


def test_samples_that_do_not_belong_together_are_refused(mig_uuid: str, clock: Any) -> None:
    first, other = whole(), of_instance(mig_uuid)()
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        ask(first, whole(), SM)  # no time between
    clock.now += 1
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        ask(other, whole(), SM)  # an instance and the whole GPU
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        ask(first, pynvml.nvmlGpmSampleAlloc(), SM)  # never read
    last = whole()
    pynvml.nvmlGpmSampleFree(last)
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        ask(first, last, SM)  # freed


def test_samples_from_before_and_after_the_driver_was_loaded_are_refused(
    node: SimulatedLibrary, node_directory: Path, clock: Any
) -> None:
    whole()
    control.hold(node_directory, index=0, pid=os.getpid(), busy=1.0, since=clock.now)
    clock.now += 10
    first = whole()
    control.reboot(node_directory)
    clock.now += 10
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        ask(first, whole(), SM)


def test_an_instance_that_is_not_there_is_not_found(mig_uuid: str) -> None:
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlGpmMigSampleGet(device(), instance_id(mig_uuid) + 1, pynvml.nvmlGpmSampleAlloc())


@pytest.mark.parametrize(("model", "supported"), [("A100-80GB", 0), ("H200-141GB", 1), ("B200-180GB", 1)])
def test_hopper_and_newer_have_gpm(bind: Any, model: str, supported: int) -> None:
    bind(model)
    assert pynvml.nvmlGpmQueryDeviceSupport(device()).isSupportedDevice == supported
    if not supported:
        with pytest.raises(pynvml.NVMLError_NotSupported):
            whole()
