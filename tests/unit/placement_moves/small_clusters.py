"""Small clusters in any state, and moves that are made in them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tessera.placement.geometry import Geometry
from tessera.placement.move_plans import Move
from tessera.placement.state import ClusterState


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


def carry_out(state: ClusterState, moves: Sequence[Move]) -> None:
    """One move after the other; `occupy` refuses a target that is not free at its time."""
    for move in moves:
        holds = state.holds(move.owner)
        assert holds is not None and (holds[0].name, holds[1]) == move.source
        state.release(move.owner)
        state.occupy(*move.target, owner=move.owner)
