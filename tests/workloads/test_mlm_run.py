"""The masked language models as a pod would run them: both forms, a stop in the middle, the evaluation."""

from collections.abc import Callable
from typing import Any

import pytest

SETTINGS = {
    "steps": 40,
    "early_steps": 10,
    "batch": 8,
    "probes": 60,
    "questions": 20,
    "d_model": 16,
    "d_ff": 32,
    "layers": 1,
    "heads": 2,
    "d_kv": 8,
}


@pytest.mark.timeout(300)
def test_a_run_that_is_stopped_midway_ends_like_one_that_was_not(run_twice: Callable[..., Any]) -> None:
    runs = run_twice("mlm", SETTINGS, until=lambda seen: seen["phase"] == "encoder", what="the second phase")
    assert runs.codes == (3, 3)  # so short a training knows too little to contradict itself
    assert runs.reason == "GateFailed"
    resumed = runs.resumed
    for same in ("metrics", "tables", "checks"):
        assert resumed[same] == runs.uninterrupted[same]

    assert [phase["name"] for phase in resumed["phases"]] == ["encoder-early", "encoder", "t5-early", "t5"]
    assert [(row["model"], row["stage"]) for row in resumed["tables"]["consistency"]] == [
        (form, stage) for form in ("encoder", "t5") for stage in ("trained", "early", "untrained")
    ]
    assert len(resumed["tables"]["completion"]) == 14
    gates = {check["name"]: check["passed"] for check in resumed["checks"] if check["kind"] == "gate"}
    assert len(gates) == 7
    assert gates["exact table: largest inconsistency"]
    assert sum(check["kind"] == "control" for check in resumed["checks"]) == 12
