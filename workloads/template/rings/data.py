"""Points on two rings with some noise. Made from nothing, so nothing is downloaded."""

import hashlib
import math
from dataclasses import dataclass

import torch
from tessera_workloads.protocol import Batch, Step

RADII = (0.5, 1.0)
NOISE = 0.1


@dataclass(frozen=True)
class Points:
    """Endless points; each step draws its own from its generator."""

    def batch(self, size: int, step: Step) -> Batch:
        """`points` (size, 2) and `rings` (size), 0 for the inner ring and 1 for the outer one."""
        return draw(size, step.generator, step.device)

    def content_hash(self) -> str:
        """Hash of a sample: it changes when the way of drawing does."""
        sample = draw(8, torch.Generator().manual_seed(0), torch.device("cpu"))
        return hashlib.sha256(sample["points"].numpy().tobytes()).hexdigest()


def draw(size: int, generator: torch.Generator, device: torch.device) -> Batch:
    """`size` points, on either ring with equal probability."""
    rings = torch.randint(2, (size,), generator=generator, device=device)
    angle = torch.rand(size, generator=generator, device=device) * 2 * math.pi
    radius = RADII[0] + (RADII[1] - RADII[0]) * rings
    points = radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return {
        "points": points + NOISE * torch.randn((size, 2), generator=generator, device=device),
        "rings": rings,
    }
