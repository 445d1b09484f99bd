"""The masked language models as a pod would run them: both forms, a stop in the middle, the evaluation."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SETTINGS = "steps=40 early_steps=10 batch=8 probes=60 questions=20 d_model=16 d_ff=32 layers=1 heads=2 d_kv=8"
TRAIN = ["train", "mlm", *(word for setting in SETTINGS.split() for word in ("--set", setting))]


@pytest.mark.timeout(300)
def test_a_run_that_is_stopped_midway_ends_like_one_that_was_not(
    tmp_path: Path, start_worker: Callable[..., Any]
) -> None:
    straight = start_worker(*TRAIN, "--out", str(tmp_path / "straight"))
    stopped = start_worker(*TRAIN, "--out", str(tmp_path / "stopped"))
    stopped.wait_for(lambda seen: seen["phase"] == "encoder", "the second phase")
    stopped.terminate()
    assert stopped.finish()[0] == 143

    again = start_worker(*TRAIN, "--out", str(tmp_path / "stopped"))
    code, termination = again.finish()
    assert code == straight.finish()[0] == 3  # so short a training knows too little to contradict itself
    assert termination["reason"] == "GateFailed"
    resumed, uninterrupted = (
        json.loads((tmp_path / name / "result.json").read_text()) for name in ("stopped", "straight")
    )
    assert resumed["resumes"] == 1
    for same in ("weightsHash", "metrics", "tables", "dataHash", "checks"):
        assert resumed[same] == uninterrupted[same]

    assert [phase["name"] for phase in resumed["phases"]] == ["encoder-early", "encoder", "t5-early", "t5"]
    assert [(row["model"], row["stage"]) for row in resumed["tables"]["consistency"]] == [
        (form, stage) for form in ("encoder", "t5") for stage in ("trained", "early", "untrained")
    ]
    assert len(resumed["tables"]["completion"]) == 14
    gates = {check["name"]: check["passed"] for check in resumed["checks"] if check["kind"] == "gate"}
    assert len(gates) == 7
    assert gates["exact table: largest inconsistency"]
    assert sum(check["kind"] == "control" for check in resumed["checks"]) == 12
