"""What packers need that see one request at a time: the comparison for the exact plan.

Requests come in some order and never leave. The scheduler's engine places each among the GPUs that are in
use; a new GPU is taken only when it fits on none of them (a policy that may take an empty GPU freely spreads
out, and would need up to a quarter more). The decreasing order by memory slices, then compute slices,
is the classic offline variant of first fit.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from tessera.placement.engine import Engine
from tessera.placement.geometry import Geometry
from tessera.placement.policies import POLICIES, Policy
from tessera.placement.state import ClusterState

DECREASING = "first_fit_decreasing"


def shuffled(demand: Mapping[str, int], *, seed: int) -> list[str]:
    """The requests in a random order."""
    arrivals = [profile for profile, count in demand.items() for _ in range(count)]
    random.Random(seed).shuffle(arrivals)
    return arrivals


def gpus_online(geometry: Geometry, arrivals: Sequence[str], *, packer: str) -> int:
    """How many GPUs a packer uses: a policy's name, or `first_fit_decreasing`."""
    if packer == DECREASING:
        shape = {p.profile: (-p.width, -p.compute) for p in geometry.placements}
        return _pack(geometry, sorted(arrivals, key=shape.__getitem__), POLICIES["first_fit"]())
    return _pack(geometry, arrivals, POLICIES[packer]())


def _pack(geometry: Geometry, arrivals: Sequence[str], policy: Policy) -> int:
    state, engine = ClusterState(), Engine(policy)
    for number, profile in enumerate(arrivals):
        policy.record(profile)
        place = engine.choose(state, profile)
        if place is None:
            state.add_gpu(str(len(state.gpus)), node="", geometry=geometry)
            place = engine.choose(state, profile)
            assert place is not None, f"{profile} does not fit on an empty {geometry.model}"
        state.occupy_at(*place, number)
    return len(state.gpus)
