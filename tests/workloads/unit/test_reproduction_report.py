"""The page of results: verdicts over seeds, means, and what is shown of a run."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tessera_workloads.protocol import Check
from tessera_workloads.reproduction import __main__ as reproduction
from tessera_workloads.reproduction import runs
from tessera_workloads.reproduction.report import judge, page, section
from tessera_workloads.result import check_rows


def result(seed: int, *checks: Check) -> dict[str, Any]:
    return {
        "seed": seed,
        "checks": check_rows(checks),
        "phases": [{"name": "train", "steps": 10, "seconds": 1.25, "peakTensorBytes": 2**20}],
        "footprint": [{"phase": "train", "peakTensorBytes": 2**20, "stepFlops": 5 * 10**8}],
    }


def over_seeds(*values: float, **how: Any) -> dict[int, dict[str, Any]]:
    return {
        seed: result(seed, Check.at_least("gain", value, 1.0, **how)) for seed, value in enumerate(values)
    }


@pytest.mark.parametrize(("value", "bound", "inside"), [(1, ">= 1", True), (2, "<= 1.5", False)])
def test_a_bound_is_read_as_it_is_written(value: float, bound: str, inside: bool) -> None:
    assert Check.keeps(value, bound) is inside


def test_a_gate_must_pass_for_every_seed_and_one_over_the_mean_for_the_mean() -> None:
    (each,) = judge(over_seeds(0.5, 2.0, 2.0))
    (mean,) = judge(over_seeds(0.5, 2.0, 2.0, over="mean"))
    (low,) = judge(over_seeds(0.5, 0.5, 1.0, over="mean"))
    assert (each.verdict, mean.verdict, low.verdict) == ("**FAIL**", "pass (mean)", "**FAIL** (mean)")
    assert each.mean == 1.5


def test_a_seed_without_the_number_never_passes() -> None:
    results = over_seeds(2.0, 2.0) | {2: result(2)}
    assert [one.passed for one in judge(results)] == [False]
    no_number = over_seeds(2.0, over="mean")
    no_number[0]["checks"][0]["value"] = None  # what result.json makes of NaN
    assert [one.passed for one in judge(no_number)] == [False]


def test_a_section_shows_gates_first_every_seed_and_measured_beside_foreseen_bytes() -> None:
    checks = (Check.note("line", 0.5, kind="control"), Check.at_least("gain", 2.0, 1.0))
    text = section(
        "rings", "two rings", {0: result(0, *checks), 1: result(1, *checks)}, ["images/rings-a.jpg"]
    )
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == "| kind | check | bound | seed 0 | seed 1 | mean |  |"
    assert rows[2] == "| gate | gain | >= 1 | 2 | 2 | 2 | pass |"
    assert rows[3] == "| control | line |  | 0.5 | 0.5 | 0.5 |  |"
    assert rows[-1] == "| 1 | train | 10 | 1.2 | 1.00 | 1.00 | 0.5000 |"
    assert "![rings: images/rings-a.jpg](images/rings-a.jpg)" in text
    assert text in page([text], command="make reproduce", conditions=["today"])


def test_a_run_that_leaves_no_message_is_not_told_by_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.Run("rings", 0, tmp_path)
    run.directory.mkdir(parents=True)
    (run.directory / "termination.json").write_text(json.dumps({"message": "of the run before"}))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    (problem,) = runs.train_all([run], workers=1, say=lambda line: None)
    assert problem.startswith("rings, seed 0: exit code 1, it left no message (see ")


def test_the_page_shows_the_arguments_that_it_was_made_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = result(0, Check.at_least("gain", 2.0, 1.0)) | {
        "files": [],
        "writtenAt": "2026-01-01T00:00:00",
        "device": {"type": "cpu", "name": "x86_64"},
        "threads": 1,
        "versions": {},
    }
    run = runs.Run("rings", 0, tmp_path / "out")
    run.directory.mkdir(parents=True)
    (run.directory / "result.json").write_text(json.dumps(left))
    monkeypatch.setattr(reproduction, "train_all", lambda wanted, **how: [])
    monkeypatch.chdir(tmp_path)
    given = ["--only", "rings", "--out", "out", "--page", "page.md"]
    assert reproduction.main(given) == 0
    assert f'$ make reproduce REPRODUCE_ARGS="{" ".join(given)}"\n' in Path("page.md").read_text()
