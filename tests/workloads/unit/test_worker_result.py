"""The termination message fits where Kubernetes cuts it, and JSON stays JSON."""

import json
from pathlib import Path

import pytest
from tessera_workloads.protocol import Check, Metrics
from tessera_workloads.result import (
    TERMINATION_BYTES,
    Termination,
    check_table,
    write_json,
    write_result,
    write_termination,
)


@pytest.mark.parametrize("count", [0, 10, 1000])
@pytest.mark.parametrize("message", ["short", "ü" * 5000, '"\\\n' * 2000])
def test_a_termination_message_is_whole_json_of_at_most_4096_bytes(count: int, message: str) -> None:
    metrics = {f"metric_number_{index}": index / 3 for index in range(count)}
    encoded = Termination("complete", "Complete", message, metrics=metrics).encode()
    assert len(encoded) <= TERMINATION_BYTES
    read = json.loads(encoded)
    assert set(read) == {"outcome", "reason", "message", "step", "steps", "checks", "metrics", "resultPath"}
    assert len(read["metrics"]) <= count
    if count == 10 and message == "short":
        assert len(read["metrics"]) == 10


def test_numbers_that_json_does_not_know_become_null(tmp_path: Path) -> None:
    encoded = Termination("failed", "NonFiniteLoss", "", metrics={"loss": float("nan")}).encode()
    assert json.loads(encoded)["metrics"]["loss"] is None
    write_json(tmp_path / "result.json", {"a": [float("inf"), {"b": 1.5}]})
    assert json.loads((tmp_path / "result.json").read_text()) == {"a": [None, {"b": 1.5}]}


def test_a_termination_log_that_cannot_be_written_is_said_not_raised(tmp_path: Path) -> None:
    problem = write_termination(Termination("complete", "Complete", ""), tmp_path / "no" / "such" / "place")
    assert problem is not None
    assert "cannot be written" in problem


def test_a_gate_over_the_mean_of_seeds_does_not_decide_one_run(tmp_path: Path) -> None:
    checks = [Check.at_least("of the mean", 0.5, 1.0, over="mean"), Check.at_least("of each", 2.0, 1.0)]
    evaluated = write_result(tmp_path, "result.json", metrics=Metrics({}), checks=checks, document={})
    assert evaluated.failed_gates == []
    assert json.loads((tmp_path / "result.json").read_text())["outcome"] == "complete"
    assert check_table(checks).splitlines()[1].endswith("over seeds")


def test_the_table_puts_gates_first_and_says_which_failed() -> None:
    table = check_table([Check.note("a control", 2.0, kind="control"), Check.at_least("a gate", 0.5, 1.0)])
    assert table.splitlines()[1].split() == ["gate", "a", "gate", "0.5", ">=", "1", "FAIL"]
    assert table.splitlines()[2].split() == ["control", "a", "control", "2"]
