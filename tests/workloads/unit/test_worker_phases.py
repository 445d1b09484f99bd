"""The loop beyond the simplest workload: phases, artefacts, several updates, a resume at every step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tessera_workloads.checkpoint import CheckpointStore, weights_hash
from tessera_workloads.errors import NonFiniteLoss, OutOfMemory, Preempted, ThreadCountChanged
from tessera_workloads.parameters import Parameters, parameter
from tessera_workloads.progress import Progress
from tessera_workloads.protocol import (
    Artefacts,
    Batch,
    Dataset,
    Loss,
    OptimizerSpec,
    ParameterGroup,
    Phase,
    Shard,
    Split,
    Step,
    Update,
    Workload,
)
from tessera_workloads.training import RunState, Trainer
from torch import nn

CPU = torch.device("cpu")


@dataclass(frozen=True)
class TwoPhaseParameters(Parameters):
    rate: float = parameter(0.05, minimum=0, help="learning rate")


class Numbers:
    def batch(self, size: int, step: Step) -> Batch:
        return {"x": torch.randn(size, 4, generator=step.generator)}

    def content_hash(self) -> str:
        return "numbers"


class TwoPhase(Workload[TwoPhaseParameters]):
    """Trains two layers by two updates, derives a mask from the weights, then trains the masked model."""

    name, version, Parameters = "two-phase", "1", TwoPhaseParameters

    def make_data(
        self, p: TwoPhaseParameters, *, split: Split, seed: int, shard: Shard | None = None
    ) -> Numbers:
        return Numbers()

    def build_model(self, p: TwoPhaseParameters, artefacts: Mapping[str, Artefacts]) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))

    def next_phase(self, p: TwoPhaseParameters, facts: Mapping[str, Mapping[str, Any]]) -> Phase | None:
        if "search" not in facts:
            adam = OptimizerSpec(
                kind="adamw", weight_decay=0.1, groups=(ParameterGroup("*bias", lr_scale=2.0),)
            )
            sgd = OptimizerSpec(kind="sgd", momentum=0.9, clip_norm=1.0, accumulation=2)
            updates = (
                Update(adam, trains=("0.*",), name="lower"),
                Update(sgd, trains=("1.*",), name="upper"),
            )
            return Phase("search", steps=5, batch=3, updates=updates, lr_at=lambda step: p.rate / (1 + step))
        if "tune" not in facts:
            steps = facts["search"]["tune_steps"]
            adam = OptimizerSpec(kind="adam")
            return Phase("tune", steps=steps, batch=3, updates=(Update(adam),), lr_at=lambda step: p.rate)
        return None

    def compute_artefacts(
        self, p: TwoPhaseParameters, phase: Phase, model: nn.Module, data: Dataset, step: Step
    ) -> Artefacts:
        if phase.name != "search":
            return Artefacts()
        weight = model.get_parameter("0.weight").detach()
        return Artefacts(tensors={"mask": (weight > weight.median()).float()}, facts={"tune_steps": 4})

    def apply_artefacts(self, model: nn.Module, phase: str, artefacts: Artefacts) -> nn.Module:
        if phase == "search":
            model.register_buffer("mask", artefacts.tensors["mask"])
        return model

    def loss(self, p: TwoPhaseParameters, model: nn.Module, batch: Batch, step: Step) -> Loss:
        assert isinstance(model, nn.Sequential)
        x = batch["x"]
        mask: torch.Tensor | None = getattr(model, "mask", None)
        lower = model.get_parameter("0.weight")
        hidden = nn.functional.linear(
            x, lower if mask is None else lower * mask, model.get_parameter("0.bias")
        )
        return Loss((model[1](hidden).squeeze(-1) - x.sum(-1)).square().mean(), {})


@dataclass
class Stopper:
    """Asks to stop before the given step of the whole run."""

    after: int
    asked: int = field(default=0)

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked > self.after


def trainer(
    out: Path,
    *,
    threads: int = 1,
    preempted: Callable[[], bool] = lambda: False,
    rate: float = 0.05,
    limit: int | None = None,
) -> Trainer[TwoPhaseParameters]:
    workload, p = TwoPhase(), TwoPhaseParameters(rate=rate)
    return Trainer(
        workload=workload,
        parameters=p,
        data=workload.training_data(p, seed=7),
        seed=7,
        device=CPU,
        threads=threads,
        configuration={},
        store=CheckpointStore(out, "0" * 64),
        checkpoint_every=2,
        progress=Progress(workload="two-phase"),
        preempted=preempted,
        report=lambda line: None,
        memory_limit_bytes=limit,
    )


def final_hash(state: RunState) -> str:
    return weights_hash(state.model.state_dict())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> RunState:
    one = trainer(tmp_path_factory.mktemp("straight"))
    return one.train(one.start())


@pytest.mark.parametrize("stop", range(9))
def test_stopped_before_any_step_the_resumed_run_ends_bit_equal(
    tmp_path: Path, uninterrupted: RunState, stop: int
) -> None:
    first = trainer(tmp_path, preempted=Stopper(after=stop))
    with pytest.raises(Preempted):
        first.train(first.start())
    second = trainer(tmp_path)
    checkpoint = second.store.load_newest(report=pytest.fail)
    assert checkpoint is not None
    assert checkpoint.ordinal == stop
    state = second.train(second.restore(checkpoint))
    assert final_hash(state) == final_hash(uninterrupted)
    assert state.ordinal == uninterrupted.ordinal == 9
    assert state.history["phases"]["search"]["samples"] == 5 * 3 * 3  # two updates, one of two micro-batches


def test_the_derived_phase_and_its_mask_come_from_the_artefacts(uninterrupted: RunState) -> None:
    assert uninterrupted.facts == {"search": {"tune_steps": 4}, "tune": {}}
    assert uninterrupted.model.get_buffer("mask").sum() == 8  # 16 weights, those above the median


def test_another_seed_gives_another_model(tmp_path: Path, uninterrupted: RunState) -> None:
    one = trainer(tmp_path)
    other = Trainer(**(vars(one) | {"seed": 8}))
    assert final_hash(other.train(other.start())) != final_hash(uninterrupted)


def test_the_global_generator_is_neither_read_nor_needed(tmp_path: Path, uninterrupted: RunState) -> None:
    torch.manual_seed(1234)
    one = trainer(tmp_path)
    assert final_hash(one.train(one.start())) == final_hash(uninterrupted)


def test_another_thread_count_is_refused_unless_allowed(tmp_path: Path) -> None:
    first = trainer(tmp_path, preempted=Stopper(after=3))
    with pytest.raises(Preempted):
        first.train(first.start())
    second = trainer(tmp_path, threads=2)
    checkpoint = second.store.load_newest(report=pytest.fail)
    assert checkpoint is not None
    with pytest.raises(ThreadCountChanged, match="set OMP_NUM_THREADS=1, or give --allow-thread-change"):
        second.restore(checkpoint)
    assert second.restore(checkpoint, allow_thread_change=True).ordinal == 3


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    one = trainer(tmp_path, rate=1e30)
    with pytest.raises(NonFiniteLoss, match="lower the learning rate"):
        one.train(one.start())


def test_more_tensors_than_the_simulated_slice_holds_end_the_run(tmp_path: Path) -> None:
    one = trainer(tmp_path, limit=100)
    with pytest.raises(OutOfMemory, match="ask for a larger profile"):
        one.train(one.start())


def test_training_data_without_batches_are_refused_by_name() -> None:
    class Hashed:
        def content_hash(self) -> str:
            return "only judged"

    class Unfinished(TwoPhase):
        def make_data(self, *_: Any, **__: Any) -> Any:
            return Hashed()

    with pytest.raises(TypeError, match=r'"two-phase": its training data \(Hashed\) give no batches'):
        Unfinished().training_data(TwoPhaseParameters(), seed=0)
