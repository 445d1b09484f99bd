"""Handwritten digits, drawn at any size: the 8x8 originals are scaled up while the batch is made.

Scaling, turning and shifting are one bilinear sampling of the original, so a larger picture costs no memory
beyond its batch. Test pictures are only scaled.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from tessera_workloads.digits import Digits
from tessera_workloads.protocol import Batch, Shard, Step

LARGEST_SHIFT = 0.14
"""In units of half a picture."""
LARGEST_TURN = math.radians(10)
LARGEST_ZOOM = 0.1
_PIXELS_AT_ONCE = 100 * 28**2


@dataclass(frozen=True)
class Pictures:
    """Digits as pictures of `side` x `side`."""

    digits: Digits
    side: int

    def batch(self, size: int, step: Step) -> Batch:
        """`size` digits, each moved at random: `image` (B, 1, side, side) and `label` (B,).

        They are different ones, unless there are fewer, as a client may have.
        """
        count, generator, device = len(self.digits), step.generator, step.device
        if size <= count:
            chosen = torch.randperm(count, generator=generator, device=device)[:size]
        else:
            chosen = torch.randint(count, (size,), generator=generator, device=device)
        moves = torch.rand((size, 4), generator=generator, device=device) * 2 - 1
        part = self.digits.part(chosen.cpu())
        image = move(part.images.to(device), self.side, moves)
        return {"image": image, "label": part.labels.to(device)}

    def in_order(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Every digit once, unmoved, as (image, label) batches."""
        size = max(1, _PIXELS_AT_ONCE // self.side**2)
        for start in range(0, len(self.digits), size):
            part = self.digits.part(slice(start, start + size))
            unmoved = torch.zeros((len(part), 4), device=device)
            yield move(part.images.to(device), self.side, unmoved), part.labels.to(device)

    def images(self, device: torch.device) -> Iterator[Tensor]:
        """Every digit once, unmoved, without its label."""
        return (images for images, _ in self.in_order(device))

    def shard(self, shard: Shard) -> "Pictures":
        """One client's share; raises as `Digits.stretch` does."""
        return replace(self, digits=self.digits.shard(shard))

    def content_hash(self) -> str:
        """The digits' own."""
        return self.digits.content_hash()


def move(images: Tensor, side: int, moves: Tensor) -> Tensor:
    """Scale (B, 1, h, w) up to `side`, turned, zoomed and shifted by `moves` (B, 4), each in [-1, 1]."""
    turn, zoom = moves[:, 0] * LARGEST_TURN, 1 + moves[:, 1] * LARGEST_ZOOM
    shift = moves[:, 2:] * LARGEST_SHIFT
    rows = [
        torch.stack([zoom * turn.cos(), -zoom * turn.sin(), shift[:, 0]], dim=1),
        torch.stack([zoom * turn.sin(), zoom * turn.cos(), shift[:, 1]], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), [len(images), 1, side, side], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
