"""What a move costs: the GPU time that a moved workload loses, and the time that its slices take.

A moved workload loses what it did since its last checkpoint, the time to start again, and the time in which
its old slice is deleted and its new one created. The re-slicing times are those that MIGBench assumes
(create 250 ms, delete 100 ms); the others are assumptions that every cluster should replace by its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tessera.placement.geometry import Geometry, LegalPlacement
from tessera.placement.moves import gpu_seconds_lost
from tessera.simulate.errors import BadSimulationInput


@dataclass(frozen=True)
class MoveCosts:
    """All in seconds. `checkpoint_every`: a workload saves its state so often, counted from its (re)start; 0
    means that it never has anything to lose.
    """

    checkpoint_every: float = 600.0
    restart: float = 30.0
    create: float = 0.25
    delete: float = 0.1

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "restart", "create", "delete"):
            seconds = getattr(self, name)
            if not (math.isfinite(seconds) and seconds >= 0):
                raise BadSimulationInput(f"{name.replace('_', ' ')} {seconds:g}", "it must be 0 s or more")

    def since_checkpoint(self, ran_for: float) -> float:
        """Seconds that a workload repeats which ran for `ran_for` seconds since it was (re)started."""
        return math.fmod(ran_for, self.checkpoint_every) if self.checkpoint_every else 0.0

    def gpu_seconds(self, geometry: Geometry, placement: LegalPlacement, *, ran_for: float) -> float:
        """GPU-seconds lost by moving an instance that ran for `ran_for` seconds since it was (re)started."""
        return gpu_seconds_lost(
            geometry,
            placement,
            since_checkpoint_seconds=self.since_checkpoint(ran_for),
            restart_seconds=self.restart,
            reslice_seconds=self.create + self.delete,
        )
