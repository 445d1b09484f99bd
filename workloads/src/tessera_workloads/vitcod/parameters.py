"""What can be set on a ViTCoD training; the defaults are the setting whose gates are recorded in
docs/results/vitcod.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from tessera_workloads.errors import InvalidParameter
from tessera_workloads.parameters import Parameters, Value, parameter


@dataclass(frozen=True)
class VitcodParameters(Parameters):
    """ViTCoD's parameters."""

    sizes: ClassVar[Mapping[str, Mapping[str, Value]]] = {
        "ci": {},
        "slice": {
            "image": 64,
            "width": 192,
            "heads": 6,
            "layers": 6,
            "block": 8,
            "global_columns": 4,
            "batch": 64,
        },
        "full": {
            "image": 256,
            "width": 384,
            "heads": 6,
            "layers": 12,
            "block": 128,
            "global_columns": 63,
            "batch": 64,
            "precision": "bf16",
            "serving": "flex",
        },
    }

    image: int = parameter(28, minimum=8, maximum=1024, help="side of the picture, in pixels")
    patch: int = parameter(
        4, minimum=1, maximum=64, help="side of a patch; image/patch squared are the patches"
    )
    width: int = parameter(64, minimum=8, maximum=4096, help="numbers per token, over all heads")
    heads: int = parameter(
        4, minimum=2, maximum=64, help="attention heads; the auto-encoder keeps half of them"
    )
    layers: int = parameter(3, minimum=1, maximum=64, help="transformer blocks")
    block: int = parameter(
        1, minimum=1, maximum=128, help="patches that share a list of keys, and keys that are kept together"
    )
    global_columns: int = parameter(
        0,
        minimum=0,
        maximum=1024,
        help="patches that all queries attend to, per head, beside the class token",
    )
    sparsity: float = parameter(
        0.9, minimum=0, maximum=0.99, help="share of the attention map that is pruned"
    )
    reconstruction: float = parameter(
        1e-4, minimum=0, maximum=1, help="weight of the auto-encoder's error on queries and keys"
    )
    dense_steps: int = parameter(1000, minimum=1, maximum=1_000_000, help="steps of the dense model")
    coder_steps: int = parameter(375, minimum=1, maximum=1_000_000, help="steps with the auto-encoder")
    sparse_steps: int = parameter(
        200, minimum=1, maximum=1_000_000, help="steps of fine-tuning with the mask"
    )
    batch: int = parameter(48, minimum=1, maximum=1200, help="pictures per step")
    learning_rate: float = parameter(1e-3, minimum=1e-7, maximum=1, help="AdamW's highest rate, dense model")
    fine_tuning_rate: float = parameter(
        5e-4, minimum=1e-7, maximum=1, help="AdamW's highest rate with auto-encoder and mask"
    )
    precision: Literal["fp32", "bf16"] = parameter("fp32", help="arithmetic of the forward pass")
    serving: Literal["gather", "flex", "masked", "dense"] = parameter(
        "gather",
        help="attention of the serving model: what is pruned is left out (gather; flex is for CUDA) or "
        "computed and masked, or nothing is pruned (dense)",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image % self.patch:
            raise InvalidParameter(
                f"patch={self.patch} does not divide image={self.image}: choose one that does"
            )
        if self.width % self.heads:
            raise InvalidParameter(
                f"heads={self.heads} does not divide width={self.width}: choose one that does"
            )
        if self.patches % self.block or self.patches == self.block:
            raise InvalidParameter(
                f"block={self.block} does not cut the {self.patches} patches (image/patch squared) into two "
                "or more equal parts: choose a smaller divisor"
            )
        if self.global_columns >= self.patches:
            raise InvalidParameter(
                f"global_columns={self.global_columns} must be fewer than the {self.patches} patches"
            )
        if self.serving == "flex" and self.global_columns >= self.block:
            raise InvalidParameter(
                f"serving=flex puts the class token and the {self.global_columns} global columns into one "
                f"block of {self.block}: choose fewer global_columns or a larger block"
            )

    @property
    def patches(self) -> int:
        """Patches of one picture."""
        return (self.image // self.patch) ** 2

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return self.patches + 1
