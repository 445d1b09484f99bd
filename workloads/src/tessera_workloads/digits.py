"""The handwritten digits that several workloads learn from: 1797 pictures of 8x8 in scikit-learn's wheel.

They are cut once, by the seed, into 1200 to train on and 597 to test with (one point of test accuracy is six
pictures). Nothing is downloaded. The file is read where scikit-learn keeps it, without importing
`sklearn.datasets`, which takes 2.5 s of processor time and 105 MiB in every pod.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tessera_workloads.errors import NotOffered
from tessera_workloads.protocol import Shard
from tessera_workloads.randomness import generator_at

TRAIN_IMAGES = 1200
CLASSES = 10
SIDE = 8
_BRIGHTEST = 16.0
_PICTURES_AT_ONCE = 512


@dataclass(frozen=True)
class Digits:
    """Pictures (N, 1, S, S) in [0, 1], with S = 8 as they are loaded, and their labels (N,), 0 to 9."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, chosen: slice | Tensor) -> "Digits":
        """Some of them, by a slice or by indices."""
        return Digits(self.images[chosen], self.labels[chosen])

    def stretch(self, shard: Shard) -> slice:
        """Where one client's share lies: a stretch of the digits, whose order is random.

        Raises:
            NotOffered: for another scheme than `iid`.
        """
        if shard.scheme != "iid":
            raise NotOffered(f"the digits are shared by the scheme iid, not by {shard.scheme!r}")
        return slice(*(at * len(self) // shard.count for at in (shard.index, shard.index + 1)))

    def shard(self, shard: Shard) -> "Digits":
        """One client's share; raises as `stretch` does."""
        return self.part(self.stretch(shard))

    def content_hash(self) -> str:
        """SHA-256 over the pictures and the labels, in their order."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.labels):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


def accuracy(network: nn.Module, digits: Digits, device: torch.device) -> float:
    """Share of the pictures whose largest logit is their label's."""
    with torch.no_grad():
        found = [network(some.to(device)).argmax(1) for some in torch.split(digits.images, _PICTURES_AT_ONCE)]
    return float((torch.cat(found) == digits.labels.to(device)).float().mean())


def load_digits_split(seed: int) -> tuple[Digits, Digits]:
    """The training and the test part, cut and ordered by the seed."""
    table = torch.from_numpy(_read_table())
    images = table[:, :-1].reshape(-1, 1, SIDE, SIDE) / _BRIGHTEST
    digits = Digits(images, table[:, -1].long())
    order = torch.randperm(len(digits), generator=generator_at(torch.device("cpu"), seed, "digits", "split"))
    return digits.part(order[:TRAIN_IMAGES]), digits.part(order[TRAIN_IMAGES:])


@cache
def _read_table() -> NDArray[np.float32]:
    """One row per digit: 64 pixels from 0 to 16, then the label."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the digits come with scikit-learn, which is not installed")
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    return np.loadtxt(path, delimiter=",", dtype=np.float32)
