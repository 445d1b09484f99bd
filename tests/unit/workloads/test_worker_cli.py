"""The command line: exit codes, one-line errors, termination messages, and no torch where none is needed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tessera_workloads import __version__, cli
from tessera_workloads.progress import Progress, ProgressServer

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


@pytest.mark.timeout(300)
def test_one_seed_passes_every_gate_and_leaves_a_whole_result(
    tmp_path: Path, start_worker: Callable[..., Any]
) -> None:
    out = tmp_path / "out"
    worker = start_worker("train", "noiser", "--set", "steps=500", "--set", "crop=48", "--out", str(out))
    code, termination = worker.finish()
    result = json.loads((out / "result.json").read_text())
    assert code == 0, result["checks"]
    assert termination["outcome"] == "complete"
    assert termination["checks"] == {"passed": 4, "failed": 0}
    assert termination["resultPath"] == str(out / "result.json")
    assert termination["metrics"]["parameters"] == 1763

    assert result["outcome"] == "complete"
    assert {check["kind"] for check in result["checks"]} == {"gate", "control", "report"}
    assert [row["photo"] for row in result["tables"]["photos"]] == [
        "astronaut",
        "chelsea",
        "coffee",
        "rocket",
        "ihc",
    ]
    sky = {row["picture"]: row for row in result["tables"]["night_sky"]}
    assert sky["noiser"]["psnr"] < sky["dark"]["psnr"] - 8, "the gray-world failure is part of what is known"
    assert sky["noiser"]["mean"] == pytest.approx(0.5, abs=0.05)
    assert sky["shifted true mean"]["psnr"] > sky["dark"]["psnr"]
    assert result["device"]["slice"] is None
    assert result["threads"] == 1
    assert set(result["versions"]) >= {"python", "torch", "tessera-workloads", "numpy", "scikit-image"}
    assert len(result["dataHash"]["train"]) == len(result["dataHash"]["test"]) == 64
    # Three hidden activations of 32 x 48 x 48 floats at the least, and far below what the process holds.
    assert 3 * 32 * 48 * 48 * 4 < result["peakTensorBytes"] < 8 * 2**20 < result["peakResidentBytes"]
    assert result["phases"][0]["samples"] == 500
    for name in result["files"]:
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert (out / "weights.pt").stat().st_size > 1763 * 4

    again = start_worker("evaluate", "noiser", "--set", "steps=500", "--set", "crop=48", "--out", str(out))
    assert again.finish()[0] == 0
    assert json.loads((out / "evaluation.json").read_text())["weightsHash"] == result["weightsHash"]
