"""How good are the found networks, what do they cost, and do shift and add learn by the gradients they claim?

The gradients are compared with central differences of the surrogate functions in double precision; the
functions are written out here in the plainest way, on their own.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tessera_workloads.nasa.operators import ADDER_RATE, NegativeDistance, PowerOfTwo
from tessera_workloads.nasa.space import Architecture

_DIFFERENCE = 1e-5


@dataclass(frozen=True)
class Scored:
    """A named network: what it is, what it costs, and its test accuracy in each training."""

    name: str
    architecture: Architecture
    cost: float
    energy_pj: float
    accuracies: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        """Mean over the trainings."""
        return sum(self.accuracies) / len(self.accuracies)


def falls(costs: list[float]) -> int:
    """Steps from one cost to the next in which it does not rise."""
    return sum(after <= before for before, after in itertools.pairwise(costs))


def pareto_front(scored: list[Scored]) -> list[Scored]:
    """Those that no other one beats in cost or accuracy without losing in the other, by rising cost."""
    front: list[Scored] = []
    for one in sorted(scored, key=lambda one: (one.cost, -one.accuracy)):
        if not front or one.accuracy > front[-1].accuracy:
            front.append(one)
    return front


def gradient_errors() -> Mapping[str, float]:
    """Largest error of each surrogate gradient, relative to the gradient's norm, on one random layer each."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return {
        "shift": shift_gradient_error(draw(6, 5), 3 * draw(6, 5) - 4, draw(6, 5)),
        "adder": adder_gradient_error(draw(2, 2, 5, 4), draw(2, 3, 5), draw(2, 2, 3, 4)),
    }


def shift_gradient_error(sign: Tensor, exponent: Tensor, upstream: Tensor) -> float:
    """Of the weights sign(s) 2^round(p), against differences of s 2^p at (sign(s), round(p))."""
    found = _gradients(PowerOfTwo.apply, (sign, exponent), upstream)
    at_sign, at_exponent = sign.sign(), exponent.round().clamp(-14, 0)
    return max(
        _relative_error(found[0], _differences(lambda s: (upstream * s * 2**at_exponent).sum(), at_sign)),
        _relative_error(found[1], _differences(lambda p: (upstream * at_sign * 2**p).sum(), at_exponent)),
    )


def adder_gradient_error(patches: Tensor, weight: Tensor, upstream: Tensor) -> float:
    """Of -sum |w - x|, against differences of -1/2 sum (x - w)^2 for w and of -sum Huber(w - x) for x."""

    def squares(weight: Tensor) -> Tensor:
        apart = patches[:, :, None] - weight[..., None]
        return (upstream * (-apart.square() / 2).sum(3)).sum()

    def huber(patches: Tensor) -> Tensor:
        apart = (weight[..., None] - patches[:, :, None]).abs()
        return (upstream * -torch.where(apart <= 1, apart.square() / 2, apart - 0.5).sum(3)).sum()

    for_patches, for_weight = _gradients(NegativeDistance.apply, (patches, weight), upstream)
    expected = _differences(squares, weight)
    expected *= ADDER_RATE * math.sqrt(weight.numel()) / expected.norm()
    return max(
        _relative_error(for_weight, expected), _relative_error(for_patches, _differences(huber, patches))
    )


def _gradients(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...], upstream: Tensor
) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        leaves = tuple(tensor.clone().requires_grad_() for tensor in inputs)
        return torch.autograd.grad((function(*leaves) * upstream).sum(), leaves)


def _differences(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Central differences of a scalar function, one coordinate at a time."""
    result = torch.empty_like(at)
    for index in range(at.numel()):
        step = torch.zeros_like(at)
        step.view(-1)[index] = _DIFFERENCE
        result.view(-1)[index] = (function(at + step) - function(at - step)) / (2 * _DIFFERENCE)
    return result


def _relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.norm())
