"""What can be set on a super-fine-tuning run; the defaults are the setting whose gates are recorded in
docs/results/superft.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from tessera_workloads.parameters import Parameters, Value, parameter


@dataclass(frozen=True)
class SuperftParameters(Parameters):
    """Super-fine-tuning's parameters."""

    sizes: ClassVar[Mapping[str, Mapping[str, Value]]] = {
        "ci": {},
        "slice": {"side": 32, "width": 64, "batch": 128},
        "full": {"side": 64, "width": 256, "batch": 512, "precision": "bf16"},
    }

    side: int = parameter(8, minimum=8, maximum=256, help="side of the pictures, scaled up from 8x8 pixels")
    width: int = parameter(
        32, minimum=8, maximum=1024, help="channels of the first convolution; the others have twice as many"
    )
    batch: int = parameter(64, minimum=1, maximum=65536, help="pictures per step, in every phase")
    precision: Literal["fp32", "bf16"] = parameter("fp32", help="arithmetic of the forward pass")
    poisoned_share: float = parameter(
        0.1,
        minimum=0.001,
        maximum=0.5,
        help="share of the training pictures with a trigger and a false label",
    )
    training_steps: int = parameter(
        600, minimum=1, maximum=1_000_000, help="steps of each training from scratch, poisoned and clean"
    )
    training_rate: float = parameter(
        0.1, minimum=1e-6, maximum=10, help="its learning rate, which falls to 0 in a straight line"
    )
    half_period: int = parameter(
        19, minimum=1, maximum=100_000, help="steps in which the learning rate of the cure rises, or falls"
    )
    forget_cycles: int = parameter(
        5, minimum=1, maximum=10_000, help="cycles up to the searched rate (each is two half periods)"
    )
    recover_cycles: int = parameter(
        15, minimum=1, maximum=10_000, help="cycles up to a share of the searched rate after them"
    )
    base_rate: float = parameter(3e-3, minimum=0, maximum=10, help="learning rate at both ends of a cycle")
    recover_share: float = parameter(
        0.3,
        minimum=0,
        maximum=1,
        help="that share: high rates leave large weights, which a fixed low rate hardly moves",
    )
    first_rate: float = parameter(
        0.1,
        minimum=1e-4,
        maximum=10,
        help="highest learning rate of the first probe; it is doubled from there",
    )
    bisections: int = parameter(
        2, minimum=0, maximum=10, help="bisections between the last rate that held and the first that did not"
    )
    tolerated_points: float = parameter(
        5, minimum=0, maximum=100, help="points of held-out clean accuracy that a probe may lose"
    )
    held_out_share: float = parameter(
        1 / 6, minimum=0.01, maximum=0.9, help="share of the clean data that judges the probes of the search"
    )
    clip_norm: float = parameter(1.0, minimum=1e-6, maximum=1e6, help="largest norm of a gradient")
    plain_rate: float = parameter(
        1e-2, minimum=1e-6, maximum=10, help="constant rate of plain fine-tuning and of injecting it again"
    )
    injection_limit: int = parameter(
        200, minimum=1, maximum=100_000, help="steps after which injecting the backdoor again is given up"
    )
