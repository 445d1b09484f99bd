"""The network and its objective: two 3x3 convolutions around an instance norm; L1 to the noise plus total
variation.
"""

import torch
from torch import Tensor, nn


class NoiserNet(nn.Module):
    """Conv3x3 3->h, InstanceNorm (no affine), GELU, Conv3x3 h->3, tanh: 55h + 3 parameters.

    Maps (B, 3, H, W) in [-1, 1] to the same shape and range. The norm is over the whole picture, so a picture
    that is cut into tiles comes out differently.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, hidden, kernel_size=3, padding=1)
        self.norm = nn.InstanceNorm2d(hidden)
        self.activation = nn.GELU()
        self.last = nn.Conv2d(hidden, 3, kernel_size=3, padding=1)

    def forward(self, picture: Tensor) -> Tensor:
        """Regress the picture onto itself."""
        result: Tensor = torch.tanh(self.last(self.activation(self.norm(self.first(picture)))))
        return result


def total_variation(picture: Tensor) -> Tensor:
    """(sum of squared vertical differences + sum of squared horizontal ones) / (B*C*H*W)."""
    vertical = (picture[..., 1:, :] - picture[..., :-1, :]).square().sum()
    horizontal = (picture[..., :, 1:] - picture[..., :, :-1]).square().sum()
    return (vertical + horizontal) / picture.numel()


def self_regression_loss(output: Tensor, noise: Tensor, tv_weight: float) -> tuple[Tensor, dict[str, Tensor]]:
    """L1(output, noise) + tv_weight * TV(output), and both terms by name."""
    reconstruction = (output - noise).abs().mean()
    variation = total_variation(output)
    return reconstruction + tv_weight * variation, {"l1": reconstruction, "tv": variation}
