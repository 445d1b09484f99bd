"""The training loop: phases and steps, a checkpoint every k steps and after every phase, and the way back
from one.

A run is a value, `RunState`, and a loop that moves it forward one step at a time. Between two steps the state
can be saved, and from a saved state the loop goes on as if nothing had happened: model weights, optimiser
state and the facts of finished phases are in it, and random numbers depend on the step alone (`randomness`).
Hence the resumed run ends with bit-equal weights on the same device type with the same number of threads.
"""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from tessera_workloads.checkpoint import Checkpoint, CheckpointStore
from tessera_workloads.errors import NonFiniteLoss, Preempted, ThreadCountChanged
from tessera_workloads.memory import TensorBytes
from tessera_workloads.optimizers import BuiltOptimizer
from tessera_workloads.parameters import Parameters
from tessera_workloads.progress import Progress
from tessera_workloads.protocol import Artefacts, Phase, TrainingData, Workload, apply_finished
from tessera_workloads.stepping import Stepper, initialise

P = TypeVar("P", bound=Parameters)

COUNTED_STEPS = 3
"""Steps per phase under the tensor-byte counter; the optimiser's state exists from the first, so the third is
typical.
"""

_STEPS_PER_LOSS_READ = {"cpu": 1, "cuda": 10}
"""Reading a loss waits for the device; on CUDA that is done only now and then."""

_CURVE_POINTS = 100


@dataclass
class RunState:
    """Everything that a run is between two steps. `phase` is None between two phases."""

    model: nn.Module
    phase: str | None = None
    step: int = 0
    ordinal: int = 0
    optimizer_states: list[dict[str, Any]] = field(default_factory=list)
    artefacts: dict[str, Artefacts] = field(default_factory=dict)
    history: dict[str, Any] = field(default_factory=lambda: {"phases": {}, "curve": [], "resumes": []})

    @property
    def facts(self) -> dict[str, Mapping[str, Any]]:
        """What `next_phase` decides by: the facts of every finished phase."""
        return {name: artefacts.facts for name, artefacts in self.artefacts.items()}


@dataclass(frozen=True)
class Trainer(Generic[P]):
    """Trains one configuration of a workload. `report` gets one line of text at a time."""

    workload: Workload[P]
    parameters: P
    data: TrainingData
    seed: int
    device: torch.device
    threads: int
    configuration: dict[str, Any]
    store: CheckpointStore
    checkpoint_every: int
    progress: Progress
    preempted: Callable[[], bool]
    report: Callable[[str], None]
    memory_limit_bytes: int | None = None

    def start(self) -> RunState:
        """A fresh run: every parameter from (seed, its name), on the CPU, so that any device starts equal."""
        model = self.workload.build_model(self.parameters, {})
        initialise(self.workload, model, self.seed)
        return RunState(model=model.to(self.device))

    def restore(self, checkpoint: Checkpoint, *, allow_thread_change: bool = False) -> RunState:
        """The run as the checkpoint left it.

        Raises:
            ThreadCountChanged: when it was written with another number of threads, unless that is allowed.
        """
        if checkpoint.threads != self.threads and not allow_thread_change:
            raise ThreadCountChanged(
                f"the checkpoint was written with {checkpoint.threads} thread(s) and this run has "
                f"{self.threads}: set OMP_NUM_THREADS={checkpoint.threads}, or give --allow-thread-change "
                "and accept other last bits"
            )
        artefacts = {
            name: Artefacts(tensors=checkpoint.artefacts[name], facts=facts)
            for name, facts in checkpoint.facts.items()
        }
        built = self.workload.build_model(self.parameters, artefacts)
        model = apply_finished(self.workload, built, artefacts)
        model.load_state_dict(checkpoint.weights)
        return RunState(
            model=model.to(self.device),
            phase=checkpoint.phase,
            step=checkpoint.step,
            ordinal=checkpoint.ordinal,
            optimizer_states=checkpoint.optimizers,
            artefacts=artefacts,
            history=checkpoint.history,
        )

    @property
    def _stepper(self) -> Stepper[P]:
        return Stepper(self.workload, self.parameters, self.data, self.seed, self.device)

    def train(self, state: RunState) -> RunState:
        """Run phase after phase until the workload names no next one.

        Raises:
            Preempted: when asked to stop; the state is saved.
            NonFiniteLoss: when the loss is no number any more.
        """
        while (phase := self.workload.next_phase(self.parameters, state.facts)) is not None:
            resumed = state.phase == phase.name
            if not resumed:
                state.step, state.optimizer_states = 0, []
            state.phase = phase.name
            self.progress.enter(phase.name, steps=phase.steps, step=state.step, resumed=resumed)
            self._run_phase(phase, state)
            self._finish_phase(phase, state)
        return state

    def save(self, state: RunState, optimizers: list[BuiltOptimizer]) -> None:
        """Write a checkpoint of the state."""
        self.store.save(
            Checkpoint(
                configuration=self.configuration,
                threads=self.threads,
                phase=state.phase,
                step=state.step,
                ordinal=state.ordinal,
                weights={name: tensor.detach().cpu() for name, tensor in state.model.state_dict().items()},
                optimizers=[built.optimizer.state_dict() for built in optimizers],
                artefacts={name: dict(left.tensors) for name, left in state.artefacts.items()},
                facts={name: dict(left.facts) for name, left in state.artefacts.items()},
                history=state.history,
            )
        )
        self.progress.checkpointed(state.step)

    def _run_phase(self, phase: Phase, state: RunState) -> None:
        stepper = self._stepper
        optimizers = stepper.optimizers(phase, state.model)
        for built, saved in zip(optimizers, state.optimizer_states, strict=False):
            built.optimizer.load_state_dict(saved)
        counter = self._counter(state.model, optimizers)
        record = state.history["phases"].setdefault(
            phase.name, {"seconds": 0.0, "samples": 0, "peakTensorBytes": 0}
        )
        samples_a_step = phase.batch * sum(update.optimizer.accumulation for update in phase.updates)
        read_every = _STEPS_PER_LOSS_READ[self.device.type]
        counted_until = state.step + COUNTED_STEPS
        began, unread = time.perf_counter(), 0
        state.model.train()
        while state.step < phase.steps:
            if self.preempted():
                self._stop(state, optimizers)
            counting: AbstractContextManager[Any] = (
                counter if counter and state.step < counted_until else nullcontext()
            )
            with counting:
                loss = stepper.step(phase, state.step, state.model, optimizers)
            state.step, state.ordinal, unread = state.step + 1, state.ordinal + 1, unread + 1
            if unread == read_every or state.step == phase.steps:
                value = float(loss)
                now = time.perf_counter()
                self._account(
                    phase,
                    state,
                    loss=value,
                    seconds=now - began,
                    steps=unread,
                    samples=samples_a_step * unread,
                )
                began, unread = now, 0
            if state.step % self.checkpoint_every == 0 and state.step < phase.steps:
                self.save(state, optimizers)
        record["peakTensorBytes"] = max(record["peakTensorBytes"], self._peak(counter))

    def _finish_phase(self, phase: Phase, state: RunState) -> None:
        at = self._stepper.place(phase.name, phase.steps, "artefacts", 0)
        left = self.workload.compute_artefacts(self.parameters, phase, state.model, self.data, at)
        state.artefacts[phase.name] = left
        state.model = self.workload.apply_artefacts(state.model, phase.name, left)
        state.phase, state.optimizer_states = None, []
        self.save(state, [])

    def _stop(self, state: RunState, optimizers: list[BuiltOptimizer]) -> None:
        self.save(state, optimizers)
        raise Preempted(
            f"stopped by signal after step {state.step} of phase {state.phase}; a checkpoint is saved"
        )

    def _account(
        self, phase: Phase, state: RunState, *, loss: float, seconds: float, steps: int, samples: int
    ) -> None:
        """Book what was done since the last reading of the loss."""
        if not math.isfinite(loss):
            raise NonFiniteLoss(
                f"the loss is {loss} at step {state.step} of phase {phase.name}: lower the learning rate, "
                "or look at the data; the last checkpoint is from before"
            )
        record = state.history["phases"][phase.name]
        record["seconds"] += seconds
        record["samples"] += samples
        record["steps"] = state.step
        record["loss"] = loss
        lr = phase.lr_at(state.step - 1)
        self.progress.stepped(step=state.step, seconds=seconds / steps, samples=samples, loss=loss, lr=lr)
        if state.step % max(1, phase.steps // _CURVE_POINTS) < steps:
            state.history["curve"].append([state.ordinal, float(f"{loss:.5g}")])
        if state.step % max(1, phase.steps // 10) < steps or state.step == phase.steps:
            rate = record["steps"] / record["seconds"]
            self.report(
                f"{phase.name} {state.step}/{phase.steps}  loss {loss:.4f}  lr {lr:.2e}  {rate:.1f} steps/s  "
                f"{(phase.steps - state.step) / rate:.0f} s left"
            )

    def _counter(self, model: nn.Module, optimizers: list[BuiltOptimizer]) -> TensorBytes | None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            return None
        counter = TensorBytes(limit_bytes=self.memory_limit_bytes)
        counter.include([*model.parameters(), *model.buffers()])
        for built in optimizers:
            counter.include(built.state_tensors())
        return counter

    def _peak(self, counter: TensorBytes | None) -> int:
        return counter.peak if counter else int(torch.cuda.max_memory_allocated())
