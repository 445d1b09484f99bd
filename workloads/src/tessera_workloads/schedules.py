"""Learning rates over the steps of a phase."""

import math

from tessera_workloads.protocol import LrSchedule


def cosine(highest: float, steps: int, *, warm_up: int = 0, floor: float = 0.0) -> LrSchedule:
    """A line up in the first `warm_up` steps, then half a cosine down to `floor`, a share of the highest."""

    def rate(step: int) -> float:
        if step < warm_up:
            return highest * (step + 1) / warm_up
        fallen = math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))
        return highest * ((1 + floor) / 2 + (1 - floor) / 2 * fallen)

    return rate
