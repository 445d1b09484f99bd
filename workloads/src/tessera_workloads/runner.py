"""From a request to a result: make the data, train or find the trained model, evaluate it, judge it, write it
down.

The output directory holds `result.json`, the files of the evaluation, `weights.pt` and the checkpoints. A run
that finds a checkpoint of its own configuration goes on from there, so starting the same command again is
always right, whether the first one was pre-empted, killed or complete.
"""

import hashlib
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from tessera_workloads import __version__, durable
from tessera_workloads.checkpoint import CheckpointStore, weights_hash
from tessera_workloads.device import Place
from tessera_workloads.errors import NoCheckpoint, OutOfMemory, Preempted
from tessera_workloads.memory import peak_resident_bytes
from tessera_workloads.parameters import Parameters
from tessera_workloads.progress import Progress
from tessera_workloads.protocol import Check, Dataset, Metrics, Workload
from tessera_workloads.result import check_rows, write_json
from tessera_workloads.training import RunState, Trainer

P = TypeVar("P", bound=Parameters)


@dataclass(frozen=True)
class Request(Generic[P]):
    """What is to be run. `name` is the name it was asked by; `size` is for the record, the parameters say it
    all.
    """

    name: str
    workload: Workload[P]
    parameters: P
    size: str
    seed: int
    out: Path
    checkpoint_every: int = 200
    allow_thread_change: bool = False
    fresh: bool = False


@dataclass(frozen=True)
class Evaluated:
    """The metrics, the checks and where they were written."""

    metrics: Metrics
    checks: list[Check]
    result_path: Path
    files: list[Path]

    @property
    def failed_gates(self) -> list[Check]:
        """The checks that decide the exit code and did not pass."""
        return [check for check in self.checks if check.kind == "gate" and not check.passed]


class Runner(Generic[P]):
    """Runs one request at one place."""

    def __init__(
        self,
        request: Request[P],
        *,
        place: Place,
        threads: int,
        progress: Progress,
        preempted: Callable[[], bool],
        report: Callable[[str], None],
    ) -> None:
        torch.set_num_threads(threads)
        self._request = request
        self._place = place
        self._threads = threads
        self._progress = progress
        self._preempted = preempted
        self._report = report
        self._began = time.monotonic()
        workload, p = request.workload, request.parameters
        self._train_data = workload.make_data(p, split="train", seed=request.seed)
        self.configuration = configuration(request, self._train_data)
        self.configuration_hash = configuration_hash(self.configuration)
        self._store = CheckpointStore(request.out, self.configuration_hash)

    def train(self) -> Evaluated:
        """Train (from a checkpoint, where there is one), then evaluate; writes `result.json`.

        Raises:
            Preempted, NonFiniteLoss, OutOfMemory, ThreadCountChanged: see `errors`.
        """
        trainer = self._trainer()
        try:
            state = trainer.train(self._resume(trainer) or trainer.start())
            self._write_weights(state)
            return self._evaluate(state, result_name="result.json")
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"{str(error).splitlines()[0]} Ask for a larger profile or a smaller batch."
            ) from error

    def evaluate(self) -> Evaluated:
        """Evaluate the newest checkpoint of this configuration; writes `evaluation.json`.

        Raises:
            NoCheckpoint: when the output directory holds none.
        """
        trainer = self._trainer()
        checkpoint = self._store.load_newest(report=self._report)
        if checkpoint is None:
            raise NoCheckpoint(
                f"{self._request.out} holds no checkpoint of this configuration "
                f"({self._store.directory.name}): give the --set, --size and --seed of its training run, "
                "or train first"
            )
        state = trainer.restore(checkpoint, allow_thread_change=True)
        self._report(f"evaluating the checkpoint of step {checkpoint.step}")
        return self._evaluate(state, result_name="evaluation.json")

    def _trainer(self) -> Trainer[P]:
        request, held = self._request, self._place.slice
        return Trainer(
            workload=request.workload,
            parameters=request.parameters,
            data=self._train_data,
            seed=request.seed,
            device=self._place.device,
            threads=self._threads,
            configuration=self.configuration,
            store=self._store,
            checkpoint_every=request.checkpoint_every,
            progress=self._progress,
            preempted=self._preempted,
            report=self._report,
            memory_limit_bytes=held.memory_bytes if held and held.simulated else None,
        )

    def _resume(self, trainer: Trainer[P]) -> RunState | None:
        if self._request.fresh:
            self._store.clear()
            return None
        checkpoint = self._store.load_newest(report=self._report)
        if checkpoint is None:
            return None
        state = trainer.restore(checkpoint, allow_thread_change=self._request.allow_thread_change)
        if state.phase is None:
            finished = list(state.artefacts)[-1]
            done = state.history["phases"][finished]["steps"]
            self._progress.enter(finished, steps=done, step=done, resumed=True)
            self._report(f"resumed after phase {finished} ({done} steps)")
        else:
            self._report(f"resumed from step {state.step} of phase {state.phase}")
        state.history["resumes"].append({"phase": state.phase, "step": state.step, "ordinal": state.ordinal})
        return state

    def _evaluate(self, state: RunState, *, result_name: str) -> Evaluated:
        if self._preempted():
            raise Preempted("stopped by signal before the evaluation; training is complete and saved")
        request, p = self._request, self._request.parameters
        self._progress.enter("evaluate")
        self._report("evaluating")
        began = time.monotonic()
        test_data = request.workload.make_data(p, split="test", seed=request.seed)
        state.model.eval()
        with torch.no_grad():
            metrics = request.workload.evaluate(p, state.model, test_data, self._place.device)
        checks = request.workload.checks(p, metrics)
        for check in checks:
            self._progress.judged(check=check.name, kind=check.kind, passed=check.passed)
        files = []
        for name, content in metrics.files.items():
            path = request.out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            durable.write_bytes(path, content)
            files.append(path)
        weights = {name: tensor.cpu() for name, tensor in state.model.state_dict().items()}
        evaluated = Evaluated(
            metrics=metrics, checks=checks, result_path=request.out / result_name, files=files
        )
        data_hashes = {"train": self.configuration["data"], "test": test_data.content_hash()}
        timing = {
            "evaluationSeconds": round(time.monotonic() - began, 3),
            "processSeconds": round(time.monotonic() - self._began, 3),
        }
        write_json(
            evaluated.result_path,
            {
                **self._identity(),
                "outcome": "failed" if evaluated.failed_gates else "complete",
                "checks": check_rows(checks),
                "metrics": metrics.values,
                "tables": metrics.tables,
                "files": list(metrics.files),
                "dataHash": data_hashes,
                "weightsHash": weights_hash(weights),
                **_history(state),
                **timing,
                "peakResidentBytes": peak_resident_bytes(),
                "writtenAt": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )
        self._progress.enter("complete")
        return evaluated

    def _write_weights(self, state: RunState) -> None:
        buffer = BytesIO()
        torch.save({name: tensor.cpu() for name, tensor in state.model.state_dict().items()}, buffer)
        durable.write_bytes(self._request.out / "weights.pt", buffer.getvalue())

    def _identity(self) -> dict[str, Any]:
        held = self._place.slice
        return {
            "workload": self._request.name,
            "workloadVersion": self._request.workload.version,
            "size": self._request.size,
            "parameters": self._request.parameters.as_dict(),
            "seed": self._request.seed,
            "configurationHash": self.configuration_hash,
            "threads": self._threads,
            "device": {
                "type": self._place.device.type,
                "name": torch.cuda.get_device_name()
                if self._place.device.type == "cuda"
                else platform.machine(),
                "slice": None
                if held is None
                else {
                    "profile": held.profile,
                    "uuid": held.uuid,
                    "memoryBytes": held.memory_bytes,
                    "simulated": held.simulated,
                },
            },
            "versions": versions(),
        }


def configuration(request: Request[P], train_data: Dataset) -> dict[str, Any]:
    """All that decides the trained weights: two runs with the same configuration are the same run."""
    return {
        "workload": request.name,
        "workloadVersion": request.workload.version,
        "parameters": request.parameters.as_dict(),
        "seed": request.seed,
        "data": train_data.content_hash(),
    }


def configuration_hash(configured: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(configured, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of what computes; a package that runs from a plain tree has its own constant."""
    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "tessera-workloads": __version__,
    }
    for name in ("numpy", "scikit-image"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = str(
                getattr(sys.modules.get(name.replace("scikit-image", "skimage")), "__version__", "unknown")
            )
    if torch.cuda.is_available():
        found["cuda"] = str(torch.version.cuda)
    return found


def _history(state: RunState) -> dict[str, Any]:
    resumes = state.history["resumes"]
    phases = state.history["phases"]
    return {
        "phases": [{"name": name, **record} for name, record in phases.items()],
        "peakTensorBytes": max((record["peakTensorBytes"] for record in phases.values()), default=0),
        "resumedFrom": resumes[-1] if resumes else None,
        "resumes": len(resumes),
        "curve": state.history["curve"],
    }
