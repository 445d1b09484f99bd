"""What can be set on an MLM training; the defaults are the setting whose gates are recorded in
docs/results/mlm.md. The network's numbers are spelt as T5 spells them: `full` is the published 3B.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from tessera_workloads.errors import InvalidParameter
from tessera_workloads.parameters import Parameters, Value, parameter


@dataclass(frozen=True)
class MlmParameters(Parameters):
    """The parameters of the masked language models and of their text."""

    sizes: ClassVar[Mapping[str, Mapping[str, Value]]] = {
        "ci": {},
        "slice": {
            "form": "t5",
            "d_model": 512,
            "d_ff": 2048,
            "layers": 6,
            "heads": 8,
            "d_kv": 64,
            "vocabulary": 32128,
            "words": 64,
            "length": 64,
            "batch": 16,
            "learning_rate": 3e-4,
        },
        "full": {
            "form": "t5",
            "d_model": 1024,
            "d_ff": 16384,
            "layers": 24,
            "heads": 32,
            "d_kv": 128,
            "vocabulary": 32128,
            "words": 256,
            "length": 512,
            "spans": 24,
            "batch": 8,
            "learning_rate": 1e-4,
            "precision": "bf16",
        },
    }

    form: Literal["both", "encoder", "t5"] = parameter(
        "both",
        help="which models: encoder fills masked places, t5 writes spans out; both: one after the other",
    )
    steps: int = parameter(1000, minimum=1, maximum=10_000_000, help="training steps of each model")
    early_steps: int = parameter(
        300,
        minimum=0,
        maximum=1_000_000,
        help="after so many of them the under-trained control is measured; 0: never",
    )
    batch: int = parameter(32, minimum=1, maximum=65536, help="texts per step")
    words: int = parameter(16, minimum=3, maximum=4096, help="words of the language")
    length: int = parameter(24, minimum=20, maximum=4096, help="words in a text")
    sharpness: float = parameter(
        1.5, minimum=0.1, maximum=5, help="standard deviation of the log-weights of a word's successors"
    )
    spans: int = parameter(3, minimum=3, maximum=99, help="most masked spans in a text")
    vocabulary: int = parameter(
        32,
        minimum=8,
        maximum=1_000_000,
        help="rows of the embedding: words, a start sign and a sentinel per span + 1",
    )
    d_model: int = parameter(64, minimum=8, maximum=65536, help="width of the network")
    d_ff: int = parameter(256, minimum=8, maximum=262144, help="width inside a feed-forward layer")
    layers: int = parameter(2, minimum=1, maximum=256, help="blocks of an encoder, and of a decoder")
    heads: int = parameter(4, minimum=1, maximum=1024, help="attention heads")
    d_kv: int = parameter(16, minimum=1, maximum=1024, help="width of one head")
    learning_rate: float = parameter(
        3e-3,
        minimum=1e-7,
        maximum=1,
        help="AdamW's highest rate, after warming up; it falls to a tenth as a cosine",
    )
    precision: Literal["fp32", "bf16"] = parameter("fp32", help="arithmetic of the forward pass")
    probes: int = parameter(500, minimum=10, maximum=1_000_000, help="word pairs of the evaluation")
    questions: int = parameter(
        1000, minimum=10, maximum=1_000_000, help="completion questions of the evaluation"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        needed = self.words + self.spans + 2
        if self.vocabulary < needed:
            raise InvalidParameter(
                f"parameter vocabulary={self.vocabulary} is too small: {self.words} words, a start sign and "
                f"{self.spans + 1} sentinels need {needed}"
            )
        if self.early_steps >= self.steps:
            raise InvalidParameter(
                f"parameter early_steps={self.early_steps} must be less than steps={self.steps}; 0 leaves "
                "the under-trained control out"
            )

    @property
    def forms(self) -> tuple[Literal["encoder", "t5"], ...]:
        """The models to train, in order."""
        return ("encoder", "t5") if self.form == "both" else (self.form,)
