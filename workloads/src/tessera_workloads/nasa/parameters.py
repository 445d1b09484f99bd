"""What can be set on a NASA search; the defaults are the setting whose gates are recorded in
docs/results/nasa.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from tessera_workloads.errors import InvalidParameter
from tessera_workloads.parameters import Parameters, Value, parameter


@dataclass(frozen=True)
class NasaParameters(Parameters):
    """NASA's parameters. Energies are those of an 8-bit operation in 45 nm, in picojoules."""

    sizes: ClassVar[Mapping[str, Mapping[str, Value]]] = {
        "ci": {},
        "slice": {
            "channels": 32,
            "batch": 128,
            "pretrain_steps": 200,
            "search_steps": 400,
            "retrain_steps": 1500,
        },
        "full": {
            "space": "paper",
            "batch": 64,
            "pretrain_steps": 4000,
            "search_steps": 9000,
            "retrain_steps": 60_000,
            "retrains": 1,
            "comparisons": False,
        },
    }

    space: Literal["small", "paper"] = parameter(
        "small",
        help="small: 4 cells of 4 candidates on 8x8 pictures; paper: 22 cells of 19 candidates on 32x32",
    )
    channels: int = parameter(
        8, minimum=4, maximum=512, help="channels of the small space's cells, a multiple of 4"
    )
    batch: int = parameter(32, minimum=1, maximum=65_536, help="pictures per step and network")
    pretrain_steps: int = parameter(
        60, minimum=1, maximum=1_000_000, help="steps of each of the three stages of pretraining"
    )
    search_steps: int = parameter(100, minimum=1, maximum=1_000_000, help="steps of the search")
    retrain_steps: int = parameter(
        500, minimum=1, maximum=10_000_000, help="steps of training a found network from scratch"
    )
    retrains: int = parameter(
        3, minimum=1, maximum=16, help="times that the searched and the all-convolution network are trained"
    )
    learning_rate: float = parameter(
        0.02,
        minimum=1e-6,
        maximum=1,
        help="Adam's rate for weights; falls to 0 along a cosine, constant in the search",
    )
    exponent_scale: float = parameter(
        3.0,
        minimum=0.01,
        maximum=100,
        help="factor on the rate of the shifts' exponents, which move by whole numbers",
    )
    gate_rate: float = parameter(0.05, minimum=1e-6, maximum=1, help="Adam's rate for the gates")
    cost_weight: float = parameter(
        0.1, minimum=0, maximum=1000, help="price of an energy equal to that of the all-convolution network"
    )
    comparisons: bool = parameter(
        True, help="also search with other prices and after joint pretraining, and train the controls"
    )
    multiply_pj: float = parameter(0.2, minimum=1e-6, maximum=1000, help="energy of a multiplication, pJ")
    add_pj: float = parameter(0.03, minimum=1e-6, maximum=1000, help="energy of an addition, pJ")
    shift_pj: float = parameter(0.024, minimum=0, maximum=1000, help="energy of a shift, pJ")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels % 4:
            raise InvalidParameter(
                f"parameter channels={self.channels} is no multiple of 4, the channels that are normalised "
                f"together: take {self.channels // 4 * 4 or 4} or {self.channels // 4 * 4 + 4}"
            )
