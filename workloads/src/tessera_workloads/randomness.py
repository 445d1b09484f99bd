"""Random numbers that depend on where the run is, not on how it got there.

Every generator is seeded with a hash of the run's seed and of the place that asks, so a resumed run needs no
generator state: step 1201 draws the same numbers whether step 1200 ran in this process or in one that was
pre-empted. Torch's global generator is never read.
"""

import hashlib

import torch


def derive_seed(seed: int, *place: str | int) -> int:
    """A 63-bit seed for one place of one run, e.g. `derive_seed(0, "phase", 12)`."""
    text = "/".join(str(part) for part in (seed, *place))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_at(device: torch.device, seed: int, *place: str | int) -> torch.Generator:
    """A fresh generator on `device` for one place of one run."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *place))
