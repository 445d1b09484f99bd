"""Xid errors reach those who wait for them, with the ids of the slice that they concern."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pynvml
import pytest
from tessera.gpu.simulator import control
from unit.gpu.mig_calls import create_compute, create_two

XID = pynvml.nvmlEventTypeXidCriticalError
WHOLE_GPU = 0xFFFFFFFF


@pytest.fixture
def events(gpu: Any) -> Any:
    """An event set that has the GPU's Xid errors."""
    assert pynvml.nvmlDeviceGetSupportedEventTypes(gpu) & XID
    event_set = pynvml.nvmlEventSetCreate()
    pynvml.nvmlDeviceRegisterEvents(gpu, XID, event_set)
    return event_set


def wait(events: Any) -> tuple[int, int, int]:
    data = pynvml.nvmlEventSetWait_v2(events, 0)
    assert data.eventType == XID
    return data.eventData, data.gpuInstanceId, data.computeInstanceId


def test_an_xid_of_a_slice_carries_its_gpu_instance_and_compute_instance(
    gpu: Any, events: Any, node_directory: Path
) -> None:
    instance = create_two(gpu, 2)
    create_compute(instance, enum=0)
    second = create_compute(instance, enum=0)
    info = pynvml.nvmlComputeInstanceGetInfo_v2(second)
    control.report_xid(node_directory, index=0, xid=13, mig_uuid=pynvml.nvmlDeviceGetUUID(info.device))
    assert (
        wait(events) == (13, pynvml.nvmlGpuInstanceGetInfo(instance).id, info.id) == (13, *_ids(info.device))
    )
    assert info.id == 1


def _ids(mig: Any) -> tuple[int, int]:
    return pynvml.nvmlDeviceGetGpuInstanceId(mig), pynvml.nvmlDeviceGetComputeInstanceId(mig)


def test_an_xid_of_the_whole_gpu_names_the_gpu_and_no_instance(
    gpu: Any, events: Any, node_directory: Path
) -> None:
    control.report_xid(node_directory, index=0, xid=48)
    data = pynvml.nvmlEventSetWait_v2(events, 0)
    assert (data.eventData, data.gpuInstanceId, data.computeInstanceId) == (48, WHOLE_GPU, WHOLE_GPU)
    assert pynvml.nvmlDeviceGetUUID(data.device) == pynvml.nvmlDeviceGetUUID(gpu)


def test_each_event_is_delivered_once_in_order_and_then_the_wait_times_out(
    events: Any, node_directory: Path
) -> None:
    for xid in (31, 43):
        control.report_xid(node_directory, index=0, xid=xid)
    assert [wait(events)[0], wait(events)[0]] == [31, 43]
    with pytest.raises(pynvml.NVMLError_Timeout):
        wait(events)


def test_events_before_the_registration_and_of_other_gpus_are_not_delivered(
    bind: Any, node_directory: Path
) -> None:
    bind(count=2)
    control.report_xid(node_directory, index=0, xid=31)
    event_set = pynvml.nvmlEventSetCreate()
    pynvml.nvmlDeviceRegisterEvents(pynvml.nvmlDeviceGetHandleByIndex(0), XID, event_set)
    control.report_xid(node_directory, index=1, xid=43)
    with pytest.raises(pynvml.NVMLError_Timeout):
        wait(event_set)


def test_a_gpu_that_falls_off_the_bus_reports_xid_79_and_then_is_lost(
    events: Any, node_directory: Path
) -> None:
    control.lose(node_directory, index=0)
    assert wait(events) == (79, WHOLE_GPU, WHOLE_GPU)
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        wait(events)


def test_a_freed_event_set_is_an_invalid_argument(events: Any) -> None:
    pynvml.nvmlEventSetFree(events)
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        wait(events)


def test_other_event_types_are_not_supported(gpu: Any, events: Any) -> None:
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceRegisterEvents(gpu, pynvml.nvmlEventTypeClock, events)


def test_an_xid_of_a_mig_device_that_is_not_there_is_refused(gpu: Any, node_directory: Path) -> None:
    with pytest.raises(LookupError, match="no MIG device MIG-x on GPU 0"):
        control.report_xid(node_directory, index=0, xid=13, mig_uuid="MIG-x")
