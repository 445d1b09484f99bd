"""Eviction for a request of higher priority hits the least important first, and nothing that must stay."""

from __future__ import annotations

import random
from collections.abc import Hashable
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.placement.geometry import Geometry
from tessera.placement.moves import Victim
from tessera.placement.policies import FragmentationTenancy
from tessera.placement.preemption import plan_preemption
from tessera.placement.request import Feasible, request_for_profile
from unit.placement_moves.small_clusters import cluster, fill_at_random


def test_the_least_important_then_the_fewest_then_the_cheapest(h100: Geometry) -> None:
    state = cluster(h100, h100, h100)
    small = h100.placements_of("1g.10gb")
    for number, count in enumerate((1, 2, 2)):
        for at in range(count):
            state.occupy(f"gpu-{number}", small[at], owner=(number, at))
    victims = {
        (0, 0): Victim(priority=5),
        (1, 0): Victim(priority=1, gpu_seconds=10),
        (1, 1): Victim(priority=1, gpu_seconds=10),
        (2, 0): Victim(priority=1, gpu_seconds=3),
        (2, 1): Victim(priority=0, gpu_seconds=3),
    }
    request = request_for_profile(state, "7g.80gb")
    policy = FragmentationTenancy()

    def plan(most: int, *, gpus: int | None = None) -> set[Hashable] | None:
        found = plan_preemption(
            state,
            policy,
            request,
            most_victims=most,
            evictable=lambda owner: victims[owner],  # type: ignore[index]
            feasible=Feasible(gpus) if gpus is not None else None,
        )
        return None if found is None else set(found.victims)

    assert plan(2) == {(2, 0), (2, 1)}
    assert plan(2, gpus=0b011) == {(1, 0), (1, 1)}
    assert plan(1) == {(0, 0)}
    assert plan(1, gpus=0b110) is None


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), most=st.integers(1, 3), data=st.data())
def test_a_plan_is_found_exactly_when_one_exists(
    h100: Geometry, seed: int, most: int, data: st.DataObject
) -> None:
    state = cluster(h100, h100)
    fill_at_random(state, seed=seed, leave=0.2)
    rng = random.Random(seed)
    evictable = {o: Victim(priority=rng.randrange(3)) for o in state.owners() if rng.random() < 0.6}
    profile = data.draw(st.sampled_from(h100.profiles))
    priorities = [
        max(evictable[o].priority for o in chosen)
        for gpu in state.gpus
        for index in h100.placements_of(profile)
        for count in range(1, most + 1)
        for chosen in combinations(gpu.held, count)
        if set(chosen) == {o for o, held in gpu.held.items() if h100.overlap(held, index)}
        and set(chosen) <= set(evictable)
    ]
    found = plan_preemption(
        state,
        FragmentationTenancy(),
        request_for_profile(state, profile),
        most_victims=most,
        evictable=evictable.get,
    )
    assert (found is None) == (not priorities)
    if found is not None:
        assert found.highest_priority == min(priorities)
        assert set(found.victims) <= set(evictable)
        for victim in found.victims:
            state.release(victim)
        state.occupy(found.placement.gpu, found.placement.index, owner="request")
