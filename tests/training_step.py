"""A place in a run, for tests that draw batches and compute losses without the runner."""

import torch
from tessera_workloads.protocol import Step


def some_step(step: int = 0, *, phase: str = "train", update: str = "weights") -> Step:
    """A step on the CPU whose random numbers depend on its number alone."""
    return Step(phase, step, update, 0, torch.Generator().manual_seed(step), torch.device("cpu"))
