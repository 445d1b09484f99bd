"""Workers as processes, so many at a time, one thread each: what `tessera-worker train` does by hand."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

TRAINED = (0, 3)
"""Exit codes of a training that ended: every gate passed, or not every one."""


@dataclass(frozen=True)
class Run:
    """One training: a workload, a seed, and the directory that it fills below `out`."""

    workload: str
    seed: int
    out: Path

    @property
    def directory(self) -> Path:
        """Own to the workload and the seed; a user's workload may have `:` in its name."""
        return self.out / self.workload.replace(":", "-") / f"seed-{self.seed}"

    @property
    def command(self) -> list[str]:
        """What a person would type, as arguments of `tessera-worker`."""
        return [
            *("train", self.workload, "--size", "ci", "--seed", str(self.seed)),
            *("--out", str(self.directory), "--port", "0", "--device", "cpu", "--fresh", "--footprint"),
        ]


def train_all(runs: Sequence[Run], *, workers: int, say: Callable[[str], None]) -> list[str]:
    """Train all, `workers` at a time; returns a sentence for each run that did not end as a training does."""
    with ThreadPoolExecutor(max_workers=workers) as pool:
        problems = list(pool.map(lambda run: _train(run, say), runs))
    return [problem for problem in problems if problem]


def _train(run: Run, say: Callable[[str], None]) -> str | None:
    run.directory.mkdir(parents=True, exist_ok=True)
    told = run.directory / "termination.json"
    for left_before in (run.directory / "result.json", told):
        left_before.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tessera_workloads.cli", *run.command, "--termination-log", str(told)]
    with (run.directory / "log").open("wb") as log:
        ended = subprocess.run(
            command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log, check=False
        )
    message = json.loads(told.read_bytes())["message"] if told.is_file() else "it left no message"
    sentence = f"{run.workload}, seed {run.seed}: exit code {ended.returncode}, {message}"
    say(sentence)
    return None if ended.returncode in TRAINED else f"{sentence} (see {run.directory / 'log'})"
