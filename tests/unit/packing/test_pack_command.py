"""``tessera pack``: one JSON object, lines of at most 80 columns, and one clear line for a mistake."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tessera.cli.main import explain
from tessera.cli.pack import command

SERVICES = """\
measurements:
- workload: net
  gpu: H100-80GB
  profile: 3g.40gb
  processes: 2
  throughput_per_second: 50
  latency_ms: 9
  mode: mps
services:
- {name: net, rate_per_second: 80, slo_ms: 50}
"""


def run(*arguments: str) -> str:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def refusal(*arguments: str) -> str:
    """What a user reads when the command is refused."""
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code != 0
    if result.exit_code == 2:
        return result.output
    assert result.exception is not None
    line = explain(result.exception)
    assert line is not None, result.exception
    assert "\n" not in line
    return line


def test_requests_as_json() -> None:
    report: dict[str, Any] = json.loads(
        run("--gpu", "H100-80GB", "--requests", "3g.40gb=5,1g.10gb=3", "--seeds", "2", "--json")
    )
    assert set(report) == {"config", "runs", "mean", "ci95"}
    assert report["config"]["requests"] == {"3g.40gb": 5, "1g.10gb": 3}
    assert [run["seed"] for run in report["runs"]] == [0, 1]
    assert report["mean"]["gpus"] == 3
    assert report["mean"]["lower_bound"] == 3
    assert report["mean"]["gap_pct"] == 0
    assert report["ci95"]["first_fit_ratio"] is not None
    layouts = report["runs"][0]["layouts"]
    assert sum(group["count"] for group in layouts) == 3
    assert sum(len(group["placements"]) * group["count"] for group in layouts) == 8


def test_requests_as_text_fit_80_columns() -> None:
    output = run("--gpu", "H100-80GB", "--requests", "1g.10gb=60,1g.10gb+me=3,1g.20gb=20,7g.80gb=2")
    assert "proven optimal" in output
    assert "2 x [7g.80gb@0]" in output
    assert max(len(line) for line in output.splitlines()) <= 80


def test_several_models_are_named_with_their_layouts() -> None:
    output = run("--gpu", "H100-80GB:cost=4,limit=3", "--gpu", "A30", "--requests", "7g.80gb=1,1g.6gb=5")
    assert "1 H100-80GB" in output
    assert "2 A30-24GB" in output
    assert "packer" not in output


def test_services_as_json_and_text(tmp_path: Path) -> None:
    path = tmp_path / "services.yaml"
    path.write_text(SERVICES)
    report = json.loads(run("--services", str(path), "--gpu", "H100-80GB", "--json"))
    assert report["mean"]["gpus"] == 1
    assert report["runs"][0]["services"][0]["load_pct"] == 80
    tile = report["runs"][0]["layouts"][0]["placements"][0]
    assert tile["runs"] == [{"service": "net", "processes": 2, "batch": 1, "mode": "mps"}]
    output = run("--services", str(path), "--gpu", "H100-80GB", "--utilisation", "0.5", "--share-slices")
    assert "1 service: 2 H100-80GB" in output
    assert max(len(line) for line in output.splitlines()) <= 80


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Give either --requests"),
        (["--requests", "7g.80gb=1"], "Give --gpu MODEL"),
        (["--requests", "7g.80gb=1", "--services", "x"], "Give either --requests"),
        (["--gpu", "H100-80GB", "--requests", "7g.80gb=1", "--utilisation", "0.5"], "go with --services"),
        (["--gpu", "H100-80GB", "--requests", ""], "--requests is empty"),
        (["--gpu", "H100-80GB", "--requests", "7g.80gb"], "is no PROFILE=COUNT"),
        (["--gpu", "H100-80GB", "--requests", "7g.80gb=x"], "'x' is no whole number"),
        (["--gpu", "H100-80GB", "--requests", "7g.80gb=0"], "a count is at least 1"),
        (["--gpu", "H100-80GB", "--requests", "7g.80gb=1,7g.80gb=2"], "given twice"),
        (["--gpu", "H100-80GB", "--requests", "7g.40gb=1"], "Did you mean 7g.80gb"),
        (["--gpu", "H100-80G", "--requests", "7g.80gb=1"], "nearest: H100-80GB"),
        (["--gpu", "A30", "--gpu", "A30-24GB", "--requests", "1g.6gb=1"], "given twice"),
        (["--gpu", "A30:limit=1", "--requests", "4g.24gb=2"], "2 A30-24GB are needed"),
        (["--services", "/nowhere/x.yaml"], "/nowhere/x.yaml cannot be read: No such file"),
    ],
)
def test_mistakes_are_one_clear_line(arguments: list[str], words: str) -> None:
    assert words in refusal(*arguments)


def test_services_need_a_gpu_model(tmp_path: Path) -> None:
    path = tmp_path / "services.yaml"
    path.write_text(SERVICES)
    assert "no GPU model is given" in refusal("--services", str(path))
    path.write_text(SERVICES.replace("slo_ms: 50", "slo_ms: 10"))
    assert "no slice answers within 5 ms" in refusal("--services", str(path), "--gpu", "H100-80GB")


def test_a_missing_solver_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highspy", None)
    line = refusal("--gpu", "H100-80GB", "--requests", "7g.80gb=1")
    assert "the solver HiGHS cannot be loaded" in line
    assert "pip install 'tessera[pack]'" in line
