"""`tessera gpu` for a person on one machine, on simulated GPUs and without a driver."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tessera.cli import main as command_line
from tessera.cli.gpu import command
from tessera.gpu.simulator import control
from tessera.gpu.simulator.faults import Fault, FaultInjector

MODEL = "H200-141GB"
CREATE_COMPUTE = "nvmlGpuInstanceCreateComputeInstance"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def node_directory(state: Path, count: int = 1) -> Path:
    return state / f"simulated-{MODEL}-{count}"


def call(state: Path, *arguments: str, model: str = MODEL) -> Result:
    return CliRunner().invoke(command, [*arguments, "--simulate", model, "--state", str(state)])


def listed(state: Path) -> list[dict[str, Any]]:
    instances: list[dict[str, Any]] = json.loads(call(state, "list", "--json").stdout)["gpus"][0]["instances"]
    return instances


def profiles(state: Path) -> list[tuple[str, int]]:
    return [(instance["profile"], instance["start"]) for instance in listed(state)]


def test_a_layout_is_planned_applied_checked_and_remembered(state: Path) -> None:
    words = "3g.71gb,2g.35gb,1g.18gb"
    planned = call(state, "layout", "--gpu", "0", words)
    assert planned.exit_code == 0
    assert "planned: 3 created, 1 MIG mode switched" in planned.stdout
    assert listed(state) == []
    assert call(state, "check", words).exit_code == 1
    assert "applied: 3 created" in call(state, "apply", words).stdout
    assert profiles(state) == [("1g.18gb", 0), ("2g.35gb", 2), ("3g.71gb", 4)]
    assert call(state, "check", words).exit_code == 0
    assert "unchanged: 3 kept" in call(state, "apply", words).stdout


def test_the_pictures_fit_80_columns_and_name_every_change(state: Path) -> None:
    call(state, "apply", "3g.71gb,2g.35gb,1g.18gb")
    control.occupy(node_directory(state), mig_uuid=listed(state)[0]["uuids"][0], pid=os.getpid())
    difference = call(state, "layout", "1g.18gb=7")
    shown = call(state, "list").stdout + difference.stdout
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert f"in use: 1g.18gb at 0 by process {os.getpid()}\n" in shown
    for line in ("= kept      1g.18gb at 0", "- destroyed 3g.71gb at 4", "+ created   1g.18gb at 5"):
        assert line in difference.stdout


def test_a_process_in_the_way_is_named_and_nothing_happens(state: Path, capsys: Any) -> None:
    call(state, "apply", "3g.71gb@4")
    control.occupy(node_directory(state), mig_uuid=listed(state)[0]["uuids"][0], pid=os.getpid())
    planned = call(state, "layout", "7g.141gb")
    assert planned.exit_code == 1
    assert f"! blocked   3g.71gb at 4: process {os.getpid()}" in planned.stdout
    arguments = ["gpu", "apply", "7g.141gb", "--simulate", MODEL, "--state", str(state)]
    with pytest.raises(SystemExit) as ended:
        command_line.main(arguments)
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert f"holds process {os.getpid()}. End these processes" in error and error.count("\n") == 1
    assert profiles(state) == [("3g.71gb", 4)]


def test_dry_run_changes_nothing(state: Path) -> None:
    assert "planned: 1 created" in call(state, "apply", "--dry-run", "7g.141gb").stdout
    assert listed(state) == []


def test_a_change_that_was_cut_off_is_settled_by_whatever_is_called_next(state: Path) -> None:
    call(state, "apply", "3g.71gb@4")
    injector = FaultInjector(node_directory(state))
    injector.set([Fault(CREATE_COMPUTE, times=0)])
    assert call(state, "apply", "2g.35gb@0").exit_code == 1
    again = call(state, "list")
    assert "note: a change of the layout is unfinished" in again.stderr
    injector.set([])
    again = call(state, "list")
    assert "had been cut off; the former layout is back" in again.stderr
    assert profiles(state) == [("3g.71gb", 4)]
    assert call(state, "list").stderr == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_the_middle_brings_the_former_layout_back(
    state: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    call(state, "apply", "3g.71gb@4")
    around = FaultInjector.around

    def pressed(self: FaultInjector, symbol: str, body: Callable[[], int]) -> int:
        if symbol == CREATE_COMPUTE:
            os.kill(os.getpid(), number)
        return around(self, symbol, body)

    with monkeypatch.context() as patch:
        patch.setattr(FaultInjector, "around", pressed)
        done = call(state, "apply", "2g.35gb@0,1g.18gb@2")
    assert done.exit_code == 1
    assert "the change was interrupted. The former layout is back" in str(done.exception)
    assert profiles(state) == [("3g.71gb", 4)]
    assert call(state, "list").stderr == ""


def test_a_user_who_may_not_see_processes_still_sees_the_layout(state: Path) -> None:
    call(state, "apply", "3g.71gb@4")
    hidden = Fault("nvmlDeviceGetComputeRunningProcesses_v3", code=4, times=0)
    FaultInjector(node_directory(state)).set([hidden])
    assert "Processes are hidden from this user" in call(state, "list").stdout
    answer = json.loads(call(state, "list", "--json").stdout)["gpus"][0]
    assert answer["processes"] is None
    assert answer["instances"][0]["profile"] == "3g.71gb"


def test_a_lost_gpu_is_listed_with_its_fault_and_gets_no_layout(state: Path) -> None:
    call(state, "list")
    control.lose(node_directory(state), index=0)
    assert "GPU 0 cannot be used: nvmlDeviceGetName" in call(state, "list").stdout
    assert "GPU_IS_LOST" in str(call(state, "apply", "7g.141gb").exception)


def test_a_file_gives_several_gpus_their_layouts(state: Path, tmp_path: Path) -> None:
    file = tmp_path / "layouts.yaml"
    file.write_text(
        "layouts:\n- {gpus: [0], instances: [7g.141gb]}\n- {gpus: [1], instances: {1g.18gb: 2}}\n"
    )
    done = call(state, "apply", str(file), "--json", model=f"{MODEL}:2")
    answer = json.loads(done.stdout)
    assert answer["result"] == "applied"
    assert [len(gpu["created"]) for gpu in answer["gpus"]] == [1, 2]
    checked = json.loads(call(state, "check", str(file), "--json", model=f"{MODEL}:2").stdout)
    assert (checked["result"], [gpu["as_asked"] for gpu in checked["gpus"]]) == ("as asked", [True, True])


@pytest.mark.parametrize(
    ("arguments", "model", "says"),
    [
        (["layout", "7g.141gb"], f"{MODEL}:2", "which of the 2 GPUs is meant. Say --gpu INDEX, or --gpu all"),
        (["layout", "--gpu", "3", "none"], MODEL, "there is no GPU 3"),
        (["layout", "none.yaml"], MODEL, "none.yaml cannot be read: No such file"),
        (["layout", "--config", "a", "none"], MODEL, "--config goes with a file"),
        (["layout", "3g.70gb"], MODEL, "it has no profile 3g.70gb"),
    ],
)
def test_a_question_that_makes_no_sense_is_answered_in_one_line(
    state: Path, arguments: list[str], model: str, says: str
) -> None:
    done = call(state, *arguments, model=model)
    assert done.exit_code == 1
    assert says in str(done.exception)


@pytest.mark.parametrize("model", ["H300", "H200-141GB:0", "H200-141GB:", "H200-141GB:x", "H200-141GB:65"])
def test_gpus_that_cannot_be_simulated_are_a_usage_error(state: Path, model: str) -> None:
    done = call(state, "list", model=model)
    assert done.exit_code == 2
    assert "--simulate" in done.stderr
    assert not state.exists()


def test_a_damaged_simulation_says_which_file(state: Path) -> None:
    call(state, "list")
    (node_directory(state) / "gpus.json").write_text("{")
    done = call(state, "list")
    assert "gpus.json is not JSON" in str(done.exception)


def test_without_a_driver_there_is_one_line_with_a_remedy(
    state: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "")
    try:
        import ctypes

        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        pass
    else:
        pytest.fail("this machine has a driver: the test cannot tell what happens without one")
    with pytest.raises(SystemExit):
        command_line.main(["gpu", "list", "--state", str(state)])
    error = capsys.readouterr().err
    assert error.startswith(
        "error: this machine has no usable NVIDIA driver: libnvidia-ml.so.1 was not found"
    )
    assert error.count("\n") == 1
