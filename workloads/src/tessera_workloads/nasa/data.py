"""Handwritten digits with a little noise, a fresh one at every step; the test pictures have none.

Alone they hardly tell architectures apart. The small space's head therefore sees no more than the means over
the four quarters of a picture: what a cell does not find is lost, and networks that skip everywhere lose.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tessera_workloads.digits import SIDE, Digits
from tessera_workloads.nasa.phases import RETRAIN
from tessera_workloads.nasa.space import Space
from tessera_workloads.protocol import Batch, Shard, Step

NOISE = 0.05
"""Standard deviation of the pixel noise; digits lie in [0, 1]."""


@dataclass(frozen=True)
class NoisyDigits:
    """One split of the digits, in the size of a space.

    Where supernets train, the weights see the first half of the split and the update "gates" the second, so
    that gates are judged on digits that the weights have not seen.
    """

    digits: Digits
    space: Space

    def batch(self, size: int, step: Step) -> Batch:
        """Pictures (B, 1, S, S), labels (B,) and, for a supernet, the noise of its gates."""
        first, last = 0, len(self.digits)
        gated = step.phase != RETRAIN
        if gated:
            first, last = (last // 2, last) if step.update == "gates" else (0, last // 2)
        generator, device = step.generator, step.device
        chosen = torch.randint(first, last, (size,), generator=generator, device=device)
        images = enlarge(self.digits.images.to(device)[chosen], self.space)
        images = images + NOISE * torch.randn(images.shape, generator=generator, device=device)
        batch = {"images": images, "labels": self.digits.labels.to(device)[chosen]}
        return batch | {"gate_noise": gate_noise(self.space, size, step)} if gated else batch

    def shard(self, shard: Shard) -> "NoisyDigits":
        """One client's share; raises as `Digits.stretch` does."""
        return replace(self, digits=self.digits.shard(shard))

    def content_hash(self) -> str:
        """SHA-256 of the digits: everything else is drawn."""
        return self.digits.content_hash()


def enlarge(images: Tensor, space: Space) -> Tensor:
    """Digits of 8x8 as pictures of the space's size, each pixel repeated."""
    times = space.side // SIDE
    return images.repeat_interleave(times, 2).repeat_interleave(times, 3)


def gate_noise(space: Space, size: int, step: Step) -> Tensor:
    """Gumbel noise for every picture, cell and candidate: (B, cells, candidates)."""
    shape = (size, len(space.cells), len(space.candidates))
    uniform = torch.rand(shape, generator=step.generator, device=step.device)
    return -(-uniform.clamp(1e-6, 1 - 1e-6).log()).log()
