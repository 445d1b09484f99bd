"""Turn a declared optimiser (`OptimizerSpec`) into torch's, for exactly the model parameters that an update
trains.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from tessera_workloads.protocol import OptimizerSpec, Update


@dataclass(frozen=True)
class BuiltOptimizer:
    """An update's optimiser with the parameters that it trains and each group's learning-rate factor."""

    update: Update
    optimizer: torch.optim.Optimizer
    trained: list[nn.Parameter]
    lr_scales: list[float]

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of this step, group by group."""
        for group, scale in zip(self.optimizer.param_groups, self.lr_scales, strict=True):
            group["lr"] = lr * scale

    def step(self) -> None:
        """Clip if the spec says so, then update the weights."""
        clip = self.update.optimizer.clip_norm
        if clip is not None:
            nn.utils.clip_grad_norm_(self.trained, clip)
        self.optimizer.step()


def build_optimizer(model: nn.Module, update: Update) -> BuiltOptimizer:
    """Build the optimiser of one update.

    Raises:
        ValueError: when the update's patterns match no parameter of the model (a defect of the workload).
    """
    spec = update.optimizer
    named = [
        (name, tensor)
        for name, tensor in model.named_parameters()
        if any(fnmatchcase(name, pattern) for pattern in update.trains)
    ]
    if not named:
        raise ValueError(
            f"update {update.name!r} trains {update.trains}, which matches no parameter of the model"
        )
    groups: list[dict[str, Any]] = []
    scales: list[float] = []
    remaining = named
    for group in spec.groups:
        matched = [tensor for name, tensor in remaining if fnmatchcase(name, group.match)]
        remaining = [(name, tensor) for name, tensor in remaining if not fnmatchcase(name, group.match)]
        if matched:
            decay = spec.weight_decay if group.weight_decay is None else group.weight_decay
            groups.append({"params": matched, "weight_decay": decay})
            scales.append(group.lr_scale)
    if remaining:
        groups.append({"params": [tensor for _, tensor in remaining], "weight_decay": spec.weight_decay})
        scales.append(1.0)
    return BuiltOptimizer(
        update=update,
        optimizer=_construct(spec, groups),
        trained=[tensor for _, tensor in named],
        lr_scales=scales,
    )


def _construct(spec: OptimizerSpec, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
    # The rate given here is a placeholder that must never be used: `set_lr` precedes every step.
    if spec.kind == "sgd":
        return torch.optim.SGD(list(groups), lr=0.0, momentum=spec.momentum, fused=True)
    kind = torch.optim.AdamW if spec.kind == "adamw" else torch.optim.Adam
    return kind(list(groups), lr=0.0, betas=spec.betas, eps=spec.eps, fused=True)
