"""What fits on a GPU in the queueing experiment, and how fragmented its free room is.

Two geometries. `memory` is the hardware's: a profile at a start covers neighbouring memory slices.
`gpc-slots` is MIGBench's own: a profile covers neighbouring compute slots, as many as it has compute
slices, and the memory of all instances is only summed. There a 3g at 0 and a 1g at 3 go together, which no
GPU accepts (the 3g covers memory slices 0 to 3), and the single-compute profiles start at every slot. Both
are ordinary geometries of the placement engine, so every policy works on both.

The geometry has the profiles of the mix and no others, as in MIGBench's clusters.

Fragmentation of one GPU, 0 when nothing is free (definitions of MIGBench's `internal/simulator`):

- physical: (free - longest free run) / free, over memory slices (`memory`) or compute slots (`gpc-slots`);
- stranded: (free - most that can still be packed) / free, over compute slices.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from tessera.boards import geometry_of_model
from tessera.gpu.profiles import GPUModel, Profile
from tessera.placement.geometry import Geometry, LegalPlacement, geometry_of
from tessera.simulate.measures import fragmentation
from tessera.simulate.queueing.workload import Mix

GeometryKind = Literal["memory", "gpc-slots"]

SUMMED_MEMORY = "memory"
"""The counted resource of `gpc-slots`: memory slices wherever they are."""


def queue_geometry(model: GPUModel, mix: Mix, kind: GeometryKind) -> Geometry:
    """The geometry of one kind, restricted to the profiles of the mix."""
    names = tuple(shape.profile for shape in mix.shapes)
    if kind == "memory":
        return geometry_of_model(model, profiles=names)
    return geometry_of(
        model=f"{model.name} as GPC slots",
        memory_slices=model.compute_slices,
        compute_slices=model.compute_slices,
        placements=tuple(
            LegalPlacement(
                p.name, start, p.compute_slices, p.compute_slices, draws=((SUMMED_MEMORY, p.memory_slices),)
            )
            for p in map(model.profile, names)
            for start in _slot_starts(p, model.compute_slices)
        ),
        limits=((SUMMED_MEMORY, model.memory_slices),),
    )


def _slot_starts(profile: Profile, slots: int) -> tuple[int, ...]:
    if profile.compute_slices == 1:
        return tuple(range(slots))
    return tuple(start for start in profile.starts if start + profile.compute_slices <= slots)


@lru_cache(maxsize=16)
def fragmentation_of(geometry: Geometry) -> Fragmentation:
    """The one object of a geometry, so that runs share what was computed."""
    return Fragmentation(geometry)


class Fragmentation:
    """Fragmentation of a GPU by its key, computed once per key."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._packable: dict[int, int] = {}
        self._physical: dict[int, float] = {}

    def physical(self, key: int) -> float:
        """Share of the free slices that are not in the longest free run."""
        found = self._physical.get(key)
        if found is None:
            found = self._physical[key] = fragmentation(self._geometry.occupancy(key))
        return found

    def stranded(self, key: int, free_compute: int) -> float:
        """Share of the free compute slices that no set of further placements can use."""
        if not free_compute:
            return 0.0
        return (free_compute - min(free_compute, self._most(key))) / free_compute

    def _most(self, key: int) -> int:
        """The most compute slices that further placements can take."""
        found = self._packable.get(key)
        if found is None:
            geometry = self._geometry
            found = self._packable[key] = max(
                (
                    geometry.placements[i].compute + self._most(geometry.with_placed(key, i))
                    for i in geometry.occupancy(key).fitting
                ),
                default=0,
            )
        return found
