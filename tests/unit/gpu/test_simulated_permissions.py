"""Who may do what at the simulated driver: root, mig/config, mig/monitor, and neither."""

from __future__ import annotations

import ctypes
from typing import Any

import pynvml
import pytest
from tessera.gpu.simulator.library import SimulatedLibrary
from tessera.gpu.simulator.privileges import ENVIRONMENT, Privilege, from_environment
from unit.gpu.mig_calls import create_compute, create_two


@pytest.fixture
def library(bind: Any) -> SimulatedLibrary:
    simulated: SimulatedLibrary = bind()
    return simulated


@pytest.fixture
def gpu(library: SimulatedLibrary) -> Any:
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    pynvml.nvmlDeviceSetMigMode(handle, 1)
    return handle


def test_only_root_switches_mig_mode(library: SimulatedLibrary, gpu: Any) -> None:
    library.privilege = Privilege.CONFIG
    with pytest.raises(pynvml.NVMLError_NoPermission):
        pynvml.nvmlDeviceSetMigMode(gpu, 0)
    assert pynvml.nvmlDeviceGetMigMode(gpu) == [1, 1]


def test_with_mig_config_instances_come_and_go_without_root(library: SimulatedLibrary, gpu: Any) -> None:
    library.privilege = Privilege.CONFIG
    instance = create_two(gpu, 0)
    pynvml.nvmlComputeInstanceDestroy(create_compute(instance))
    pynvml.nvmlGpuInstanceDestroy(instance)


def test_without_mig_config_every_change_is_no_permission_and_changes_nothing(
    library: SimulatedLibrary, gpu: Any
) -> None:
    instance, other = create_two(gpu, 0), create_two(gpu, 2)
    compute = create_compute(instance)
    before = library.read()
    library.privilege = Privilege.MONITOR
    for change, arguments in (
        (create_two, (gpu, 4)),
        (pynvml.nvmlDeviceCreateGpuInstance, (gpu, 14)),
        (create_compute, (other,)),
        (pynvml.nvmlComputeInstanceDestroy, (compute,)),
        (pynvml.nvmlGpuInstanceDestroy, (other,)),
    ):
        with pytest.raises(pynvml.NVMLError_NoPermission):
            change(*arguments)
    assert library.read() == before
    assert pynvml.nvmlGpuInstanceGetInfo(pynvml.nvmlDeviceGetGpuInstanceById(gpu, _id(other))).id == _id(
        other
    )


def _id(instance: Any) -> int:
    return int(pynvml.nvmlGpuInstanceGetInfo(instance).id)


def test_without_any_capability_instances_cannot_be_looked_at_but_the_board_can(
    library: SimulatedLibrary, gpu: Any
) -> None:
    library.privilege = Privilege.NONE
    count = ctypes.c_uint(0)
    for look, arguments in (
        (pynvml.nvmlDeviceGetGpuInstancePossiblePlacements, (gpu, 14, None, ctypes.byref(count))),
        (pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity, (gpu, 14)),
        (pynvml.nvmlDeviceGetGpuInstances, (gpu, 14, (pynvml.c_nvmlGpuInstance_t * 7)(), count)),
        (pynvml.nvmlDeviceGetGpuInstanceById, (gpu, 1)),
    ):
        with pytest.raises(pynvml.NVMLError_NoPermission):
            look(*arguments)
    assert pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, 1).id == 14
    assert pynvml.nvmlDeviceGetMigMode(gpu) == [1, 1]


def test_the_environment_says_what_a_process_may_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    assert from_environment() == Privilege.ROOT
    monkeypatch.setenv(ENVIRONMENT, "monitor")
    assert from_environment() == Privilege.MONITOR
    monkeypatch.setenv(ENVIRONMENT, "king")
    with pytest.raises(
        ValueError, match=r"'king' is not a privilege; use one of none, monitor, config, root"
    ):
        from_environment()
