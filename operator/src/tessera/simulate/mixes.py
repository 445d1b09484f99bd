"""Which profiles are asked for, and how often.

Four mixes have names. Their weights belong to the six plain profiles of an 8-slice GPU in the order 1g, 1g
with double memory, 2g, 3g, 4g, 7g (the distributions of arXiv 2511.18906, weights our own). A model with
another number of plain profiles gets the same shape stretched over them: the weights are read as a line
through six points. Where models are mixed, each gets requests for its own profiles at the same offered
load.

A mix file is CSV with the header `profile,weight`; any profile of the models may stand in it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tessera.boards import plain_profiles
from tessera.gpu.profiles import GPUModel
from tessera.simulate.cluster import Cluster
from tessera.simulate.errors import BadSimulationInput
from tessera.simulate.input_file import text_of

_SHAPES: dict[str, tuple[float, ...]] = {
    "uniform": (1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    "skew-small": (0.30, 0.25, 0.20, 0.10, 0.10, 0.05),
    "skew-big": (0.05, 0.10, 0.10, 0.20, 0.25, 0.30),
    "bimodal": (0.30, 0.15, 0.05, 0.05, 0.15, 0.30),
}

NAMED_MIXES: tuple[str, ...] = tuple(_SHAPES)


@dataclass(frozen=True)
class Mix:
    """Profiles with their shares, which add up to 1, in the order of size."""

    name: str
    shares: Mapping[str, float]

    def mean_size(self, cluster: Cluster) -> float:
        """Memory slices of a request, on average."""
        return math.fsum(share * cluster.sizes[profile] for profile, share in self.shares.items())


def mix_of(text: str, cluster: Cluster) -> Mix:
    """The mix of `--mix`: a name, or else the path of a mix file. Raises BadSimulationInput."""
    if text in _SHAPES:
        return named_mix(text, cluster)
    path = Path(text)
    if not path.is_file():
        raise BadSimulationInput(
            f"--mix {text}",
            f"it is neither a file nor one of {', '.join(NAMED_MIXES)}",
            "A mix file is CSV with the header profile,weight.",
        )
    return read_mix(path, cluster)


def named_mix(name: str, cluster: Cluster) -> Mix:
    """A named mix on these models."""
    weights: dict[str, float] = {}
    for part, board in zip(cluster.parts, cluster.boards, strict=True):
        plain = _by_size(board)
        shape = _stretched(_SHAPES[name], len(plain))
        mean = sum(w * board.profile(p).memory_slices for w, p in zip(shape, plain, strict=True)) / sum(shape)
        # Requests per lifetime that offer this part its capacity once.
        rate = part.gpus * board.memory_slices / mean
        for profile, weight in zip(plain, shape, strict=True):
            weights[profile] = weights.get(profile, 0.0) + rate * weight / sum(shape)
    return _normalised(name, weights, cluster)


def _by_size(board: GPUModel) -> list[str]:
    """The plain profiles, smallest first."""
    chosen = [board.profile(name) for name in plain_profiles(board)]
    return [p.name for p in sorted(chosen, key=lambda p: (p.memory_slices, p.compute_slices))]


def read_mix(path: Path, cluster: Cluster) -> Mix:
    """The mix of a CSV file. Raises BadSimulationInput with the line that is wrong."""
    weights = read_weights(path, check=lambda profile, where: cluster.check_profile(profile, where=where))
    return _normalised(str(path), weights, cluster)


def read_weights(path: Path, *, check: Callable[[str, str], object]) -> dict[str, float]:
    """Profiles and weights of a CSV file. `check` is given every profile and where it stands, and raises when
    it does not exist. Raises BadSimulationInput with the line that is wrong.
    """
    rows = csv.DictReader(text_of(path, kind="mix file").splitlines(), skipinitialspace=True)
    missing = {"profile", "weight"} - set(rows.fieldnames or ())
    if missing:
        raise BadSimulationInput(
            f"mix file {path}", f"column {min(missing)} is missing", "The first line is profile,weight."
        )
    weights: dict[str, float] = {}
    for row in rows:
        where = f"mix file {path}, line {rows.line_num}"
        profile = (row["profile"] or "").strip()
        check(profile, where)
        if profile in weights:
            raise BadSimulationInput(where, f"profile {profile} stands there twice", "Give it one weight.")
        weights[profile] = weight_of(row["weight"], where=where)
    if not weights:
        raise BadSimulationInput(f"mix file {path} has no profile", remedy="Add lines such as 1g.10gb,0.5.")
    return weights


def weight_of(cell: str | None, *, where: str) -> float:
    """The weight that a text says. Raises BadSimulationInput, which names `where` it stands."""
    try:
        weight = float(cell or "")
    except ValueError:
        raise BadSimulationInput(where, f"weight {cell!r} is no number") from None
    if not (math.isfinite(weight) and weight > 0):
        raise BadSimulationInput(
            where, f"weight {weight:g} is not above 0", "Leave out what is never asked for."
        )
    return weight


def _normalised(name: str, weights: Mapping[str, float], cluster: Cluster) -> Mix:
    total = math.fsum(weights.values())
    return Mix(name, {profile: weights[profile] / total for profile in cluster.sizes if profile in weights})


def _stretched(shape: tuple[float, ...], count: int) -> list[float]:
    """The shape sampled at `count` places, from its first point to its last."""
    if count == 1:
        return [1.0]
    found = []
    for number in range(count):
        at = number * (len(shape) - 1) / (count - 1)
        low = min(int(at), len(shape) - 2)
        found.append(shape[low] + (shape[low + 1] - shape[low]) * (at - low))
    return found
