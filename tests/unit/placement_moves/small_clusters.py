"""Small clusters in any state, of two kinds of GPU: 8 slices (H100) and 4 slices (A30)."""

from __future__ import annotations

import random

from tessera.placement.geometry import Geometry, LegalPlacement, geometry_of
from tessera.placement.state import ClusterState

Table = dict[str, tuple[tuple[int, ...], int, int]]

# profile: (starts, memory slices, compute slices), as NVML reports them.
H100: Table = {
    "1g.10gb": ((0, 1, 2, 3, 4, 5, 6), 1, 1),
    "1g.20gb": ((0, 2, 4, 6), 2, 1),
    "2g.20gb": ((0, 2, 4), 2, 2),
    "3g.40gb": ((0, 4), 4, 3),
    "4g.40gb": ((0,), 4, 4),
    "7g.80gb": ((0,), 8, 7),
}
A30: Table = {"1g.6gb": ((0, 1, 2, 3), 1, 1), "2g.12gb": ((0, 2), 2, 2), "4g.24gb": ((0,), 4, 4)}


def geometry(table: Table, *, model: str, slices: int, compute: int) -> Geometry:
    return geometry_of(
        model=model,
        memory_slices=slices,
        compute_slices=compute,
        placements=tuple(
            LegalPlacement(profile, start, width, cost)
            for profile, (starts, width, cost) in table.items()
            for start in starts
        ),
    )


def cluster(*geometries: Geometry) -> ClusterState:
    """Empty GPUs of these kinds, two to a node."""
    state = ClusterState()
    for number, one in enumerate(geometries):
        state.add_gpu(f"gpu-{number}", node=f"node-{number // 2}", geometry=one)
    return state


def fill_at_random(state: ClusterState, *, seed: int, leave: float) -> None:
    """Take random placements until nothing fits, then give each back with the chance `leave`: any layout may
    come of it. Owners are numbers.
    """
    rng = random.Random(seed)
    for gpu in state.gpus:
        while fitting := gpu.table.fitting(gpu.layout):
            state.occupy(gpu.name, rng.choice(fitting), owner=rng.getrandbits(62))
    for owner in list(state.owners()):
        if rng.random() < leave:
            state.release(owner)
