"""What can be set; read without torch, so that a typing error is refused at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tessera_workloads.parameters import Parameters, Value, parameter


@dataclass(frozen=True)
class RingsParameters(Parameters):
    """The parameters of `rings`."""

    sizes: ClassVar[Mapping[str, Mapping[str, Value]]] = {
        "ci": {},
        "slice": {"hidden": 256},
        "full": {"hidden": 4096, "batch": 4096},
    }

    steps: int = parameter(300, minimum=1, maximum=1_000_000, help="training steps")
    batch: int = parameter(64, minimum=1, maximum=65536, help="points per step")
    hidden: int = parameter(16, minimum=1, maximum=65536, help="hidden units")
    learning_rate: float = parameter(0.02, minimum=1e-6, maximum=1, help="AdamW's rate, constant")
