"""Packers that see one request at a time are the policies of the scheduler, on GPUs taken when needed."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from tessera.packing.boards import Pool
from tessera.packing.comparison import PACKERS
from tessera.packing.online import DECREASING, gpus_online, shuffled
from tessera.placement.engine import Engine
from tessera.placement.policies import POLICIES
from tessera.placement.request import Unplaceable, request_for_profile
from tessera.placement.state import ClusterState


def gpus_by_engine(pool: Pool, arrivals: Sequence[str], policy: str) -> int:
    """The scheduler's engine, given one more GPU whenever it finds no place."""
    state = ClusterState()
    engine = Engine(POLICIES[policy]())
    for number, profile in enumerate(arrivals):
        engine.policy.record(profile)
        found = engine.place(state, [request_for_profile(state, profile)])
        if isinstance(found, Unplaceable):
            state.add_gpu(str(len(state.gpus)), node="node", geometry=pool.geometry)
            found = engine.place(state, [request_for_profile(state, profile)])
        assert not isinstance(found, Unplaceable)
        state.occupy(found[0].gpu, found[0].index, owner=number)
    return len(state.gpus)


@pytest.mark.parametrize("packer", [name for name in PACKERS if name != DECREASING])
def test_packer_decides_as_the_scheduler_does(h100: Pool, packer: str) -> None:
    for seed in range(3):
        weights = [random.Random(seed).random() for _ in h100.geometry.profiles]
        arrivals = random.Random(f"{packer} {seed}").choices(h100.geometry.profiles, weights, k=60)
        assert gpus_online(h100.geometry, arrivals, packer=packer) == gpus_by_engine(h100, arrivals, packer)


def test_decreasing_order_puts_large_requests_first(h100: Pool) -> None:
    # First fit cuts the left half of the first GPU into 1g, which leaves a GPU for each 4g.
    arrivals = ["1g.10gb"] * 4 + ["4g.40gb"] * 2
    assert gpus_online(h100.geometry, arrivals, packer="first_fit") == 3
    assert gpus_online(h100.geometry, arrivals, packer=DECREASING) == 2


def test_orders_of_arrival_are_seeded() -> None:
    demand = {"1g.10gb": 20, "2g.20gb": 20}
    assert shuffled(demand, seed=1) == shuffled(demand, seed=1)
    assert shuffled(demand, seed=1) != shuffled(demand, seed=2)
    assert sorted(shuffled(demand, seed=1)) == ["1g.10gb"] * 20 + ["2g.20gb"] * 20
