"""The GPUs of a simulated cluster: one model, or several side by side.

A cluster is written as `H100-80GB:60`, `A30:40` and so on. GPUs are numbered in that order, from 0. A request
names a profile, not a model, and may land on every model that offers a profile of this name. Its size counts
memory slices; where models differ, the smallest counts.

A GPU offers its plain profiles, and those with a suffix (`1g.10gb+me`) that the workload asks for: what
nobody asks for should not count as room that is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from tessera.api.errors import did_you_mean
from tessera.boards import geometry_of_model, plain_profiles
from tessera.gpu.profiles import GPUModel, UnknownModel, model, model_meant
from tessera.placement.geometry import Geometry
from tessera.placement.state import ClusterState
from tessera.simulate.errors import BadSimulationInput

DEFAULT_GPUS = 100
GPUS_PER_NODE = 8


@dataclass(frozen=True, slots=True)
class Part:
    """So many GPUs of one model."""

    model: str
    gpus: int


@dataclass(frozen=True)
class Cluster:
    """The GPUs, in parts. Make it with `parse_cluster`. `suffixed` are the profiles offered beside the plain
    ones.
    """

    parts: tuple[Part, ...]
    suffixed: tuple[str, ...] = ()

    def offering(self, profiles: Iterable[str]) -> Cluster:
        """The same cluster, which offers these profiles beside the plain ones."""
        plain = {name for board in self.boards for name in plain_profiles(board)}
        return replace(self, suffixed=tuple(name for name in dict.fromkeys(profiles) if name not in plain))

    @cached_property
    def boards(self) -> tuple[GPUModel, ...]:
        """The model of each part."""
        return tuple(model(part.model) for part in self.parts)

    @property
    def gpus(self) -> int:
        """The number of GPUs."""
        return sum(part.gpus for part in self.parts)

    @cached_property
    def geometries(self) -> tuple[Geometry, ...]:
        """The geometry of each part."""
        return tuple(
            geometry_of_model(
                board,
                profiles=(
                    *plain_profiles(board),
                    *(p.name for p in board.profiles if p.name in self.suffixed),
                ),
            )
            for board in self.boards
        )

    @property
    def memory_slices(self) -> int:
        """Memory slices of all GPUs."""
        return sum(b.memory_slices * p.gpus for p, b in zip(self.parts, self.boards, strict=True))

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Memory slices of every profile of the models, the smallest where they differ; smallest first."""
        found: dict[str, tuple[int, int]] = {}
        for board in self.boards:
            for profile in board.profiles:
                size = (profile.memory_slices, profile.compute_slices)
                found[profile.name] = min(size, found.get(profile.name, size))
        return {name: size[0] for name, size in sorted(found.items(), key=lambda item: item[1])}

    def geometry_by_gpu(self) -> list[Geometry]:
        """The geometry of each GPU, by number."""
        return [g for p, g in zip(self.parts, self.geometries, strict=True) for _ in range(p.gpus)]

    def new_state(self) -> ClusterState:
        """The empty cluster; the name of a GPU is its number."""
        state = ClusterState()
        for number, geometry in enumerate(self.geometry_by_gpu()):
            state.add_gpu(str(number), node=f"node-{number // GPUS_PER_NODE}", geometry=geometry)
        return state

    def check_profile(self, profile: str, *, where: str) -> None:
        """Raises BadSimulationInput, which names `where` it stood, when no GPU offers this profile."""
        if profile not in self.sizes:
            raise BadSimulationInput(
                f"{where}: profile {profile!r} does not exist on {self.describe()}",
                remedy=f"{did_you_mean(profile, self.sizes)} It offers {', '.join(self.sizes)}.".lstrip(),
            )

    def describe(self) -> str:
        """The models, for a message."""
        return " or ".join(dict.fromkeys(part.model for part in self.parts))

    def title(self) -> str:
        """The GPUs, for the head of a table."""
        return " + ".join(f"{part.gpus:,} x {part.model}" for part in self.parts)

    def report(self) -> dict[str, object]:
        """For the JSON report."""
        return {"cluster": self.config(), "gpus": self.gpus, "memory_slices": self.memory_slices}

    def config(self) -> list[dict[str, object]]:
        """Which GPU numbers are of which model."""
        first = 0
        parts = []
        for part in self.parts:
            parts.append({"model": part.model, "gpus": part.gpus, "first_gpu": first})
            first += part.gpus
        return parts


def parse_cluster(texts: Sequence[str], *, gpus: int | None) -> Cluster:
    """The cluster of `--model` and `--gpus`: one `MODEL` with the count beside it, or `MODEL:COUNT` once or
    more.

    Raises BadSimulationInput for an unknown model, a count that is none, and two counts for one model.
    """
    if len(texts) == 1 and ":" not in texts[0]:
        return Cluster((_part(texts[0], DEFAULT_GPUS if gpus is None else gpus),))
    if gpus is not None:
        raise BadSimulationInput(
            f"--gpus {gpus} and --model {texts[0]}",
            "with MODEL:COUNT the number of GPUs is given already",
            "Leave --gpus out.",
        )
    parts = []
    for text in texts:
        name, colon, count = text.rpartition(":")
        if not colon:
            raise BadSimulationInput(
                f"--model {text}",
                "several models need a number of GPUs each",
                f"Write {text}:40, for example.",
            )
        if not count.isdecimal():
            raise BadSimulationInput(
                f"--model {text}", f"{count!r} is no number of GPUs", "Write MODEL:COUNT."
            )
        parts.append(_part(name, int(count)))
    return Cluster(tuple(parts))


def model_given(text: str) -> GPUModel:
    """The model of `--model` (see `model_meant`). Raises BadSimulationInput."""
    try:
        return model_meant(text)
    except UnknownModel as unknown:
        raise BadSimulationInput(f"--model {text}", str(unknown)) from unknown


def _part(name: str, gpus: int) -> Part:
    if gpus < 1:
        raise BadSimulationInput(f"{name} with {gpus} GPUs", remedy="Give at least one GPU.")
    return Part(model_given(name).name, gpus)
