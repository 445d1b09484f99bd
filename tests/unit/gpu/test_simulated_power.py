"""Energy, power, temperature and utilisation of simulated GPUs, read through the unmodified pynvml."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pynvml
import pytest
from tessera.gpu.simulator import control
from tessera.gpu.simulator.library import SimulatedLibrary
from tessera.gpu.simulator.state import DamagedState


def device() -> Any:
    return pynvml.nvmlDeviceGetHandleByIndex(0)


def joules() -> float:
    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(device())) / 1000


def test_power_is_idle_power_and_a_share_for_each_busy_slice(node_directory: Path, mig_uuid: str) -> None:
    assert pynvml.nvmlDeviceGetPowerUsage(device()) == 84_000  # 12 % of 700 W
    control.occupy(node_directory, mig_uuid=mig_uuid, pid=os.getpid())
    assert pynvml.nvmlDeviceGetPowerUsage(device()) == 84_000 + 616_000 * 2 // 7


def test_a_process_that_is_half_busy_draws_half(node_directory: Path, mig_uuid: str) -> None:
    control.occupy(node_directory, mig_uuid=mig_uuid, pid=os.getpid(), busy=0.5)
    assert pynvml.nvmlDeviceGetPowerUsage(device()) == 84_000 + 616_000 // 7
    with pytest.raises(ValueError, match="say 0 to 1"):
        control.occupy(node_directory, mig_uuid=mig_uuid, pid=os.getpid(), busy=1.5)


def test_energy_is_the_integral_of_power(clock: Any, node_directory: Path, mig_uuid: str) -> None:
    assert joules() == 0
    clock.now += 100
    assert joules() == pytest.approx(8_400)
    control.occupy(node_directory, mig_uuid=mig_uuid, pid=os.getpid(), since=clock.now)
    clock.now += 10
    assert joules() == pytest.approx(8_400 + 2_600)


def test_energy_does_not_fall_when_a_process_ends(clock: Any, node_directory: Path, mig_uuid: str) -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        joules()
        control.occupy(node_directory, mig_uuid=mig_uuid, pid=process.pid, since=clock.now)
        clock.now += 10
        busy = joules()
    finally:
        process.kill()
        process.wait()
    assert busy == pytest.approx(2_600)
    assert joules() == busy
    clock.now += 10
    assert joules() == pytest.approx(busy + 840)


def test_energy_survives_a_restart_of_the_process_that_reads_it(bind: Any, clock: Any) -> None:
    bind().meters.clock = clock
    joules()
    clock.now += 100
    bind().meters.clock = clock  # another library object reads the same files
    assert joules() == pytest.approx(8_400)


def test_energy_starts_again_when_the_driver_is_loaded(
    node: SimulatedLibrary, clock: Any, node_directory: Path
) -> None:
    joules()
    clock.now += 100
    assert joules() > 0
    control.reload_driver(node_directory)
    assert joules() == 0


def test_energy_starts_again_on_another_board(bind: Any, clock: Any) -> None:
    for model in ("H100-80GB", "A100-80GB", "H100-80GB"):
        bind(model).meters.clock = clock
        assert joules() == 0
        clock.now += 100
        assert joules() > 0


def test_who_looked_just_before_the_driver_was_loaded_takes_no_energy_back(
    node: SimulatedLibrary, clock: Any, node_directory: Path
) -> None:
    joules()
    looked = node.read()
    control.reload_driver(node_directory)
    joules()
    clock.now += 100
    node.meters.read(looked, looked.gpus[0])
    assert joules() == pytest.approx(8_400)


def test_a_damaged_meter_file_is_named(node: SimulatedLibrary, node_directory: Path) -> None:
    (node_directory / "meters.json").write_text("{")
    with pytest.raises(DamagedState, match=r"meters\.json"):
        joules()


def test_temperature_rises_with_work_in_both_calls(
    node: SimulatedLibrary, clock: Any, node_directory: Path
) -> None:
    assert pynvml.nvmlDeviceGetTemperature(device(), pynvml.NVML_TEMPERATURE_GPU) == 30
    control.hold(node_directory, index=0, pid=os.getpid(), busy=1.0, since=clock.now)
    clock.now += 20
    warm = pynvml.nvmlDeviceGetTemperature(device(), pynvml.NVML_TEMPERATURE_GPU)
    assert warm == 55  # 70 - 39.6 / e
    assert pynvml.nvmlDeviceGetTemperatureV(device(), pynvml.NVML_TEMPERATURE_GPU) == warm
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetTemperature(device(), 1)


@pytest.mark.parametrize(("model", "watts"), [("A100-40GB", 400), ("H200-141GB", 700), ("A30-24GB", 165)])
def test_the_power_limits_are_the_boards(bind: Any, model: str, watts: int) -> None:
    bind(model)
    assert pynvml.nvmlDeviceGetPowerManagementLimit(device()) == watts * 1000
    assert pynvml.nvmlDeviceGetPowerManagementDefaultLimit(device()) == watts * 1000
    assert pynvml.nvmlDeviceGetEnforcedPowerLimit(device()) == watts * 1000


def test_utilisation_is_read_without_mig_and_refused_under_it(
    node: SimulatedLibrary, node_directory: Path
) -> None:
    assert pynvml.nvmlDeviceGetUtilizationRates(device()).gpu == 0
    process = subprocess.Popen(["sleep", "60"])
    try:
        control.hold(node_directory, index=0, pid=process.pid, busy=0.75)
        assert pynvml.nvmlDeviceGetUtilizationRates(device()).gpu == 75
    finally:
        process.kill()
        process.wait()
    assert pynvml.nvmlDeviceGetUtilizationRates(device()).gpu == 0
    pynvml.nvmlDeviceSetMigMode(device(), 1)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetUtilizationRates(device())


@pytest.mark.parametrize(
    "read",
    [
        pynvml.nvmlDeviceGetTotalEnergyConsumption,
        pynvml.nvmlDeviceGetPowerUsage,
        pynvml.nvmlDeviceGetEnforcedPowerLimit,
        lambda handle: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        pynvml.nvmlDeviceGetUtilizationRates,
    ],
)
def test_a_mig_device_has_no_energy_power_temperature_or_utilisation(mig_uuid: str, read: Any) -> None:
    with pytest.raises(pynvml.NVMLError_NotSupported):
        read(pynvml.nvmlDeviceGetHandleByUUID(mig_uuid))
