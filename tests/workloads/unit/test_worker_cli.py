"""The command line: exit codes, one-line errors, termination messages, and no torch where none is needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tessera_workloads import __version__, cli
from tessera_workloads.progress import Progress, ProgressServer
from tessera_workloads.registry import BUILT_IN

SOURCES = Path(cli.__file__).parents[1]
pytestmark = pytest.mark.usefixtures("signals_restored")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_list_and_describe(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "list")
    assert code == 0
    assert "noiser" in out
    code, out, _ = run(capsys, "describe", "noiser")
    assert code == 0
    assert "an integer from 1 to 36; default 32" in out
    code, out, _ = run(capsys, "describe", "noiser", "--json")
    assert json.loads(out)["parameters"]["properties"]["sigma"]["default"] == 3.0


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_workload_describes_what_can_be_set(capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, out, _ = run(capsys, "describe", name)
    assert code == 0
    assert BUILT_IN[name].summary in out
    described = json.loads(run(capsys, "describe", name, "--json")[1])
    assert set(described["sizes"]) == {"ci", "slice", "full"}
    for parameter in described["parameters"]["properties"]:
        assert f"  {parameter} " in out


@pytest.mark.parametrize(
    ("arguments", "reason", "says"),
    [
        (["train", "noizer"], "UnknownWorkload", 'unknown workload "noizer": did you mean "noiser"?'),
        (
            ["train", "noiser", "--set", "step=5"],
            "InvalidParameter",
            'unknown parameter "step": did you mean "steps"?',
        ),
        (["train", "noiser", "--set", "steps=0"], "InvalidParameter", "must be an integer from 1 to"),
        (["train", "noiser", "--set", "steps"], "InvalidRequest", "'steps' is not of the form key=value"),
        (["train", "noiser", "--size", "xl"], "InvalidParameter", "unknown size 'xl'"),
    ],
)
def test_a_bad_request_exits_2_with_one_line_and_a_termination_message(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], reason: str, says: str
) -> None:
    log = tmp_path / "termination.json"
    options = ["--out", str(tmp_path / "out"), "--port", "0", "--termination-log", str(log)]
    code, out, err = run(capsys, *arguments, *options)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert says in err
    left = json.loads(log.read_bytes())
    assert (left["outcome"], left["reason"]) == ("invalid", reason)
    assert says in left["message"]


@pytest.mark.parametrize("arguments", [[], ["train"], ["train", "noiser"], ["launch"], ["list", "--nothing"]])
def test_a_bad_command_line_exits_2_with_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert err.startswith("tessera-worker: ")
    assert err.count("\n") == 1


def test_a_taken_port_exits_2_and_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    taken = ProgressServer(Progress(workload="other"), port=0)
    try:
        code, _, err = run(capsys, "train", "noiser", "--out", str(tmp_path), "--port", str(taken.port))
    finally:
        taken.server_close()
    assert code == 2
    assert f"--port {taken.port}: Address already in use; choose another port, or --port 0" in err


def test_an_output_directory_that_cannot_be_made_exits_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    code, _, err = run(capsys, "train", "noiser", "--out", str(tmp_path / "file" / "out"), "--port", "0")
    assert code == 2
    assert "cannot be made: Not a directory" in err


def test_evaluating_nothing_exits_2_and_says_what_to_give(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    code, _, err = run(capsys, "evaluate", "noiser", "--out", str(tmp_path), "--port", "0")
    assert code == 2
    assert "holds no checkpoint of this configuration" in err.splitlines()[-1]


def test_a_plain_tree_is_enough_and_torch_is_not_imported_to_refuse(tmp_path: Path) -> None:
    """As in the worker image: no installed metadata, only PYTHONPATH; here without torch at all."""
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{SOURCES}", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "tessera_workloads.cli"]
    for arguments, code in ((["list"], 0), (["describe", "noiser"], 0), (["train", "x", "--out", "o"], 2)):
        ended = subprocess.run(
            [*command, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == code, ended.stderr
        assert "Traceback" not in ended.stderr


def test_the_version_is_that_of_the_distribution() -> None:
    project = (SOURCES.parent / "pyproject.toml").read_text()
    assert f'version = "{__version__}"' in project
