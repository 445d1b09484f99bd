"""The engine against brute force, and the rules by which it chooses."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.placement.engine import Engine
from tessera.placement.geometry import Geometry
from tessera.placement.gpu_sets import numbers
from tessera.placement.policies import POLICIES, FirstFit, FragmentationGradient, Policy
from tessera.placement.request import (
    Alternative,
    Feasible,
    Offer,
    Placement,
    Request,
    Unplaceable,
    request_for_profile,
)
from tessera.placement.state import ClusterState


def _cluster(geometry: Geometry, *, nodes: int, gpus_per_node: int) -> ClusterState:
    state = ClusterState()
    for node in range(nodes):
        for gpu in range(gpus_per_node):
            state.add_gpu(f"gpu-{node}-{gpu}", node=f"node-{node}", geometry=geometry)
    return state


def _fill(state: ClusterState, rng: random.Random, *, share: float) -> None:
    for gpu in state.gpus:
        while rng.random() < share and (fitting := gpu.geometry.occupancy(gpu.key).fitting):
            state.occupy(gpu.name, rng.choice(fitting), owner=f"{gpu.name}-{len(gpu.held)}")


def _brute_force(state: ClusterState, policy: Policy, profile: str, allowed: int) -> set[tuple[int, int]]:
    """The documented rule, written the slow way: the minimum over every GPU of (size, rank, GPU, preference,
    start), where the GPU counts from whose turn it is, or not at all where chance decides. All answers that
    the rule allows.
    """
    found: dict[tuple[object, ...], set[tuple[int, int]]] = {}
    for gpu in state.gpus:
        best: tuple[tuple[object, ...], int] | None = None
        for index in gpu.geometry.placements_of(profile) if allowed >> gpu.number & 1 else ():
            if gpu.geometry.fits(gpu.key, index):
                legal = gpu.geometry.placements[index]
                turn = gpu.number if policy.turn is None else (gpu.number - policy.turn) % len(state.gpus)
                rank = (
                    (legal.width, legal.compute, policy.rank(gpu.geometry, gpu.layout, index)),
                    0 if policy.chance else turn,
                    policy.preference(gpu.geometry, gpu.layout, index),
                    legal.start,
                )
                if best is None or rank < best[0]:
                    best = (rank, index)
        if best is not None:
            found.setdefault(best[0][:2], set()).add((gpu.number, best[1]))
    return min(found.items())[1] if found else set()


@pytest.mark.parametrize("name", sorted(POLICIES))
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.0, 0.95), allowed=st.integers(0, 7))
def test_one_slice_goes_where_brute_force_puts_it(
    w8_all: Geometry, w8_double: Geometry, w4: Geometry, name: str, seed: int, share: float, allowed: int
) -> None:
    """On mixed models, before and after the policy has learned, with and without node filters."""
    rng = random.Random(seed)
    state = ClusterState()
    for number in range(3):
        geometry = rng.choice([w8_all, w8_double, w4])
        state.add_gpu(f"gpu-{number}", node=f"node-{number % 2}", geometry=geometry)
    _fill(state, rng, share=share)
    policy = POLICIES[name]()
    engine = Engine(policy)
    for profile in (*w8_all.profiles, *w4.profiles):
        for usable in (allowed, None):
            bits = state.all_bits() if usable is None else usable
            expected = _brute_force(state, policy, profile, bits)
            answer = engine.choose(state, profile, feasible=usable)
            assert answer in expected if expected else answer is None
        expected = _brute_force(state, policy, profile, allowed)
        placed = engine.place(state, [request_for_profile(state, profile)], feasible=Feasible(allowed))
        if isinstance(placed, Unplaceable):
            assert not expected
        else:
            gpu = state.gpu(placed[0].gpu)
            assert gpu is not None
            assert (gpu.number, placed[0].index) in expected
        for _ in range(10):
            policy.record(rng.choice(w8_all.profiles))


@pytest.mark.parametrize("name", sorted(POLICIES))
@settings(max_examples=3, deadline=None)
@given(st.integers(0, 10_000))
def test_a_run_never_overlaps_conserves_slices_and_is_greedy_at_every_step(
    w8_all: Geometry, name: str, seed: int
) -> None:
    rng = random.Random(seed)
    state = _cluster(w8_all, nodes=1, gpus_per_node=3)
    policy = POLICIES[name]()
    engine = Engine(policy)
    held: dict[int, int] = {}
    for arrival in range(60):
        while held and rng.random() < 0.4:
            gone = rng.choice(sorted(held))
            del held[gone]
            state.release(gone)
        profile = rng.choice(w8_all.profiles)
        policy.record(profile)
        expected = _brute_force(state, policy, profile, state.all_bits())
        answer = engine.choose(state, profile)
        assert answer in expected if expected else answer is None
        if answer is not None:
            state.occupy_at(*answer, arrival)  # raises when it overlaps
            held[arrival] = w8_all.placements[answer[1]].width
        free = sum(g.geometry.occupancy(g.key).free for g in state.gpus)
        assert sum(held.values()) + free == 3 * 8


def _fits_somewhere(state: ClusterState, profiles: Sequence[str]) -> bool:
    """Whether some node can take all profiles, by trying every order and every placement."""

    def fill(keys: dict[int, int], rest: tuple[str, ...]) -> bool:
        if not rest:
            return True
        for number, key in keys.items():
            geometry = state.gpus[number].geometry
            for index in geometry.placements_of(rest[0]):
                if geometry.fits(key, index) and fill(
                    keys | {number: geometry.with_placed(key, index)}, rest[1:]
                ):
                    return True
        return False

    return any(
        fill({n: state.gpus[n].key for n in numbers(state.bits_of_nodes([node]))}, order)
        for node in state.nodes()
        for order in set(permutations(profiles))
    )


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.2, 0.9), st.data())
def test_slices_of_one_pod_are_placed_together_whenever_a_node_has_room(
    w8_double: Geometry, seed: int, share: float, data: st.DataObject
) -> None:
    state = _cluster(w8_double, nodes=2, gpus_per_node=2)
    _fill(state, random.Random(seed), share=share)
    profiles = data.draw(st.lists(st.sampled_from(w8_double.profiles), min_size=2, max_size=3))
    requests = [request_for_profile(state, p, name=f"r{i}") for i, p in enumerate(profiles)]
    answer = Engine(FragmentationGradient()).place(state, requests)
    assert isinstance(answer, Unplaceable) != _fits_somewhere(state, profiles)
    if not isinstance(answer, Unplaceable):
        assert [p.legal.profile for p in answer] == profiles
        assert [p.request for p in answer] == [r.name for r in requests]
        assert len({p.node for p in answer}) == 1
        for i, placement in enumerate(answer):
            state.occupy(placement.gpu, placement.index, owner=f"joint-{i}")


def test_fgd_keeps_large_profiles_possible(w8: Geometry) -> None:
    """An empty GPU stays whole while a used one has room: F_slice of both decides, not the order of the
    GPUs.
    """
    state = _cluster(w8, nodes=2, gpus_per_node=1)
    index = w8.index_of("3g.40gb", 4)
    assert index is not None
    state.occupy("gpu-1-0", index, owner="a")
    answer = Engine(FragmentationGradient()).place(state, [request_for_profile(state, "1g.10gb")])
    assert not isinstance(answer, Unplaceable)
    assert answer[0].gpu == "gpu-1-0"


def test_the_first_alternative_that_fits_is_taken(w8: Geometry) -> None:
    state = _cluster(w8, nodes=1, gpus_per_node=1)
    offers = {p: (Offer(w8, w8.placements_of(p)),) for p in w8.profiles}
    request = Request(
        "r", tuple(Alternative(name=p, label=p, offers=offers[p]) for p in ("7g.80gb", "3g.40gb", "1g.10gb"))
    )
    engine = Engine(FirstFit())
    first = engine.place(state, [request])
    assert not isinstance(first, Unplaceable)
    assert first[0].alternative == "7g.80gb"
    state.occupy("gpu-0-0", w8.placements_of("1g.10gb")[6], owner="a")
    second = engine.place(state, [request])
    assert not isinstance(second, Unplaceable)
    assert second[0].alternative == "3g.40gb"


def test_a_loose_selector_takes_the_smallest_profile_that_can_be_placed(w8_double: Geometry) -> None:
    state = _cluster(w8_double, nodes=1, gpus_per_node=1)
    big = tuple(i for i, p in enumerate(w8_double.placements) if p.width >= 2)
    request = Request(
        "r", (Alternative(name="r", label="two slices or more", offers=(Offer(w8_double, big),)),)
    )
    answer = Engine(FragmentationGradient()).place(state, [request])
    assert not isinstance(answer, Unplaceable)
    assert answer[0].legal.profile == "1g.20gb"


def test_a_constraint_holds_between_the_slices_of_one_pod(w8: Geometry) -> None:
    state = _cluster(w8, nodes=1, gpus_per_node=2)
    one_gpu = request_for_profile(state, "3g.40gb", count=2)

    def same_gpu(placements: Sequence[Placement]) -> bool:
        return len({p.gpu for p in placements}) <= 1

    def other_gpus(placements: Sequence[Placement]) -> bool:
        return len({p.gpu for p in placements}) == len(placements)

    for constraint, gpus in ((same_gpu, 1), (other_gpus, 2)):
        answer = Engine(FragmentationGradient()).place(state, [one_gpu], constraints=[constraint])
        assert not isinstance(answer, Unplaceable)
        assert len({p.gpu for p in answer}) == gpus


def test_random_is_repeatable_and_spreads(w8: Geometry) -> None:
    def run() -> list[str]:
        state = _cluster(w8, nodes=8, gpus_per_node=1)
        engine = Engine(POLICIES["random"]())
        chosen = []
        for owner in range(8):
            answer = engine.place(state, [request_for_profile(state, "1g.10gb")])
            assert not isinstance(answer, Unplaceable)
            state.occupy(answer[0].gpu, answer[0].index, owner=owner)
            chosen.append(answer[0].gpu)
        return chosen

    assert run() == run()
    assert len(set(run())) > 2


def test_models_with_equal_profiles_are_one_pool_for_the_decision(w8: Geometry, w4: Geometry) -> None:
    state = ClusterState()
    state.add_gpu("a30", node="node-0", geometry=w4)
    state.add_gpu("h100", node="node-1", geometry=w8)
    answer = Engine(FirstFit()).place(state, [request_for_profile(state, "1g.10gb")])
    assert not isinstance(answer, Unplaceable)
    assert answer[0].gpu == "h100"
