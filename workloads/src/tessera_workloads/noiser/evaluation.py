"""How good is it, and is it better than one line of arithmetic?

PSNR rewards the right brightness and SSIM the right structure, so a plain gain beats NoiSER in PSNR and loses
in SSIM: both are printed, for NoiSER and for four trivial methods that know as much as it does (a target mean
of one half). The night sky shows what all of them get wrong, and what a supplied target mean repairs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.exposure import equalize_hist
from skimage.metrics import structural_similarity
from torch import Tensor

from tessera_workloads.noiser.data import EXPOSURE, Pair, Picture

TARGET_MEAN = 0.5
_LEAST_MEAN = 1e-6


@dataclass(frozen=True)
class Score:
    """Against the truth: PSNR in dB, SSIM, and the mean brightness of the picture itself."""

    psnr: float
    ssim: float
    mean: float


def score(picture: Picture, truth: Picture) -> Score:
    """Compare a picture with the truth, both in [0, 1]."""
    return Score(
        psnr=psnr(picture, truth),
        ssim=float(structural_similarity(truth, picture, data_range=1.0, channel_axis=2)),
        mean=float(picture.mean()),
    )


@dataclass(frozen=True)
class Enhanced:
    """A dark photo after the network, scored before and after."""

    pair: Pair
    picture: Picture
    before: Score
    after: Score


def enhance_and_score(model: Callable[[Tensor], Tensor], pair: Pair, device: torch.device) -> Enhanced:
    """Enhance one photo and compare it, and its dark form, with the truth."""
    picture = enhance(model, pair.dark, device)
    return Enhanced(pair, picture, score(pair.dark, pair.truth), score(picture, pair.truth))


def psnr(picture: Picture, truth: Picture) -> float:
    """Peak signal-to-noise ratio in dB at peak 1: -10 log10(mean squared error).

    The same as scikit-image's, whose import of scipy.stats would cost every pod a second or two.
    """
    squared = float(np.mean((picture.astype(np.float64) - truth) ** 2))
    return float("inf") if squared == 0 else -10 * float(np.log10(squared))


def enhance(model: Callable[[Tensor], Tensor], dark: Picture, device: torch.device) -> Picture:
    """Feed a dark picture to the network, which was trained on noise in [-1, 1]."""
    tensor = torch.from_numpy(dark).permute(2, 0, 1)[None].to(device) * 2 - 1
    output = (model(tensor)[0].permute(1, 2, 0).float().cpu() + 1) / 2
    picture: Picture = output.numpy().astype(np.float32)
    return picture


def gain(dark: Picture, target_mean: float = TARGET_MEAN) -> Picture:
    """Multiply by one number so that the mean would be the target, then clip."""
    return _clip(dark * (target_mean / max(float(dark.mean()), _LEAST_MEAN)))


def channel_gain(dark: Picture) -> Picture:
    """One such number per channel."""
    return _clip(dark * (TARGET_MEAN / np.maximum(dark.mean(axis=(0, 1)), _LEAST_MEAN)))


def equalise(dark: Picture) -> Picture:
    """Histogram equalisation, per channel."""
    return _clip(np.stack([equalize_hist(dark[..., channel]) for channel in range(3)], axis=2))


def gamma(dark: Picture) -> Picture:
    """The power that maps the mean to one half."""
    mean = min(max(float(dark.mean()), _LEAST_MEAN), 1 - _LEAST_MEAN)
    return _clip(np.power(dark, np.log(TARGET_MEAN) / np.log(mean)))


CONTROLS: Mapping[str, Callable[[Picture], Picture]] = {
    "gain": gain,
    "channel_gain": channel_gain,
    "histogram": equalise,
    "gamma": gamma,
}


def shift_mean(picture: Picture, target: Picture) -> Picture:
    """Subtract the picture's channel means and add the target's (3 numbers): our reading of the mean-shifted
    form.
    """
    return _clip(picture - picture.mean(axis=(0, 1)) + target)


def white_point_mean(dark: Picture) -> Picture:
    """Channel means that the picture would have if its brightest pixels (99.9th percentile) were white; needs
    no truth.
    """
    white = max(float(np.quantile(dark, 0.999)), _LEAST_MEAN)
    mean: Picture = np.minimum(dark.mean(axis=(0, 1)) / white, 1).astype(np.float32)
    return mean


def night_sky_scores(sky: Enhanced) -> dict[str, Score]:
    """The failure, its repair by a target mean, and the trivial pictures that know that mean as well."""
    pair, enhanced = sky.pair, sky.picture
    true_mean = pair.truth.mean(axis=(0, 1))
    pictures = {
        "shifted_true_mean": shift_mean(enhanced, true_mean),
        "shifted_exposure": shift_mean(enhanced, np.minimum(pair.dark.mean(axis=(0, 1)) / EXPOSURE, 1)),
        "shifted_white_point": shift_mean(enhanced, white_point_mean(pair.dark)),
        "constant_true_mean": np.broadcast_to(true_mean, pair.truth.shape).astype(np.float32),
        "gain_true_mean": gain(pair.dark, float(pair.truth.mean())),
    }
    scores = {name: score(picture, pair.truth) for name, picture in pictures.items()}
    return {"dark": sky.before, "noiser": sky.after} | scores


def _clip(picture: NDArray[np.floating]) -> Picture:
    clipped: Picture = np.clip(picture, 0, 1).astype(np.float32)
    return clipped
