"""The simulated node's state: shared by processes, safe against kill -9, and failures on demand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tessera.gpu.driver import LocalDriver
from tessera.gpu.faults import NVMLFault
from tessera.gpu.nvml import NVML
from tessera.gpu.simulator.faults import ENVIRONMENT, Fault, FaultInjector, parse
from tessera.gpu.simulator.library import SimulatedLibrary
from tessera.gpu.simulator.state import DamagedState, StateFile

CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"


def library(directory: Path, count: int = 1) -> SimulatedLibrary:
    return SimulatedLibrary.at(directory, model="H100-80GB", count=count, seed="node")


def enabled(directory: Path) -> tuple[NVML, str, SimulatedLibrary]:
    simulated = library(directory)
    nvml = NVML(simulated)
    uuid = nvml.inventory().gpus[0].uuid
    nvml.set_mig_mode(uuid, True)
    return nvml, uuid, simulated


def in_another_process(directory: Path, code: str) -> subprocess.CompletedProcess[str]:
    script = f"""
from pathlib import Path
from tessera.gpu.nvml import NVML
from tessera.gpu.simulator.library import SimulatedLibrary
nvml = NVML(SimulatedLibrary.at(Path({str(directory)!r}), model="H100-80GB", count=1, seed="node"))
gpu = nvml.inventory().gpus[0].uuid
{code}
"""
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )


def test_what_one_process_creates_another_one_sees(tmp_path: Path) -> None:
    nvml, uuid, _ = enabled(tmp_path)
    done = in_another_process(tmp_path, "print(nvml.create_gpu_instance(gpu, 14, 2, 2))")
    assert done.returncode == 0, done.stderr
    assert [instance.id for instance in nvml.instances(uuid)] == [int(done.stdout)]


def test_an_instance_survives_the_death_of_its_creator_between_both_creations(tmp_path: Path) -> None:
    nvml, uuid, simulated = enabled(tmp_path)
    simulated.faults.set([Fault("nvmlGpuInstanceCreateComputeInstance", action="exit")])
    done = in_another_process(
        tmp_path, "nvml.create_compute_instance(gpu, nvml.create_gpu_instance(gpu, 14, 2, 2))"
    )
    assert done.returncode == 137
    (instance,) = nvml.instances(uuid)
    assert (instance.start, instance.compute) == (2, ())


def test_a_killed_writer_leaves_the_old_state_and_a_free_lock(tmp_path: Path) -> None:
    nvml, uuid, _ = enabled(tmp_path)
    nvml.create_gpu_instance(uuid, 14, 0, 2)
    done = in_another_process(
        tmp_path,
        "import os, tessera.gpu.simulator.state as state\n"
        "state.os.fsync = lambda descriptor: os._exit(9)\n"
        "nvml.create_gpu_instance(gpu, 14, 2, 2)",
    )
    assert done.returncode == 9
    assert [instance.start for instance in nvml.instances(uuid)] == [0]
    nvml.create_gpu_instance(uuid, 14, 4, 2)


def test_other_hardware_than_before_is_a_board_swap(tmp_path: Path) -> None:
    nvml, uuid, _ = enabled(tmp_path)
    nvml.create_gpu_instance(uuid, 14, 0, 2)
    assert library(tmp_path, count=1).read().gpus[0].instances
    swapped = library(tmp_path, count=2).read()
    assert [gpu.instances for gpu in swapped.gpus] == [[], []]


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"version": 99}), json.dumps({"version": 1})])
def test_a_damaged_state_file_says_what_to_do(tmp_path: Path, content: str) -> None:
    library(tmp_path)
    (tmp_path / "gpus.json").write_text(content)
    with pytest.raises(DamagedState, match="delete the file"):
        StateFile(tmp_path).read()


def test_the_nth_call_of_a_symbol_fails_and_nothing_happens(tmp_path: Path) -> None:
    nvml, uuid, simulated = enabled(tmp_path)
    simulated.faults.set([Fault(CREATE, nth=2, code=15)])
    nvml.create_gpu_instance(uuid, 14, 0, 2)
    with pytest.raises(NVMLFault, match="GPU_IS_LOST"):
        nvml.create_gpu_instance(uuid, 14, 2, 2)
    nvml.create_gpu_instance(uuid, 14, 4, 2)
    assert [instance.start for instance in nvml.instances(uuid)] == [0, 4]


def test_a_fault_after_the_call_loses_the_answer_but_not_the_change(tmp_path: Path) -> None:
    nvml, uuid, simulated = enabled(tmp_path)
    simulated.faults.set([Fault(CREATE, when="after", code=999)])
    with pytest.raises(NVMLFault, match="UNKNOWN"):
        nvml.create_gpu_instance(uuid, 14, 0, 2)
    assert [instance.start for instance in nvml.instances(uuid)] == [0]


def test_a_compute_instance_can_be_gone_while_its_gpu_instance_is_still_in_use(tmp_path: Path) -> None:
    """Seen on real GPUs: the first destroy succeeds, the second one answers IN_USE for a while."""
    nvml, uuid, simulated = enabled(tmp_path)
    number = nvml.create_gpu_instance(uuid, 14, 2, 2)
    compute = nvml.create_compute_instance(uuid, number)
    simulated.faults.set([Fault("nvmlGpuInstanceDestroy", code=19)])
    nvml.destroy_compute_instance(uuid, number, compute.id)
    with pytest.raises(NVMLFault, match="IN_USE"):
        nvml.destroy_gpu_instance(uuid, number)
    assert [instance.compute for instance in nvml.instances(uuid)] == [()]
    nvml.destroy_gpu_instance(uuid, number)


def test_calls_are_counted_across_processes(tmp_path: Path) -> None:
    nvml, uuid, simulated = enabled(tmp_path)
    simulated.faults.set([Fault(CREATE, nth=2, code=20)])
    assert in_another_process(tmp_path, "nvml.create_gpu_instance(gpu, 14, 0, 2)").returncode == 0
    with pytest.raises(NVMLFault, match="MEMORY"):
        nvml.create_gpu_instance(uuid, 14, 2, 2)


def test_a_slow_call_waits_and_then_does_its_work(tmp_path: Path) -> None:
    waited: list[float] = []
    injector = FaultInjector(tmp_path, sleep=waited.append)
    injector.set([Fault(CREATE, action="delay", seconds=12.5)])
    assert [injector.around(CREATE, lambda: 7) for _ in range(2)] == [7, 7]
    assert waited == [12.5]


def test_a_gpu_is_lost_at_the_nth_call_and_stays_lost_for_everyone(tmp_path: Path) -> None:
    nvml, uuid, simulated = enabled(tmp_path)
    simulated.faults.set([Fault(CREATE, nth=2, action="lose", index=0)])
    nvml.create_gpu_instance(uuid, 14, 0, 2)
    for _ in range(2):
        with pytest.raises(NVMLFault, match="GPU_IS_LOST"):
            nvml.create_gpu_instance(uuid, 14, 2, 2)
    assert library(tmp_path).read().gpus[0].lost
    assert len(library(tmp_path).read().gpus[0].instances) == 1


def test_a_rule_for_every_symbol_counts_all_calls(tmp_path: Path) -> None:
    nvml, uuid, simulated = enabled(tmp_path)
    failed = set()
    for nth in range(1, 5):
        simulated.faults.set([Fault("*", nth=nth, code=20)])
        with pytest.raises(NVMLFault) as raised:
            nvml.create_compute_instance(uuid, nvml.create_gpu_instance(uuid, 14, 0, 2))
        failed.add(raised.value.call)
        simulated.faults.set([])
        for instance in nvml.instances(uuid):
            nvml.destroy_gpu_instance(uuid, instance.id)
    assert failed == {
        "nvmlDeviceGetHandleByUUID",
        "nvmlDeviceCreateGpuInstanceWithPlacement",
        "nvmlGpuInstanceGetInfo",
    }


def test_faults_come_from_the_environment_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, json.dumps([{"symbol": "nvmlInitWithFlags", "code": 9}]))
    with pytest.raises(NVMLFault, match=r"DRIVER_NOT_LOADED.*remedy: install the driver"):
        NVML(library(tmp_path)).inventory()


@pytest.mark.parametrize(
    ("rule", "message"), [({"action": "burn"}, "action 'burn'"), ({"when": "never"}, "when")]
)
def test_a_wrong_fault_rule_is_refused(rule: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(json.dumps([{"symbol": "x", **rule}]))


async def test_several_nodes_live_in_one_process(tmp_path: Path) -> None:
    drivers = [
        LocalDriver(
            NVML(SimulatedLibrary.at(tmp_path / name, model=model, count=1, seed=name)), simulated=True
        )
        for name, model in (("a", "H100-80GB"), ("b", "A30-24GB"))
    ]
    for _ in range(2):
        products = [(await driver.inventory()).gpus[0].product for driver in drivers]
        assert products == ["NVIDIA H100 80GB HBM3", "NVIDIA A30"]
    for driver in drivers:
        await driver.close()
