"""NoiSER's network and loss against the formulas, computed by hand or by plain numpy."""

import numpy as np
import pytest
import torch
from tessera_workloads.noiser.data import Noise
from tessera_workloads.noiser.model import NoiserNet, self_regression_loss, total_variation
from tessera_workloads.noiser.parameters import NoiserParameters
from tessera_workloads.noiser.workload import Noiser
from tessera_workloads.protocol import Loss
from tessera_workloads.stepping import initialise
from torch.func import functional_call
from training_step import some_step


def test_total_variation_of_a_two_by_two_picture() -> None:
    picture = torch.tensor([[[[1.0, 3.0], [2.0, 7.0]]]])
    # vertical: (2-1)^2 + (7-3)^2 = 17; horizontal: (3-1)^2 + (7-2)^2 = 29; 4 numbers
    assert total_variation(picture).item() == pytest.approx((17 + 29) / 4)


def test_loss_is_l1_plus_weighted_total_variation() -> None:
    output = torch.tensor([[[[0.0, 0.5], [1.0, 0.25]]]])
    noise = torch.tensor([[[[1.0, 0.5], [-1.0, 0.0]]]])
    total, parts = self_regression_loss(output, noise, 0.5)
    assert parts["l1"].item() == pytest.approx((1 + 0 + 2 + 0.25) / 4)
    # vertical: 1^2 + 0.25^2 = 1.0625; horizontal: 0.5^2 + 0.75^2 = 0.8125
    assert parts["tv"].item() == pytest.approx((1.0625 + 0.8125) / 4)
    assert total.item() == pytest.approx(parts["l1"].item() + 0.5 * parts["tv"].item())


def test_total_variation_divides_by_batch_channels_and_size() -> None:
    random = np.random.default_rng(0)
    picture = random.normal(size=(2, 3, 5, 7)).astype(np.float32)
    expected = (np.diff(picture, axis=2) ** 2).sum() + (np.diff(picture, axis=3) ** 2).sum()
    assert total_variation(torch.from_numpy(picture)).item() == pytest.approx(
        expected / picture.size, rel=1e-5
    )


@pytest.mark.parametrize("hidden", [1, 16, 32, 36])
def test_the_network_has_55h_plus_3_parameters(hidden: int) -> None:
    assert sum(tensor.numel() for tensor in NoiserNet(hidden).parameters()) == 55 * hidden + 3


def test_the_network_normalises_the_global_level_away() -> None:
    model, picture = NoiserNet(8), torch.rand((1, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    initialise(Noiser(), model, seed=0)
    with torch.no_grad():
        first, brighter = model(picture), model(picture * 3)
    assert (first - brighter).abs().max() < 1e-3


def test_the_model_can_be_built_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = Noiser().build_model(NoiserParameters(), {})
    assert all(tensor.is_meta for tensor in model.parameters())


def test_the_loss_is_pure_and_traceable() -> None:
    p, workload = NoiserParameters(hidden=4, crop=16), Noiser()
    model = workload.build_model(p, {})
    batch = Noise(crop=16, sigma=3).batch(2, some_step())
    weights: dict[str, torch.Tensor] = dict(model.named_parameters())

    class Functional(torch.nn.Module):
        def forward(self, noise: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = functional_call(model, weights, (noise,))
            return result

    plain = workload.loss(p, model, batch, some_step())
    assert isinstance(plain, Loss)
    assert torch.equal(plain.total, workload.loss(p, Functional(), batch, some_step()).total)
    # Under vmap no value can be read or indexed by: `float()` and boolean masks would raise.
    per_sample = torch.func.vmap(
        lambda noise: workload.loss(p, model, {"noise": noise[None]}, some_step()).total
    )
    assert per_sample(batch["noise"]).mean().item() == pytest.approx(plain.total.item(), rel=1e-5)


def test_noise_is_clamped_and_depends_on_the_step_alone() -> None:
    noise = Noise(crop=16, sigma=3)
    first, again, other = (noise.batch(2, some_step(step))["noise"] for step in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (2, 3, 16, 16)
    assert first.min() == -1
    assert first.max() == 1
    # P(|N(0, 9)| > 1) = 0.739: most pixels are clamped
    assert 0.65 < (first.abs() == 1).float().mean() < 0.82
