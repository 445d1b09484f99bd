"""NVML in a child process: a hung call, a dead child, a missing driver; the caller lives on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tessera.gpu.faults import CHILD_DIED, HANG, SIMULATOR_UNUSABLE, NVMLFault
from tessera.gpu.nvml import NVML
from tessera.gpu.nvml_process import NVMLProcess, Simulation
from tessera.gpu.simulator.faults import Fault, FaultInjector

COUNT = "nvmlDeviceGetCount_v2"


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[NVMLProcess]:
    process = NVMLProcess(Simulation(state_dir=str(tmp_path)), timeout_seconds=20, pause_seconds=0)
    yield process
    await process.close()


async def test_answers_cross_the_process_boundary(driver: NVMLProcess) -> None:
    inventory = await driver.inventory()
    assert [gpu.product for gpu in inventory.gpus] == ["NVIDIA H100 80GB HBM3"] * 2
    gpu = inventory.gpus[0]
    assert gpu.model is not None
    assert len(gpu.model.placements()) == 25
    await driver.set_mig_mode(gpu.uuid, True)
    instance = await driver.create_gpu_instance(gpu.uuid, profile_id=14, start=2, size=2)
    compute = await driver.create_compute_instance(gpu.uuid, gpu_instance_id=instance)
    (found,) = await driver.instances(gpu.uuid)
    assert found.compute == (compute,)


async def test_errors_cross_it_too(driver: NVMLProcess) -> None:
    gpu = (await driver.inventory()).gpus[0]
    with pytest.raises(NVMLFault) as raised:
        await driver.create_gpu_instance(gpu.uuid, profile_id=14, start=2, size=2)
    assert raised.value.symbol == "NOT_SUPPORTED"
    assert raised.value.call == "nvmlDeviceCreateGpuInstanceWithPlacement"
    assert gpu.uuid in str(raised.value)


async def test_a_hung_call_is_cut_off_and_the_next_one_works(driver: NVMLProcess, tmp_path: Path) -> None:
    await driver.inventory()
    FaultInjector(tmp_path).set([Fault(COUNT, action="hang", seconds=3600)])
    driver.timeout_seconds = 0.5
    with pytest.raises(NVMLFault) as raised:
        await driver.inventory()
    assert raised.value.code == HANG
    driver.timeout_seconds = 20
    assert len((await driver.inventory()).gpus) == 2


async def test_after_a_hang_calls_fail_at_once_for_a_while(tmp_path: Path) -> None:
    driver = NVMLProcess(Simulation(state_dir=str(tmp_path)), timeout_seconds=20, pause_seconds=3600)
    await driver.inventory()
    FaultInjector(tmp_path).set([Fault(COUNT, action="hang", seconds=3600)])
    driver.timeout_seconds = 0.5
    with pytest.raises(NVMLFault, match="did not answer in time"):
        await driver.inventory()
    with pytest.raises(NVMLFault, match="paused after an earlier hang"):
        await driver.inventory()
    await driver.close()


async def test_a_dead_child_is_a_fault_and_is_replaced(driver: NVMLProcess, tmp_path: Path) -> None:
    await driver.inventory()
    FaultInjector(tmp_path).set([Fault(COUNT, action="exit")])
    with pytest.raises(NVMLFault) as raised:
        await driver.inventory()
    assert raised.value.code == CHILD_DIED
    assert len((await driver.inventory()).gpus) == 2


async def test_a_damaged_simulator_names_its_file_and_heals_when_it_is_deleted(
    driver: NVMLProcess, tmp_path: Path
) -> None:
    await driver.inventory()
    (tmp_path / "gpus.json").write_text("{")
    for _ in range(2):
        with pytest.raises(NVMLFault, match=r"gpus\.json is not JSON .*; delete the file") as raised:
            await driver.inventory()
        assert raised.value.code == SIMULATOR_UNUSABLE
    (tmp_path / "gpus.json").unlink()
    assert len((await driver.inventory()).gpus) == 2


@pytest.mark.parametrize(
    ("model", "count", "said"),
    [
        ("Z9", 2, "GPU model 'Z9' is not in the profile table; nearest: "),
        ("H100-80GB", -1, "--simulate-count -1 is not 0..64"),
        ("H100-80GB", 65, "--simulate-count 65 is not 0..64"),
    ],
)
async def test_a_simulation_that_cannot_be_is_a_fault_that_says_why(
    tmp_path: Path, model: str, count: int, said: str
) -> None:
    driver = NVMLProcess(Simulation(state_dir=str(tmp_path), model=model, count=count))
    with pytest.raises(NVMLFault) as raised:
        await driver.inventory()
    assert said in str(raised.value)
    await driver.close()


async def test_no_simulated_gpus_is_an_empty_inventory(tmp_path: Path) -> None:
    driver = NVMLProcess(Simulation(state_dir=str(tmp_path), count=0))
    assert (await driver.inventory()).gpus == ()
    await driver.close()


async def test_a_machine_without_a_driver_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("pynvml.CDLL", refuse)
    with pytest.raises(
        NVMLFault, match=r"libnvidia-ml\.so\.1 was not found; remedy: install the NVIDIA driver"
    ):
        NVML().inventory()
