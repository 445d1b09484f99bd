"""Shift and adder layers against plain loops, and their gradients against differences of the surrogates."""

import math

import pytest
import torch
from tessera_workloads.nasa.evaluation import adder_gradient_error, gradient_errors
from tessera_workloads.nasa.operators import (
    ADDER_RATE,
    AdderConv2d,
    NegativeDistance,
    PowerOfTwo,
    ShiftConv2d,
)
from torch import Tensor
from torch.nn import functional


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_shift_weight_is_a_sign_times_a_power_of_two_of_five_bits() -> None:
    sign = torch.tensor([0.3, -0.1, 2.0, -5.0, 0.0])
    exponent = torch.tensor([-1.4, -1.6, 3.0, -20.0, -1.0])
    weight = PowerOfTwo.apply(sign, exponent)
    assert weight.tolist() == [0.5, -0.25, 1.0, -(2.0**-14), 0.0]


def test_a_shift_layer_is_a_convolution_with_those_weights() -> None:
    layer = ShiftConv2d(4, 4, kernel=3, stride=2, groups=4).double()
    layer.sign.data, layer.exponent.data = draw(4, 1, 3, 3), draw(4, 1, 3, 3, seed=1) - 2
    features = draw(2, 4, 6, 6, seed=2)
    weight = layer.sign.sign() * 2 ** layer.exponent.round().clamp(-14, 0)
    expected = functional.conv2d(features, weight, stride=2, padding=1, groups=4)
    assert torch.equal(layer(features), expected)


@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "stride", "groups"), [(3, 5, 1, 1, 1), (4, 4, 3, 2, 4), (4, 6, 3, 1, 2)]
)
def test_an_adder_layer_sums_distances(
    inputs: int, outputs: int, kernel: int, stride: int, groups: int
) -> None:
    layer = AdderConv2d(inputs, outputs, kernel=kernel, stride=stride, groups=groups).double()
    layer.weight.data = draw(*layer.weight.shape)
    features = draw(2, inputs, 4, 4, seed=1)
    padded = functional.pad(features, (kernel // 2,) * 4)
    weight = layer.weight.view(outputs, inputs // groups, kernel, kernel)
    expected = torch.zeros(2, outputs, 4 // stride, 4 // stride, dtype=torch.float64)
    for output in range(outputs):
        first = output // (outputs // groups) * (inputs // groups)
        for row in range(4 // stride):
            for column in range(4 // stride):
                down, right = row * stride, column * stride
                seen = padded[
                    :, first : first + inputs // groups, down : down + kernel, right : right + kernel
                ]
                expected[:, output, row, column] = -(seen - weight[output]).abs().sum((1, 2, 3))
    assert torch.allclose(layer(features), expected)


def test_the_gradients_are_those_of_the_surrogates() -> None:
    errors = gradient_errors()
    assert errors["shift"] < 1e-8
    assert errors["adder"] < 1e-8


def test_a_wrong_gradient_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessera_workloads.nasa.evaluation.ADDER_RATE", 0.3)
    assert adder_gradient_error(draw(2, 1, 3, 4), draw(1, 2, 3, seed=1), draw(2, 1, 2, 4, seed=2)) > 0.01


def test_an_adders_weights_move_by_a_gradient_of_fixed_norm() -> None:
    patches, weight = draw(2, 1, 4, 3), draw(1, 3, 4, seed=1).requires_grad_()
    for scale in (1e-3, 1e3):
        (gradient,) = torch.autograd.grad(scale * NegativeDistance.apply(patches, weight).sum(), weight)
        assert gradient.norm().item() == pytest.approx(ADDER_RATE * math.sqrt(weight.numel()))


def test_no_gradient_from_above_moves_nothing() -> None:
    patches, weight = draw(2, 1, 4, 3), draw(1, 3, 4, seed=1).requires_grad_()
    (gradient,) = torch.autograd.grad(0 * NegativeDistance.apply(patches, weight).sum(), weight)
    assert torch.equal(gradient, torch.zeros_like(weight))
