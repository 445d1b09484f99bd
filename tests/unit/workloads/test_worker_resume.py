"""SIGTERM, checkpoint, resume: the real command in a real process, stopped twice, ends with bit-equal weights."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SETTINGS = ["--set", "steps=400", "--set", "hidden=12", "--set", "crop=48", "--checkpoint-every", "50"]
PATIENCE_SECONDS = 90.0


class Worker:
    """`tessera-worker train noiser` as a child process."""

    def __init__(self, out: Path, *extra: str, threads: int = 1) -> None:
        self.termination = out.parent / "termination.json"
        command = [sys.executable, "-m", "tessera_workloads.cli", "train", "noiser", "--out", str(out)]
        command += ["--port", "0", "--termination-log", str(self.termination), *SETTINGS, *extra]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)}
        )
        assert self.process.stderr is not None
        found = re.search(r"http://\S+/progress", self.process.stderr.readline())
        self.url = found.group() if found else ""

    def progress(self) -> dict[str, Any]:
        with urllib.request.urlopen(self.url, timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def wait_for_step(self, step: int) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            seen = self.progress()
            if seen["phase"] == "train" and seen["step"] >= step:
                return seen
            time.sleep(0.005)
        raise AssertionError(f"step {step} was not seen; the worker's exit code: {self.process.poll()}")

    def finish(self) -> tuple[int, str, dict[str, Any]]:
        _, said = self.process.communicate(timeout=PATIENCE_SECONDS)
        return self.process.returncode, said, json.loads(self.termination.read_bytes())


@pytest.fixture
def workers() -> Iterator[list[Worker]]:
    started: list[Worker] = []
    yield started
    for worker in started:
        if worker.process.poll() is None:
            worker.process.kill()
            worker.process.wait()


def test_a_run_that_is_stopped_twice_ends_with_the_same_weights(
    tmp_path: Path, workers: list[Worker]
) -> None:
    straight = Worker(tmp_path / "straight")
    workers.append(straight)
    straight.wait_for_step(1)

    stopped_at = 0
    for stop in (1, 130):
        worker = Worker(tmp_path / "stopped")
        workers.append(worker)
        seen = worker.wait_for_step(stop)
        assert seen["resumedFromStep"] == (stopped_at or None)
        worker.process.send_signal(signal.SIGTERM)
        code, said, termination = worker.finish()
        assert code == 143, said
        assert (termination["outcome"], termination["reason"]) == ("preempted", "Preempted")
        assert stop <= termination["step"] < 400
        stopped_at = termination["step"]

    last = Worker(tmp_path / "stopped")
    workers.append(last)
    code, said, termination = last.finish()
    assert f"resumed from step {stopped_at} of phase train" in said
    assert code in (0, 3), said  # a run this short need not pass the gates
    assert termination["step"] == 400

    assert straight.finish()[0] == code
    resumed, uninterrupted = (
        json.loads((tmp_path / name / "result.json").read_text()) for name in ("stopped", "straight")
    )
    assert resumed["weightsHash"] == uninterrupted["weightsHash"]
    assert resumed["metrics"] == uninterrupted["metrics"]
    assert resumed["resumes"] == 2
    assert resumed["resumedFrom"] == {"phase": "train", "step": stopped_at, "ordinal": stopped_at}
    assert uninterrupted["resumedFrom"] is None
    assert [point[0] for point in resumed["curve"]] == [point[0] for point in uninterrupted["curve"]]
