"""The GPUs that a plan may use, with the geometry of their model from the shipped profile table.

The same limits hold here as in the cluster, where the node agent publishes them as shared counters: memory
slices, compute slices, one set of media extensions (`+me`), and the media engines where a board can run out
of them (`+me.all`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from tessera.gpu.profiles import GPUModel, Profile, UnknownModel, model, models
from tessera.packing.errors import BadPackingInput
from tessera.placement.geometry import Geometry, LegalPlacement, geometry_of

MEDIA_EXTENSIONS = "media-extensions"
MEDIA_ENGINES = "media-engines"


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
        return geometry_of_board(self.board)


def parse_pool(text: str) -> Pool:
    """The pool that `MODEL` or `MODEL:limit=10,cost=2` describes.

    `A30` stands for the only model that begins with it and a dash. Raises BadPackingInput.
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
    """The model of this name in the profile table. Raises BadPackingInput with the nearest names."""
    try:
        return model(name)
    except UnknownModel as unknown:
        begun = [known for known in models() if known.lower().startswith(f"{name.lower()}-")] if name else []
        if len(begun) == 1:
            return model(begun[0])
        if begun:
            raise BadPackingInput(f"GPU model {name!r} may be {', '.join(begun)}") from unknown
        raise BadPackingInput(str(unknown)) from unknown


def media_engines(board: GPUModel) -> int:
    """Media engines that profiles compete for; 0 where they cannot run out (no `+me.all` profile)."""
    if not any(profile.all_media for profile in board.profiles):
        return 0
    return max(profile.decoders or 0 for profile in board.profiles)


@cache
def geometry_of_board(board: GPUModel) -> Geometry:
    """The geometry of a model of the profile table."""
    engines = media_engines(board)
    return geometry_of(
        model=board.name,
        memory_slices=board.memory_slices,
        compute_slices=board.compute_slices,
        placements=tuple(
            LegalPlacement(
                profile=profile.name,
                start=start,
                width=profile.memory_slices,
                compute=profile.compute_slices,
                exclusive=(MEDIA_EXTENSIONS,) if profile.media_extensions else (),
                draws=_draws(profile, engines),
            )
            for profile in board.profiles
            for start in profile.starts
        ),
        limits=((MEDIA_ENGINES, engines),) if engines else (),
    )


def _draws(profile: Profile, engines: int) -> tuple[tuple[str, int], ...]:
    return ((MEDIA_ENGINES, profile.decoders),) if engines and profile.decoders else ()
