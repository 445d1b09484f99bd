"""SIGTERM, checkpoint, resume: the real command in a real process, stopped twice, with bit-equal weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TRAIN = ["train", "noiser", "--set", "steps=200", "--set", "hidden=8", "--set", "crop=40"]
EVERY = ["--checkpoint-every", "30"]


def read_result(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


@pytest.mark.timeout(600)  # four processes on a machine that may be busy
def test_a_run_that_is_stopped_twice_ends_with_the_same_weights(
    tmp_path: Path, start_worker: Callable[..., Any]
) -> None:
    straight = start_worker(*TRAIN, *EVERY, "--out", str(tmp_path / "straight"))
    straight.wait_for_step(1)

    stopped_at = 0
    for stop in (1, 70):
        worker = start_worker(*TRAIN, *EVERY, "--out", str(tmp_path / "stopped"))
        seen = worker.wait_for_step(stop)
        assert seen["resumedFromStep"] == (stopped_at or None)
        worker.terminate()
        code, termination = worker.finish()
        assert code == 143
        assert (termination["outcome"], termination["reason"]) == ("preempted", "Preempted")
        assert stop <= termination["step"] < 200
        stopped_at = termination["step"]

    last = start_worker(*TRAIN, *EVERY, "--out", str(tmp_path / "stopped"))
    code, termination = last.finish()
    assert code in (0, 3)  # a run this short need not pass the gates
    assert (termination["step"], termination["steps"]) == (200, 200)
    assert straight.finish()[0] == code

    resumed, uninterrupted = read_result(tmp_path / "stopped"), read_result(tmp_path / "straight")
    assert resumed["weightsHash"] == uninterrupted["weightsHash"]
    assert resumed["metrics"] == uninterrupted["metrics"]
    assert resumed["curve"] == uninterrupted["curve"]
    assert resumed["resumes"] == 2
    assert resumed["resumedFrom"] == {"phase": "train", "step": stopped_at, "ordinal": stopped_at}
    assert uninterrupted["resumedFrom"] is None


@pytest.mark.timeout(300)
def test_a_killed_run_goes_on_from_its_last_checkpoint(
    tmp_path: Path, start_worker: Callable[..., Any]
) -> None:
    first = start_worker(*TRAIN, "--checkpoint-every", "20", "--out", str(tmp_path / "out"))
    first.wait_for_step(45)
    first.process.kill()
    first.process.join()
    second = start_worker(*TRAIN, "--checkpoint-every", "20", "--out", str(tmp_path / "out"))
    seen = second.wait_for_step(41)
    assert seen["resumedFromStep"] >= 40
    assert seen["resumedFromStep"] % 20 == 0
