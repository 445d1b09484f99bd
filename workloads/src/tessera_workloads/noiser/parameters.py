"""What can be set on a NoiSER training; the defaults are the setting whose gates are recorded in
docs/results/noiser.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from tessera_workloads.parameters import Parameters, Value, parameter


@dataclass(frozen=True)
class NoiserParameters(Parameters):
    """NoiSER's parameters."""

    sizes: ClassVar[Mapping[str, Mapping[str, Value]]] = {
        "ci": {},
        "slice": {"steps": 4000},
        "full": {"steps": 4000, "crop": 512, "batch": 16, "precision": "bf16"},
    }

    steps: int = parameter(2000, minimum=1, maximum=1_000_000, help="training steps")
    hidden: int = parameter(
        32, minimum=1, maximum=36, help="hidden channels h; the network has 55h + 3 parameters, at most 2000"
    )
    crop: int = parameter(104, minimum=8, maximum=4096, help="side of the square noise image, in pixels")
    batch: int = parameter(1, minimum=1, maximum=4096, help="noise images per step")
    sigma: float = parameter(
        3.0, minimum=0.01, maximum=100, help="standard deviation of the noise before it is clamped to [-1, 1]"
    )
    tv_weight: float = parameter(1.0, minimum=0, maximum=100, help="weight of the total variation")
    learning_rate: float = parameter(2e-4, minimum=1e-7, maximum=1, help="Adam's learning rate, constant")
    precision: Literal["fp32", "bf16"] = parameter("fp32", help="arithmetic of the forward pass")
