"""Workers as real processes, without paying for torch's import each time.

A fork server imports torch once; every worker is forked from it and runs `python -m tessera_workloads.cli`
in its own process, with its own signals and exit code.
"""

import json
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PATIENCE_SECONDS = 240.0
PRELOADED = ["tessera_workloads.runner", "tessera_workloads.noiser.workload"]


class WorkerProcess:
    """`tessera-worker` with the given arguments, a progress port and a termination log."""

    def __init__(self, arguments: list[str], *, termination_log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.termination_log = termination_log
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.process = context.Process(
            target=runpy.run_module,
            args=("tessera_workloads.cli",),
            kwargs={"run_name": "__main__", "alter_sys": True},
        )
        command_line = sys.argv
        # multiprocessing hands this process's sys.argv to the child, where the module reads it.
        sys.argv = [
            "tessera-worker",
            *arguments,
            *("--port", str(self.port)),
            *("--termination-log", str(termination_log)),
        ]
        try:
            self.process.start()
        finally:
            sys.argv = command_line

    def progress(self) -> dict[str, Any] | None:
        """What `/progress` says; None while nobody listens yet."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/progress", timeout=10) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.URLError:
            return None

    def wait_for(self, reached: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """Wait until `/progress` says what is waited for."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and self.process.is_alive():
            seen = self.progress()
            if seen and reached(seen):
                return seen
            self.process.join(0.02)
        raise AssertionError(f"{what} was not seen; exit code {self.process.exitcode}")

    def wait_for_step(self, step: int) -> dict[str, Any]:
        """Wait until the training has done so many steps."""
        return self.wait_for(lambda seen: seen["phase"] == "train" and seen["step"] >= step, f"step {step}")

    def terminate(self) -> None:
        """What the kubelet does first."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGTERM)

    def finish(self) -> tuple[int | None, dict[str, Any]]:
        """Wait for the end: exit code and termination message."""
        self.process.join(PATIENCE_SECONDS)
        return self.process.exitcode, json.loads(self.termination_log.read_bytes())


@dataclass(frozen=True)
class TwoRuns:
    """What a run that was stopped and resumed left, and one that was not: results, exit codes in this order,
    and the resumed one's reason.
    """

    resumed: dict[str, Any]
    uninterrupted: dict[str, Any]
    codes: tuple[int | None, ...]
    reason: str


@pytest.fixture
def start_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., WorkerProcess]]:
    """Start workers; what still runs at the end of the test is killed."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    started: list[WorkerProcess] = []

    def start(*arguments: str) -> WorkerProcess:
        log = tmp_path / f"termination-{len(started)}.json"
        started.append(WorkerProcess(list(arguments), termination_log=log))
        return started[-1]

    yield start
    for worker in started:
        if worker.process.is_alive():
            worker.process.kill()
        worker.process.join()


@pytest.fixture
def run_twice(tmp_path: Path, start_worker: Callable[..., WorkerProcess]) -> Callable[..., TwoRuns]:
    """Train in `stopped`, with a SIGTERM once `/progress` says what is waited for, and in `straight`: both
    end with the same weights.
    """

    def run(
        workload: str,
        settings: Mapping[str, object],
        *,
        until: Callable[[dict[str, Any]], bool],
        what: str,
    ) -> TwoRuns:
        assigned = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        arguments = ["train", workload, *assigned]
        straight = start_worker(*arguments, "--out", str(tmp_path / "straight"))
        stopped = start_worker(*arguments, "--out", str(tmp_path / "stopped"))
        stopped.wait_for(until, what)
        stopped.terminate()
        assert stopped.finish()[0] == 143
        again = start_worker(*arguments, "--out", str(tmp_path / "stopped"))
        ends = again.finish(), straight.finish()
        resumed, uninterrupted = (
            json.loads((tmp_path / name / "result.json").read_text()) for name in ("stopped", "straight")
        )
        assert (resumed["resumes"], uninterrupted["resumes"]) == (1, 0)
        for same in ("weightsHash", "dataHash"):
            assert resumed[same] == uninterrupted[same]
        return TwoRuns(resumed, uninterrupted, tuple(code for code, _ in ends), ends[0][1]["reason"])

    return run
