"""The template of a user's own workload: a copy trains, is judged, timed and reported like a built-in."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tessera_workloads.registry import find_parameters, find_workload, installed
from tessera_workloads.reproduction import __main__ as reproduction

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy outside of the repository, on the path of this process and of those that it starts."""
    copy = tmp_path / "mine"
    shutil.copytree(ROOT / "workloads" / "template", copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.syspath_prepend(str(copy))
    monkeypatch.setenv("PYTHONPATH", str(copy))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return copy


@pytest.mark.timeout(300)
def test_a_copy_of_the_template_is_trained_reported_evaluated_and_timed(
    template: Path, tmp_path: Path, start_worker: Callable[..., Any]
) -> None:
    name, out, page = "rings.workload:Rings", tmp_path / "out", tmp_path / "results" / "workloads.md"
    options = ["--only", name, "--seeds", "0", "--out", str(out), "--page", str(page)]
    assert reproduction.main(options) == 0, (out / "rings.workload-Rings" / "seed-0" / "log").read_text()
    text = page.read_text()
    assert "| gate | accuracy | >= 0.95 |" in text
    assert "| control | accuracy of a line |  |" in text

    run = out / "rings.workload-Rings" / "seed-0"
    assert start_worker("evaluate", name, "--out", str(run)).finish()[0] == 0
    assert start_worker("bench", name, "--repetitions", "5", "--out", str(run)).finish()[0] == 0
    calls = json.loads((run / "bench.json").read_text())["tables"]["calls"]
    assert [(call["what"], call["items"]) for call in calls] == [("infer", 1), ("train", 64)]
    assert all(0 < call["p50_seconds"] <= call["p99_seconds"] for call in calls)
    trained = json.loads((run / "result.json").read_text())
    (foreseen,) = trained["footprint"]
    assert foreseen["peakTensorBytes"] == pytest.approx(trained["peakTensorBytes"], rel=0.2)
    assert json.loads((run / "evaluation.json").read_text())["weightsHash"] == trained["weightsHash"]
    code, termination = start_worker("infer", name, "--file", str(page), "--out", str(run)).finish()
    assert (code, termination["reason"]) == (2, "NotOffered")


def test_an_installed_package_gives_its_workload_a_name(template: Path) -> None:
    """As the template's own pyproject.toml declares it; this is what installing leaves of that."""
    declared = (template / "pyproject.toml").read_text()
    assert '[project.entry-points."tessera.workloads"]\nrings = "rings.workload:Rings"' in declared
    metadata = template / "tessera_workload_rings-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: tessera-workload-rings\nVersion: 0.1.0\n"
    )
    (metadata / "entry_points.txt").write_text("[tessera.workloads]\nrings = rings.workload:Rings\n")
    assert installed()["rings"] == "rings.workload:Rings"
    assert find_workload("rings").name == "rings"
    assert find_parameters("rings").parse({"steps": "7"}).as_dict()["steps"] == 7
