"""Turn a declared optimiser (`OptimizerSpec`) into torch's, for exactly the parameters that an update trains.

torch's optimisers import torch's compiler at their first use, only to keep themselves out of compiled
regions. That takes as much CPU time as importing torch itself, in every pod that starts. The loop calls its
optimisers eagerly, never inside a compiled region, so the compiler is left out (`_spare_the_compiler`,
`BuiltOptimizer.step`).
"""

import inspect
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

    def state_tensors(self) -> list[torch.Tensor]:
        """What the optimiser keeps between steps; empty before its first one."""
        held = [value for state in self.optimizer.state.values() for value in state.values()]
        return [value for value in held if isinstance(value, torch.Tensor)]

    def step(self) -> None:
        """Clip if the spec says so, then update the weights."""
        clip = self.update.optimizer.clip_norm
        if clip is not None:
            nn.utils.clip_grad_norm_(self.trained, clip)
        # The plain method: its decorators only add the compiler's graph breaks, and switching gradients off.
        with torch.no_grad():
            inspect.unwrap(type(self.optimizer).step)(self.optimizer)


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


def _spare_the_compiler() -> None:
    """Mark the decorated methods of torch's optimisers as already kept out of compiled regions.

    `torch._compile._disable_dynamo` remembers its work in this attribute; with another torch it is without
    effect.
    """
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        method = inspect.unwrap(getattr(torch.optim.Optimizer, name))
        method.__dict__.setdefault("__dynamo_disable", method)


def _construct(spec: OptimizerSpec, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
    _spare_the_compiler()
    # The rate given here is a placeholder that must never be used: `set_lr` precedes every step.
    if spec.kind == "sgd":
        return torch.optim.SGD(list(groups), lr=0.0, momentum=spec.momentum, fused=True)
    kind = torch.optim.AdamW if spec.kind == "adamw" else torch.optim.Adam
    return kind(list(groups), lr=0.0, betas=spec.betas, eps=spec.eps, fused=True)
