"""How often the ring is right, next to a straight line, which no ring can be told by."""

import torch
from tessera_workloads.protocol import Batch
from torch import nn


def accuracy(model: nn.Module, test: Batch) -> float:
    """Share of points whose ring the model names."""
    return float(((model(test["points"]) > 0) == test["rings"].bool()).float().mean())


def accuracy_of_a_line(test: Batch) -> float:
    """The control: the better side of the best of 16 lines through the origin."""
    angles = torch.arange(16, device=test["points"].device) * torch.pi / 16
    sides = test["points"] @ torch.stack([angles.cos(), angles.sin()]) > 0
    right = (sides == test["rings"].bool()[:, None]).float().mean(dim=0)
    return float(torch.maximum(right, 1 - right).max())
