"""From a request to a result: make the data, train or find the trained model, evaluate it or let it answer,
judge it, write it down.

The output directory holds `result.json`, the files of the evaluation, `weights.pt` and the checkpoints. A run
that finds a checkpoint of its own configuration goes on from there, so starting the same command again is
always right, whether the first one was pre-empted, killed or complete.
"""

import time
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from tessera_workloads import durable
from tessera_workloads.checkpoint import CheckpointStore, weights_hash
from tessera_workloads.device import Place
from tessera_workloads.errors import NoCheckpoint, Preempted
from tessera_workloads.identity import Request, configuration, configuration_hash, identity
from tessera_workloads.memory import peak_resident_bytes
from tessera_workloads.parameters import Parameters
from tessera_workloads.progress import Progress
from tessera_workloads.result import Evaluated, write_result
from tessera_workloads.training import RunState, Trainer

P = TypeVar("P", bound=Parameters)


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
        self._train_data = workload.training_data(p, seed=request.seed)
        self.configuration = configuration(request, self._train_data)
        self.configuration_hash = configuration_hash(self.configuration)
        self._store = CheckpointStore(request.out, self.configuration_hash)

    def train(self) -> Evaluated:
        """Train (from a checkpoint, where there is one), then evaluate; writes `result.json`.

        Raises:
            Preempted, NonFiniteLoss, OutOfMemory, ThreadCountChanged, NotOffered: see `errors`.
        """
        foreseen = self._footprint() if self._request.foresee else None
        trainer = self._trainer()
        state = trainer.train(self._resume(trainer) or trainer.start())
        self._write_weights(state)
        return self._evaluate(state, result_name="result.json", also={"footprint": foreseen})

    def evaluate(self) -> Evaluated:
        """Evaluate the newest checkpoint of this configuration; writes `evaluation.json`.

        Raises:
            NoCheckpoint: when the output directory holds none.
        """
        return self._evaluate(self._trained(), result_name="evaluation.json", also={})

    def infer(self, path: Path) -> Evaluated:
        """Answer a user's file with the serving model of the newest checkpoint; writes `inference.json`.

        Raises:
            NoCheckpoint: when the output directory holds none.
            NotOffered: when the workload reads no files.
            InvalidRequest: when it does not read this one.
        """
        request, p, device = self._request, self._request.parameters, self._place.device
        state = self._trained()
        serving = request.workload.build_serving(p, state.artefacts)
        trained = state.model.state_dict()
        serving.load_state_dict({name: trained[name] for name in serving.state_dict()})
        self._progress.enter("infer")
        self._report(f"answering {path}")
        with torch.no_grad():
            metrics = request.workload.infer(p, serving.to(device).eval(), path, device)
        return write_result(
            request.out,
            "inference.json",
            metrics=metrics,
            checks=[],
            document={**self._identity(), "file": str(path), "weightsHash": weights_hash(trained)},
        )

    def _trained(self) -> RunState:
        trainer = self._trainer()
        checkpoint = self._store.load_newest(report=self._report)
        if checkpoint is None:
            raise NoCheckpoint(
                f"{self._request.out} holds no checkpoint of this configuration "
                f"({self._store.directory.name}): give the --set, --size and --seed of its training run, "
                "or train first"
            )
        self._report(f"taking the checkpoint of step {checkpoint.step}")
        return trainer.restore(checkpoint, allow_thread_change=True)

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

    def _evaluate(self, state: RunState, *, result_name: str, also: Mapping[str, Any]) -> Evaluated:
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
        evaluated = write_result(
            request.out,
            result_name,
            metrics=metrics,
            checks=checks,
            document={
                **self._identity(),
                "dataHash": {"train": self.configuration["data"], "test": test_data.content_hash()},
                "weightsHash": weights_hash(state.model.state_dict()),
                **_history(state),
                **also,
                "evaluationSeconds": round(time.monotonic() - began, 3),
                "processSeconds": round(time.monotonic() - self._began, 3),
                "peakResidentBytes": peak_resident_bytes(),
            },
        )
        self._progress.enter("complete")
        return evaluated

    def _footprint(self) -> list[dict[str, Any]]:
        # Imported here, because it imports torch's compiler.
        from tessera_workloads.footprint import footprint

        self._report("foreseeing the memory of every phase")
        return [phase.as_json() for phase in footprint(self._request.workload, self._request.parameters)]

    def _identity(self) -> dict[str, Any]:
        return {
            **identity(self._request, self._place, self._threads),
            "configurationHash": self.configuration_hash,
        }

    def _write_weights(self, state: RunState) -> None:
        buffer = BytesIO()
        torch.save({name: tensor.cpu() for name, tensor in state.model.state_dict().items()}, buffer)
        durable.write_bytes(self._request.out / "weights.pt", buffer.getvalue())


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
