"""Packers that see one request at a time are the policies of the scheduler, on GPUs taken when needed."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from tessera.packing.boards import Pool
from tessera.packing.comparison import PACKERS, compare
from tessera.packing.online import DECREASING, gpus_online, shuffled
from tessera.packing.requests import pack_requests
from tessera.placement.geometry import Geometry
from tessera.placement.layouts import EMPTY, layout_table
from tessera.placement.policies import POLICIES, Policy, Rank


def gpus_by_trying_all(geometry: Geometry, arrivals: Sequence[str], policy: Policy) -> int:
    """The rule, written the slow way: of all places on the GPUs in use the one of the lowest rank; when there
    is none, one on a new GPU.
    """
    table = layout_table(geometry)
    used: list[int] = []

    def places(profile: str) -> list[tuple[Rank, int, Rank, int, int]]:
        return [
            (
                policy.rank(geometry, layout, index),
                number,
                policy.preference(geometry, layout, index),
                geometry.placements[index].start,
                index,
            )
            for number, layout in enumerate(used)
            for index in geometry.placements_of(profile)
            if table.fits(layout, index)
        ]

    for profile in arrivals:
        policy.record(profile)
        found = places(profile)
        if not found:
            used.append(EMPTY)
            found = places(profile)
        _, number, _, _, index = min(found)
        used[number] = table.after_placed(used[number], index)
    return len(used)


@pytest.mark.parametrize("packer", [name for name in PACKERS if name != DECREASING])
def test_packer_takes_the_best_place_on_the_gpus_in_use(h100: Pool, packer: str) -> None:
    for seed in range(3):
        weights = [random.Random(seed).random() for _ in h100.geometry.profiles]
        arrivals = random.Random(f"{packer} {seed}").choices(h100.geometry.profiles, weights, k=60)
        expected = gpus_by_trying_all(h100.geometry, arrivals, POLICIES[packer]())
        assert gpus_online(h100.geometry, arrivals, packer=packer) == expected


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


def test_every_packed_order_is_told_as_progress(h100: Pool) -> None:
    demand = {"1g.10gb": 9, "3g.40gb": 2}
    told: list[int] = []
    compare([h100], demand, pack_requests([h100], demand), seeds=range(2), progress=told.append)
    assert told == [1] * 2 * len(PACKERS)
