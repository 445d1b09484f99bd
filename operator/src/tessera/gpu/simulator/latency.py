"""How long a real driver takes for its slow calls. Off, unless the environment asks for it.

`TESSERA_SIMULATOR_LATENCY=typical` takes the times below; a JSON object of symbols and seconds replaces
them, e.g. `{"nvmlGpuInstanceDestroy": 2.5}`. The driver does its slow work one call at a time: whoever
comes in between, from whatever process of the node, waits. Looking up a MIG device by UUID walks over all
MIG devices of the node under the same lock, so it is quick on an idle node and slow in a crowd.

Sources: a GPU instance's destroy takes about a second (comments in NVIDIA's DRA driver, `nvlib.go`); MIGBench
assumes 250 ms for making a slice and 100 ms for ending what runs on it; look-ups by UUID were seen to take
ten seconds under load (same comments). No time was measured by this project.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tessera.gpu.lock_file import exclusive

ENVIRONMENT = "TESSERA_SIMULATOR_LATENCY"
LOOK_UP = "nvmlDeviceGetHandleByUUID"
TYPICAL: Mapping[str, float] = {
    "nvmlDeviceCreateGpuInstance": 0.2,
    "nvmlDeviceCreateGpuInstanceWithPlacement": 0.2,
    "nvmlGpuInstanceCreateComputeInstance": 0.05,
    "nvmlGpuInstanceCreateComputeInstanceWithPlacement": 0.05,
    "nvmlComputeInstanceDestroy": 0.1,
    "nvmlGpuInstanceDestroy": 1.0,
    LOOK_UP: 0.02,
}
"""Seconds by symbol; for the look-up by UUID, seconds for each MIG device of the node."""


def from_environment() -> Mapping[str, float]:
    """The times that the environment asks for; none by default. Raises `ValueError` naming the variable."""
    text = os.environ.get(ENVIRONMENT, "")
    if not text or text == "typical":
        return TYPICAL if text else {}
    try:
        seconds = {str(symbol): float(value) for symbol, value in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError):
        raise ValueError(
            f'{ENVIRONMENT}={text!r} is not "typical" or a JSON object of symbols and seconds'
        ) from None
    if any(value < 0 for value in seconds.values()):
        raise ValueError(f"{ENVIRONMENT}={text!r} has a negative time")
    return seconds


class Latency:
    """Spends a call's time."""

    def __init__(self, directory: Path, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.seconds = from_environment()
        self._lock_path = directory / "driver.lock"
        self._sleep = sleep

    def spend(self, symbol: str, *, mig_devices: Callable[[], int]) -> None:
        """Wait as long as that call takes; `mig_devices` counts those that a look-up walks over."""
        if symbol not in self.seconds:
            return
        with exclusive(self._lock_path):
            count = mig_devices() if symbol == LOOK_UP else 1
            if count:
                self._sleep(self.seconds[symbol] * count)
