"""The GPUs that a plan may use, with the geometry of their model from the shipped profile table."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tessera.boards import every_profile, geometry_of_model
from tessera.gpu.profiles import GPUModel, UnknownModel, model_meant
from tessera.packing.errors import BadPackingInput
from tessera.placement.geometry import Geometry


@dataclass(frozen=True, slots=True)
class Pool:
    """GPUs of one model: what one of them costs (any unit, the same for all pools), and how many there are
    (None: as many as needed).
    """

    board: GPUModel
    cost: float = 1.0
    limit: int | None = None

    def __post_init__(self) -> None:
        if not (self.cost > 0 and math.isfinite(self.cost)):
            raise ValueError(f"{self.board.name}: the cost must be a positive number, not {self.cost}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"{self.board.name}: the limit must be at least 1, not {self.limit}")

    @property
    def name(self) -> str:
        """The model's name."""
        return self.board.name

    @property
    def geometry(self) -> Geometry:
        """The legal placements of the model."""
        return geometry_of_model(self.board, profiles=every_profile(self.board))


def parse_pool(text: str) -> Pool:
    """The pool that `MODEL` or `MODEL:limit=10,cost=2` describes.

    `A30` stands for the only model that begins so. Raises BadPackingInput.
    """
    name, _, settings = text.partition(":")
    board = board_named(name.strip())
    cost, limit = 1.0, None
    for setting in filter(None, (part.strip() for part in settings.split(","))):
        key, equals, value = setting.partition("=")
        remedy = f"Write {board.name}:limit=10,cost=2.5, both optional."
        if not equals or key not in ("limit", "cost"):
            raise BadPackingInput(f"--gpu {text}", f"{setting!r} is neither limit=N nor cost=C", remedy)
        try:
            if key == "limit":
                limit = int(value)
            else:
                cost = float(value)
        except ValueError:
            raise BadPackingInput(f"--gpu {text}", f"{value!r} is no number", remedy) from None
    try:
        return Pool(board, cost=cost, limit=limit)
    except ValueError as error:
        raise BadPackingInput(f"--gpu {text}", str(error)) from None


def board_named(name: str) -> GPUModel:
    """The model that is meant (see `model_meant`). Raises BadPackingInput with the nearest names."""
    try:
        return model_meant(name)
    except UnknownModel as unknown:
        raise BadPackingInput(str(unknown)) from unknown
