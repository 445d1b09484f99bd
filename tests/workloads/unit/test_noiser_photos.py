"""The photos, the trivial methods beside NoiSER, and the picture that shows them."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from tessera_workloads.noiser import evaluation
from tessera_workloads.noiser.data import EXPOSURE, NIGHT_SKY, PHOTOS, DarkPhotos, Noise, make_pair
from tessera_workloads.noiser.parameters import NoiserParameters
from tessera_workloads.noiser.picture import Row, draw_grid
from tessera_workloads.noiser.workload import Noiser
from tessera_workloads.protocol import Metrics


@pytest.fixture(scope="module")
def photos() -> DarkPhotos:
    return DarkPhotos()


def test_photos_have_a_short_side_of_256_and_are_dark(photos: DarkPhotos) -> None:
    assert [pair.name for pair in photos.photos] == list(PHOTOS)
    for pair in photos.photos:
        assert min(pair.truth.shape[:2]) == 256
        assert pair.dark.mean() == pytest.approx(EXPOSURE * pair.truth.mean(), abs=0.002)
    assert photos.night_sky.name == NIGHT_SKY


def test_the_data_hash_is_stable_and_sees_a_change(photos: DarkPhotos) -> None:
    assert photos.content_hash() == DarkPhotos().content_hash()
    changed = DarkPhotos()
    changed.photos[0].dark[0, 0, 0] += 0.5
    assert changed.content_hash() != photos.content_hash()
    assert Noise(crop=16, sigma=3).content_hash() == Noise(crop=16, sigma=3).content_hash()
    assert Noise(crop=16, sigma=3).content_hash() != Noise(crop=16, sigma=1).content_hash()


def test_gain_brings_an_unclipped_picture_to_the_target_mean() -> None:
    dark = np.full((4, 4, 3), 0.1, dtype=np.float32)
    assert evaluation.gain(dark).mean() == pytest.approx(0.5)
    assert evaluation.gamma(dark).mean() == pytest.approx(0.5)
    tinted = dark * np.array([1, 0.5, 0.25], dtype=np.float32)
    assert evaluation.channel_gain(tinted).mean(axis=(0, 1)) == pytest.approx([0.5, 0.5, 0.5])


def test_shifting_the_mean_gives_the_target_mean_per_channel() -> None:
    picture = np.random.default_rng(0).uniform(0.4, 0.6, (8, 8, 3)).astype(np.float32)
    target = np.array([0.3, 0.4, 0.5], dtype=np.float32)
    assert evaluation.shift_mean(picture, target).mean(axis=(0, 1)) == pytest.approx(target, abs=1e-5)


def test_a_picture_off_by_a_tenth_scores_20_db() -> None:
    truth = make_pair("ihc").truth
    off = evaluation.score(truth + np.float32(0.1), truth)
    assert off.psnr == pytest.approx(20, abs=1e-3)
    assert off.psnr == pytest.approx(
        peak_signal_noise_ratio(truth, truth + np.float32(0.1), data_range=1.0), abs=1e-3
    )
    assert evaluation.psnr(truth, truth) == float("inf")
    assert 0.9 < off.ssim < 1
    assert off.mean == pytest.approx(truth.mean() + 0.1, abs=1e-5)


def metrics(**changes: float) -> Metrics:
    values = {"parameters": 1763.0, "photos_improved": 4.0, "ssim_noiser": 0.65, "psnr_noiser": 15.0}
    for method in ("dark", *evaluation.CONTROLS):
        values |= {f"ssim_{method}": 0.5, f"psnr_{method}": 12.0}
    sky = [{"picture": "shifted true mean", "psnr": 22.0, "ssim": 0.68, "mean": 0.05}]
    values |= {"night_sky_ssim_shifted_true_mean": 0.68, "tiling_difference": 1e-6}
    return Metrics(values=values | changes, tables={"photos": [], "night_sky": sky})


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({}, []),
        ({"photos_improved": 3.0}, ["photos improved (of 5)"]),
        ({"parameters": 2001.0}, ["parameters"]),
        ({"ssim_noiser": 0.49}, ["mean SSIM above the gain baseline"]),
        ({"ssim_noiser": float("nan")}, ["mean SSIM above the gain baseline"]),
        ({"night_sky_ssim_shifted_true_mean": 0.59}, ["night sky repaired by its true mean: SSIM"]),
        ({"tiling_difference": 2e-5}, ["tiled and whole picture: largest difference"]),
    ],
)
def test_each_gate_fails_on_its_own_number(changes: dict[str, float], failing: list[str]) -> None:
    checks = Noiser().checks(NoiserParameters(), metrics(**changes))
    assert [check.name for check in checks if not check.passed] == failing
    assert all(check.kind == "gate" for check in checks if check.bound)


def test_the_sheet_has_a_row_per_photo_and_three_columns() -> None:
    white, black = np.ones((20, 30, 3), dtype=np.float32), np.zeros((20, 30, 3), dtype=np.float32)
    rows = [
        Row(title=f"photo {index}", notes=["a note"], pictures=(black, white, black)) for index in range(2)
    ]
    sheet = Image.open(BytesIO(draw_grid(rows, caption="a caption")))
    taller = Image.open(BytesIO(draw_grid(rows * 2, caption="a caption")))
    assert sheet.width > sheet.height / 2
    assert taller.height > sheet.height
    assert taller.width == sheet.width
