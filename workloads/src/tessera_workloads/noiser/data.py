"""Noise to train on, photos to be judged by. Nothing is downloaded: the photos are in scikit-image's wheel.

The photos are darkened as `clip(0.12 x + N(0, 0.005))`, the same for every seed of a run, so that results
compare. Five of them are the test set; the night sky (`hubble_deep_field`) is the known failure and is never
averaged into it.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from skimage import data as bundled
from skimage.transform import resize

from tessera_workloads.protocol import Batch, Step
from tessera_workloads.randomness import derive_seed

Picture = NDArray[np.float32]
"""Height x width x 3, in [0, 1]."""

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "ihc")
NIGHT_SKY = "hubble_deep_field"
EXPOSURE = 0.12
SENSOR_NOISE = 0.005
SHORT_SIDE = 256
_LOADERS = {"ihc": bundled.immunohistochemistry}


@dataclass(frozen=True)
class Noise:
    """Endless Gaussian noise images, clamped to [-1, 1]: the only training data."""

    crop: int
    sigma: float

    def batch(self, size: int, step: Step) -> Batch:
        """(size, 3, crop, crop) from the step's generator."""
        shape = (size, 3, self.crop, self.crop)
        noise = torch.randn(shape, generator=step.generator, device=step.device)
        return {"noise": noise.mul_(self.sigma).clamp_(-1, 1)}

    def content_hash(self) -> str:
        """Hash of one sample, drawn on the CPU: equal for equal settings and an equal torch generator."""
        cpu = torch.device("cpu")
        probe = Step(
            "probe", 0, "probe", 0, torch.Generator().manual_seed(derive_seed(0, "noiser", "probe")), cpu
        )
        return _sha256([self.batch(1, probe)["noise"].numpy()])


@dataclass(frozen=True)
class Pair:
    """A photo and its darkened form."""

    name: str
    truth: Picture
    dark: Picture


class DarkPhotos:
    """The five test photos and the night sky, darkened."""

    @cached_property
    def photos(self) -> list[Pair]:
        """The test set."""
        return [make_pair(name) for name in PHOTOS]

    @cached_property
    def night_sky(self) -> Pair:
        """The picture that should stay dark."""
        return make_pair(NIGHT_SKY)

    def content_hash(self) -> str:
        """Hash over every dark and true picture, rounded to 8 bits so that it does not depend on the
        resizer's last bits.
        """
        pairs = [*self.photos, self.night_sky]
        return _sha256([to_bytes(picture) for pair in pairs for picture in (pair.dark, pair.truth)])


def make_pair(name: str) -> Pair:
    """Load a bundled photo, bring its short side to 256 pixels and darken it."""
    loader = _LOADERS.get(name) or getattr(bundled, name)
    original = loader()
    height, width = original.shape[:2]
    scale = SHORT_SIDE / min(height, width)
    shape = (round(height * scale), round(width * scale), 3)
    truth = resize(original, shape, anti_aliasing=True).astype(np.float32)
    random = np.random.default_rng(derive_seed(0, "noiser", "darkening", name))
    dark = np.clip(EXPOSURE * truth + random.normal(0, SENSOR_NOISE, truth.shape), 0, 1)
    return Pair(name=name, truth=truth, dark=dark.astype(np.float32))


def to_bytes(picture: Picture) -> NDArray[np.uint8]:
    """The picture in 8 bits per channel."""
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _sha256(arrays: list[NDArray[np.float32]] | list[NDArray[np.uint8]]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
