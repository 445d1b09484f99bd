"""The simulated driver's slow calls: as long as a real one's, one at a time, and off unless asked for."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

import pynvml
import pytest
from tessera.gpu.simulator.latency import ENVIRONMENT, TYPICAL, Latency, from_environment
from unit.gpu.mig_calls import create_compute, create_two


@pytest.fixture
def slow(bind: Any, node_directory: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the driver was busy, call by call, with a GPU in MIG mode; nothing really waits."""
    busy: list[float] = []
    library = bind()
    pynvml.nvmlDeviceSetMigMode(pynvml.nvmlDeviceGetHandleByIndex(0), 1)
    monkeypatch.setenv(ENVIRONMENT, "typical")
    library.latency = Latency(node_directory, sleep=busy.append)
    return busy


def test_making_a_slice_and_ending_it_take_their_time(slow: list[float]) -> None:
    instance = create_two(pynvml.nvmlDeviceGetHandleByIndex(0), 0)
    compute = create_compute(instance)
    assert sum(slow) == pytest.approx(0.25)  # MIGBench
    slow.clear()
    pynvml.nvmlComputeInstanceDestroy(compute)
    pynvml.nvmlGpuInstanceDestroy(instance)
    assert slow == [0.1, 1.0]  # MIGBench; the DRA driver's comments


def test_a_look_up_by_uuid_walks_over_all_mig_devices_but_not_for_a_gpu(slow: list[float]) -> None:
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    devices = [
        pynvml.nvmlComputeInstanceGetInfo_v2(create_compute(create_two(gpu, s))).device for s in (0, 2, 4)
    ]
    slow.clear()
    pynvml.nvmlDeviceGetHandleByUUID(pynvml.nvmlDeviceGetUUID(devices[0]))
    assert slow == [pytest.approx(3 * TYPICAL["nvmlDeviceGetHandleByUUID"])]
    pynvml.nvmlDeviceGetHandleByUUID(pynvml.nvmlDeviceGetUUID(gpu))
    assert len(slow) == 1


def test_the_driver_does_one_slow_call_at_a_time_for_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []

    def other_process_tries(_: float) -> None:
        with (tmp_path / "driver.lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(True)

    monkeypatch.setenv(ENVIRONMENT, "typical")
    latency = Latency(tmp_path, sleep=other_process_tries)
    latency.spend("nvmlGpuInstanceDestroy", mig_devices=lambda: 0)
    assert held == [True]
    with (tmp_path / "driver.lock").open() as lock:  # and free afterwards
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_times_are_off_unless_the_environment_asks_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    assert from_environment() == {}
    monkeypatch.setenv(ENVIRONMENT, '{"nvmlGpuInstanceDestroy": 2.5}')
    assert from_environment() == {"nvmlGpuInstanceDestroy": 2.5}


@pytest.mark.parametrize("text", ["fast", "[1]", '{"f": "x"}', '{"f": -1}'])
def test_times_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(ENVIRONMENT, text)
    with pytest.raises(ValueError, match=ENVIRONMENT):
        from_environment()
