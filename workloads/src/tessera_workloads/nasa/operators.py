"""Convolution without multiplication: shift layers and adder layers, and the gradients by which they
learn.

Neither has a useful derivative: a rounded exponent has none, and that of a distance is only a sign. Both
learn by *surrogates*: the gradient that is passed back belongs to a smooth function beside the one that is
computed (tests and the evaluation compare it with finite differences of that function):

- shift: y = sign(s) 2^round(p) x passes back the derivative of s 2^p x at (sign(s), round(p));
- adder: y = -sum |w - x| passes back that of -1/2 sum (x - w)^2 for w, rescaled to norm eta sqrt(n), and that
  of -sum Huber(w - x) for x (AdderNet, arXiv 1912.13200).

The adder never holds all its differences: it takes some output channels at a time, as many as fit into a
processor's cache or an eighth of them, and its weights' gradient is a matrix product.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tessera_workloads.nasa.space import Operation

LOWEST_EXPONENT = -14
"""5 bits: a sign and exponents from -(2^4 - 2) to 0."""

DIFFERENCES_AT_ONCE, MOST_PARTS = 2**17, 8
"""An adder layer computes so many differences at once, or an eighth of all, if that is more."""

ADDER_RATE = 0.2
"""eta of AdderNet: every adder layer's weights move by a gradient of the norm eta sqrt(n)."""


class PowerOfTwo(torch.autograd.Function):
    """sign(s) 2^round(p), with p clamped to [-14, 0]; the gradient goes straight through all three."""

    generate_vmap_rule = True

    @staticmethod
    def forward(sign: Tensor, exponent: Tensor) -> Tensor:
        """The weight."""
        return sign.sign() * _power(exponent)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Keep both parameters."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """d(s 2^p): 2^p for s and s 2^p ln 2 for p."""
        sign, exponent = ctx.saved_tensors
        for_sign = gradient * _power(exponent)
        return for_sign, for_sign * sign.sign() * math.log(2)


def _power(exponent: Tensor) -> Tensor:
    return exponent.round().clamp(LOWEST_EXPONENT, 0).exp2()


class NegativeDistance(torch.autograd.Function):
    """-sum_k |w - x|: (B, G, K, L) patches and (G, O, K) weights give (B, G, O, L). Groups do not mix."""

    generate_vmap_rule = True

    @staticmethod
    def forward(patches: Tensor, weight: Tensor) -> Tensor:
        """The distances."""
        return torch.cat([-apart.abs_().sum(3) for apart, _ in _apart(patches, weight)], dim=2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Keep both."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The surrogates' gradients (see the module)."""
        patches, weight = ctx.saved_tensors
        for_patches = torch.zeros_like(patches)
        for apart, outputs in _apart(patches, weight):
            for_patches = for_patches + (gradient[:, :, outputs, None] * apart.clamp_(-1, 1)).sum(2)
        for_weight = torch.einsum("bgol,bgkl->gok", gradient, patches)
        for_weight = for_weight - weight * gradient.sum((0, 3))[..., None]
        norm = for_weight.norm().clamp_min(torch.finfo(for_weight.dtype).tiny)
        return for_patches, for_weight * (ADDER_RATE * math.sqrt(weight.numel()) / norm)


def _apart(patches: Tensor, weight: Tensor) -> Iterator[tuple[Tensor, slice]]:
    """w - x for some output channels after the others: (B, G, o, K, L), and which channels these are."""
    all_outputs = weight.shape[1]
    at_once = max(-(-all_outputs // MOST_PARTS), DIFFERENCES_AT_ONCE // patches.numel())
    for first in range(0, all_outputs, at_once):
        outputs = slice(first, first + at_once)
        yield weight[:, outputs, :, None] - patches[:, :, None], outputs


class ShiftConv2d(nn.Module):
    """A convolution whose weights are powers of two: parameters `sign` and `exponent`, no bias."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int, groups: int) -> None:
        super().__init__()
        shape = (outputs, inputs // groups, kernel, kernel)
        self.sign, self.exponent = nn.Parameter(torch.empty(shape)), nn.Parameter(torch.empty(shape))
        self.stride, self.groups = stride, groups

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H / stride, W / stride)."""
        weight = PowerOfTwo.apply(self.sign, self.exponent)
        return functional.conv2d(
            features, weight, stride=self.stride, padding=weight.shape[-1] // 2, groups=self.groups
        )


class AdderConv2d(nn.Module):
    """A convolution whose products are negative distances; parameter `weight`, no bias."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int, groups: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, outputs // groups, inputs // groups * kernel**2))
        self.kernel, self.stride = kernel, stride

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H / stride, W / stride)."""
        batch, height, width = features.shape[0], *(side // self.stride for side in features.shape[2:])
        groups, _, taps = self.weight.shape
        columns = functional.unfold(features, self.kernel, padding=self.kernel // 2, stride=self.stride)
        distance: Tensor = NegativeDistance.apply(columns.view(batch, groups, taps, -1), self.weight)
        return distance.reshape(batch, -1, height, width)


def make_layer(
    operation: Operation, inputs: int, outputs: int, *, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Module:
    """One layer of a block in the arithmetic of the operation, without a bias and padded to keep the size."""
    if operation == "shift":
        return ShiftConv2d(inputs, outputs, kernel=kernel, stride=stride, groups=groups)
    if operation == "adder":
        return AdderConv2d(inputs, outputs, kernel=kernel, stride=stride, groups=groups)
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
