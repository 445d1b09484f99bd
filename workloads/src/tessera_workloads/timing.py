"""How long a call takes until its last result is there."""

import time
from collections.abc import Callable

import torch


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of one call; on CUDA, whose kernels run on after it, the device is waited for."""
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began
