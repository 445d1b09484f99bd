"""A picture in tiles equals the whole picture, and a user's own picture file is answered."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tessera_workloads.errors import InvalidRequest
from tessera_workloads.noiser.model import NoiserNet
from tessera_workloads.noiser.parameters import NoiserParameters
from tessera_workloads.noiser.tiling import apply_tiled
from tessera_workloads.noiser.workload import Noiser

CPU = torch.device("cpu")


def trained_like() -> NoiserNet:
    """A network whose weights are not tiny, so that a wrong border shows."""
    model = NoiserNet(8)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.5)
    return model


def some_picture(height: int, width: int) -> torch.Tensor:
    """Brighter to the right, so that the tiles' own statistics differ from the picture's."""
    noise = torch.rand((2, 3, height, width), generator=torch.Generator().manual_seed(1))
    return (noise + torch.linspace(-1, 1, width)).clamp(-1, 1)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 31), (33, 97), (5, 200), (3, 2)])
@pytest.mark.parametrize("side", [7, 16, 32])
def test_tiles_give_the_whole_pictures_result(height: int, width: int, side: int) -> None:
    model, picture = trained_like(), some_picture(height, width)
    with torch.no_grad():
        whole, tiled = model(picture), apply_tiled(model, picture, side=side)
    assert (whole - tiled).abs().max() <= 1e-5


def test_tiling_without_the_pictures_statistics_would_be_wrong() -> None:
    model, picture = trained_like(), some_picture(64, 64)
    with torch.no_grad():
        naive = torch.cat([model(half) for half in picture.chunk(2, dim=3)], dim=3)
        assert (naive - model(picture)).abs().max() > 0.1


def test_a_users_picture_is_enhanced_at_its_own_size(tmp_path: Path) -> None:
    dark = (np.random.default_rng(0).uniform(0, 0.1, (40, 60, 3)) * 255).astype(np.uint8)
    Image.fromarray(dark).save(tmp_path / "dark.png")
    with torch.no_grad():
        metrics = Noiser().infer(NoiserParameters(), trained_like(), tmp_path / "dark.png", CPU)
    assert (metrics.values["height"], metrics.values["width"]) == (40, 60)
    assert metrics.values["mean_of_enhanced"] > metrics.values["mean_before"]
    assert set(metrics.files) == {"enhanced.png", "enhanced_mean_shifted.png"}
    for content in metrics.files.values():
        assert Image.open(BytesIO(content)).size == (60, 40)


def test_a_file_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(InvalidRequest, match=r"text\.png cannot be read as a picture"):
        Noiser().infer(NoiserParameters(), trained_like(), tmp_path / "text.png", CPU)
