"""The workload: one phase of classification, one gate, one control."""

from collections.abc import Mapping

import torch
from tessera_workloads.protocol import (
    Artefacts,
    Batch,
    Check,
    Dataset,
    FederatedView,
    Loss,
    Metrics,
    Mode,
    OptimizerSpec,
    Phase,
    Shard,
    Split,
    Step,
    Update,
    Workload,
)
from tessera_workloads.randomness import generator_at
from torch import nn

from rings.data import Points, draw
from rings.evaluation import accuracy, accuracy_of_a_line
from rings.model import RingsNet
from rings.parameters import RingsParameters

TEST_POINTS = 2000
LEAST_ACCURACY = 0.95


class Rings(Workload[RingsParameters]):
    """Two rings."""

    name = "rings"
    version = "1"
    Parameters = RingsParameters

    def make_data(self, p: RingsParameters, *, split: Split, seed: int, shard: Shard | None = None) -> Points:
        """The same source for both splits: it never repeats a point."""
        return Points()

    def build_model(self, p: RingsParameters, artefacts: Mapping[str, Artefacts]) -> RingsNet:
        """The network of `model`."""
        return RingsNet(p.hidden)

    def phases(self, p: RingsParameters) -> tuple[Phase, ...]:
        """One phase."""
        update = Update(OptimizerSpec(kind="adamw", weight_decay=0.01))
        return (Phase("train", p.steps, p.batch, (update,), lr_at=lambda step: p.learning_rate),)

    def loss(self, p: RingsParameters, model: nn.Module, batch: Batch, step: Step) -> Loss:
        """Binary cross-entropy."""
        odds = model(batch["points"])
        return Loss(nn.functional.binary_cross_entropy_with_logits(odds, batch["rings"].to(odds.dtype)), {})

    def evaluate(self, p: RingsParameters, model: nn.Module, data: Dataset, device: torch.device) -> Metrics:
        """Accuracy on fresh points."""
        test = draw(TEST_POINTS, generator_at(device, 0, "test"), device)
        return Metrics({"accuracy": accuracy(model, test), "accuracy_of_a_line": accuracy_of_a_line(test)})

    def checks(self, p: RingsParameters, metrics: Metrics) -> list[Check]:
        """The network must know; a line must not be able to."""
        return [
            Check.at_least("accuracy", metrics.values["accuracy"], LEAST_ACCURACY),
            Check.note("accuracy of a line", metrics.values["accuracy_of_a_line"], kind="control"),
        ]

    def example_batch(self, p: RingsParameters, size: int, mode: Mode, step: Step) -> Batch:
        """Points; a request does not bring the answer."""
        batch = draw(size, step.generator, step.device)
        return batch if mode == "train" else {"points": batch["points"]}

    def federated(self, p: RingsParameters) -> FederatedView:
        """Everything is shared."""
        return FederatedView(phase="train", shared=("*",))
