"""A network with one hidden layer."""

import torch
from torch import Tensor, nn


class RingsNet(nn.Module):
    """Points (B, 2) to the log-odds of the outer ring (B)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.lower = nn.Linear(2, hidden)
        self.upper = nn.Linear(hidden, 1)

    def forward(self, points: Tensor) -> Tensor:
        """The log-odds."""
        odds: Tensor = self.upper(torch.relu(self.lower(points)))
        return odds.squeeze(-1)
