"""The footprint: what it foresees against what the counter measures, and against sums by hand."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tessera_workloads.errors import NotOffered
from tessera_workloads.footprint import footprint, trace
from tessera_workloads.memory import TensorBytes
from tessera_workloads.noiser.parameters import NoiserParameters
from tessera_workloads.noiser.workload import Noiser
from tessera_workloads.parameters import Parameters, parameter
from tessera_workloads.protocol import (
    Artefacts,
    Batch,
    Loss,
    Mode,
    OptimizerSpec,
    Phase,
    Step,
    Update,
    Workload,
    apply_finished,
)
from tessera_workloads.registry import BUILT_IN, find_parameters, find_workload
from tessera_workloads.rehearsal import rehearse
from tessera_workloads.stepping import Stepper, initialise
from tessera_workloads.training import COUNTED_STEPS
from torch import nn

WIDTH, SAMPLES = 8, 4


@dataclass(frozen=True)
class PlainParameters(Parameters):
    optimizer: str = parameter("adam", help="kind of the optimiser")


class Plain(Workload[PlainParameters]):
    """A linear layer; the second phase has a mask, whose values decide its structure."""

    name, version, Parameters = "plain", "1", PlainParameters

    def build_model(self, p: PlainParameters, artefacts: Mapping[str, Artefacts]) -> nn.Module:
        return nn.Linear(WIDTH, WIDTH, bias=False)

    def next_phase(self, p: PlainParameters, facts: Mapping[str, Mapping[str, Any]]) -> Phase | None:
        kind: Any = p.optimizer
        update = Update(OptimizerSpec(kind, momentum=0.9, clip_norm=1.0))
        if "dense" not in facts:
            return Phase("dense", 3, SAMPLES, (update,), lr_at=lambda step: 0.1)
        if "masked" not in facts:
            return Phase("masked", facts["dense"]["steps"], SAMPLES, (update,), lr_at=lambda step: 0.1)
        return None

    def example_artefacts(self, p: PlainParameters, phase: Phase) -> Artefacts:
        if phase.name != "dense":
            return Artefacts()
        return Artefacts(tensors={"mask": torch.eye(WIDTH)}, facts={"steps": 2})

    def apply_artefacts(self, model: nn.Module, phase: str, artefacts: Artefacts) -> nn.Module:
        if phase == "dense":
            assert int(artefacts.tensors["mask"].sum()) == WIDTH
            model.register_buffer("mask", artefacts.tensors["mask"])
        return model

    def loss(self, p: PlainParameters, model: nn.Module, batch: Batch, step: Step) -> Loss:
        return Loss(model(batch["x"]).square().mean(), {})

    def example_batch(self, p: PlainParameters, size: int, mode: Mode, step: Step) -> Batch:
        return {"x": torch.randn(size, WIDTH, generator=step.generator, device=step.device)}


def measured(workload: Workload[Any], p: Any, phase: Phase, before: Mapping[str, Artefacts]) -> int:
    """Peak tensor bytes of the first steps of a phase on real data, counted as a training counts them."""
    data = workload.training_data(p, seed=0)
    model = workload.build_model(p, before)
    initialise(workload, model, seed=0)
    model = apply_finished(workload, model, before).train()
    stepper = Stepper(workload, p, data, seed=0, device=torch.device("cpu"))
    optimizers = stepper.optimizers(phase, model)
    counter = TensorBytes()
    counter.include([*model.parameters(), *model.buffers()])
    with counter:
        for step in range(COUNTED_STEPS):
            stepper.step(phase, step, model, optimizers)
    return counter.peak


@pytest.mark.parametrize(("kind", "per_weight"), [("sgd", 4), ("adam", 8), ("adamw", 8)])
def test_bytes_and_arithmetic_of_a_linear_layer_by_hand(kind: str, per_weight: int) -> None:
    dense, masked = footprint(Plain(), PlainParameters(optimizer=kind))
    weights = WIDTH * WIDTH
    assert (dense.phase, dense.parameters, dense.weight_bytes) == ("dense", weights, weights * 4)
    # Adam's step count is one more float.
    assert dense.optimizer_bytes == weights * per_weight + (4 if per_weight == 8 else 0)
    # Forward, and the gradient of the weights; nobody asks for that of the batch.
    assert dense.step_flops == 2 * (2 * SAMPLES * WIDTH * WIDTH)
    assert dense.peak_tensor_bytes == dense.weight_bytes + dense.optimizer_bytes + dense.activation_bytes
    # The batch and the gradient of the weights are alive when the optimiser steps.
    assert dense.activation_bytes >= SAMPLES * WIDTH * 4 + weights * 4
    assert (masked.phase, masked.steps) == ("masked", 2)
    assert masked.weight_bytes == dense.weight_bytes + weights * 4


@pytest.mark.parametrize(
    ("name", "size"), [*((name, "ci") for name in sorted(BUILT_IN)), ("noiser", "slice")]
)
def test_the_peak_of_the_first_phase_is_foreseen_within_a_fifth(name: str, size: str) -> None:
    """`make reproduce` prints both figures of all the others, which take too long to be traced here."""
    workload, p = find_workload(name), find_parameters(name).parse({}, size=size)
    phase, before = next(rehearse(workload, p))
    peak = measured(workload, p, phase, before)
    assert trace(workload, p, phase, before).peak_tensor_bytes == pytest.approx(peak, rel=0.2)


def test_a_step_of_the_full_size_is_traced_without_memory_or_arithmetic() -> None:
    """NoiSER's, the quickest; `tessera-worker describe NAME --size full --footprint` traces any other."""
    workload, p = Noiser(), NoiserParameters.parse({}, size="full")
    phase, before = next(rehearse(workload, p))
    foreseen = trace(workload, p, phase, before)
    assert foreseen.peak_tensor_bytes > foreseen.weight_bytes > 0
    assert foreseen.activation_bytes > 0
    assert foreseen.step_flops > 0
    json.dumps(foreseen.as_json())


def test_the_footprint_sees_half_precision() -> None:
    (full,), (half,) = (footprint(Noiser(), NoiserParameters(precision=kind)) for kind in ("fp32", "bf16"))
    assert half.activation_bytes < 0.9 * full.activation_bytes


def test_a_workload_without_an_example_batch_says_what_to_write() -> None:
    class Silent(Plain):
        name = "silent"
        example_batch = Workload.example_batch

    with pytest.raises(NotOffered, match="write `example_batch`"):
        footprint(Silent(), PlainParameters())


def test_a_phase_that_follows_itself_is_refused_instead_of_walked_for_ever() -> None:
    class Endless(Plain):
        name = "endless"

        def next_phase(self, p: PlainParameters, facts: Mapping[str, Mapping[str, Any]]) -> Phase | None:
            return super().next_phase(p, {})

    with pytest.raises(ValueError, match="'dense' follows itself"):
        list(rehearse(Endless(), PlainParameters()))
