"""The handwritten digits that several workloads learn from: 1797 pictures of 8x8, inside scikit-learn's wheel.

They are cut once, by the seed, into 1200 to train on and 597 to test with (one point of test accuracy is six
pictures). Nothing is downloaded.
"""

import hashlib
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from tessera_workloads.randomness import generator_at

TRAIN_IMAGES = 1200
CLASSES = 10
SIDE = 8
_BRIGHTEST = 16.0


@dataclass(frozen=True)
class Digits:
    """Pictures (N, 1, 8, 8) in [0, 1] and their labels (N,), 0 to 9."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def content_hash(self) -> str:
        """SHA-256 over the pictures and the labels, in their order."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.labels):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


def load_digits_split(seed: int) -> tuple[Digits, Digits]:
    """The training and the test part, cut and ordered by the seed."""
    bundled = load_digits()
    images = torch.from_numpy(bundled.images).float()[:, None] / _BRIGHTEST
    labels = torch.from_numpy(bundled.target).long()
    order = torch.randperm(len(labels), generator=generator_at(torch.device("cpu"), seed, "digits", "split"))
    train, test = order[:TRAIN_IMAGES], order[TRAIN_IMAGES:]
    return Digits(images[train], labels[train]), Digits(images[test], labels[test])
