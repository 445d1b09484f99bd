"""Compaction empties GPUs by moves that are legal one after the other, within their number."""

from __future__ import annotations

import random
from collections.abc import Hashable

from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.placement.compaction import Step, plan_compaction
from tessera.placement.geometry import Geometry
from tessera.placement.moves import Victim
from tessera.placement.policies import FragmentationTenancy
from tessera.placement.request import Feasible
from tessera.placement.state import ClusterState
from unit.placement_moves.small_clusters import carry_out, cluster, fill_at_random


def anything(owner: Hashable) -> Victim:
    return Victim(gpu_seconds=2.0)


def used(state: ClusterState) -> int:
    return sum(bool(gpu.held) for gpu in state.gpus)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), most_moves=st.integers(0, 8))
def test_every_step_is_legal_and_the_number_of_moves_is_kept(
    h100: Geometry, a30: Geometry, seed: int, most_moves: int
) -> None:
    state = cluster(h100, h100, a30, h100, a30, h100)
    fill_at_random(state, seed=seed, leave=0.75)
    rng = random.Random(seed)
    fixed = {o for o in state.owners() if rng.random() < 0.15}
    before = {o: state.holds(o) for o in state.owners()}
    layouts = [gpu.layout for gpu in state.gpus]
    plan = plan_compaction(
        state,
        FragmentationTenancy(),
        most_moves=most_moves,
        movable=lambda owner: None if owner in fixed else Victim(gpu_seconds=2.0),
    )
    assert [gpu.layout for gpu in state.gpus] == layouts
    assert len(plan.moves) <= most_moves
    assert plan.gpu_seconds == 2.0 * len(plan.moves)
    assert not fixed & {move.owner for move in plan.moves}
    assert plan.used_before == used(state)
    carry_out(state, plan.moves)
    assert plan.used_after == used(state) == plan.used_before - len(plan.emptied)
    assert set(state.owners()) == set(before)
    assert all(not gpu.held for gpu in state.gpus if gpu.name in plan.emptied)


def test_two_half_used_gpus_become_one(h100: Geometry) -> None:
    state = cluster(h100, h100)
    for number, start in enumerate((0, 4)):
        state.occupy(f"gpu-{number}", h100.index_of("3g.40gb", start) or 0, owner=number)
    plan = plan_compaction(state, FragmentationTenancy(), most_moves=5, movable=anything, fewest_gpus=1)
    assert len(plan.moves) == 1
    assert (plan.used_before, plan.used_after) == (2, 1)


def test_an_instance_steps_aside_when_its_place_is_needed(h100: Geometry) -> None:
    """A 3g needs slices 4-7, and a small instance stands in them."""
    state = cluster(h100, h100)
    state.occupy("gpu-0", h100.index_of("3g.40gb", 4) or 0, owner="half")
    state.occupy("gpu-1", h100.index_of("2g.20gb", 0) or 0, owner="quarter")
    state.occupy("gpu-1", h100.index_of("1g.10gb", 4) or 0, owner="small")
    fixed = plan_compaction(
        state,
        FragmentationTenancy(),
        most_moves=1,
        movable=lambda owner: Victim() if owner == "half" else None,
    )
    assert fixed.moves == ()
    plans = [
        plan_compaction(
            state,
            FragmentationTenancy(),
            most_moves=most,
            movable=lambda owner: None if owner == "quarter" else Victim(),
        )
        for most in (1, 2)
    ]
    assert [plan.used_after for plan in plans] == [2, 1]
    carry_out(state, plans[1].moves)


def test_nothing_moves_when_no_gpu_can_be_emptied(h100: Geometry) -> None:
    state = cluster(h100, h100)
    for number in range(2):
        state.occupy(f"gpu-{number}", h100.index_of("4g.40gb", 0) or 0, owner=number)
    assert plan_compaction(state, FragmentationTenancy(), most_moves=9, movable=anything).moves == ()
    assert plan_compaction(cluster(h100), FragmentationTenancy(), most_moves=9, movable=anything).moves == ()


def test_gpus_that_do_not_take_part_are_left_alone(h100: Geometry) -> None:
    state = cluster(h100, h100, h100)
    for number in range(3):
        state.occupy(f"gpu-{number}", h100.index_of("1g.10gb", 0) or 0, owner=number)
    plan = plan_compaction(
        state, FragmentationTenancy(), most_moves=9, movable=anything, feasible=Feasible(gpus=0b011)
    )
    assert plan.used_after == 2
    assert {name for move in plan.moves for name in (move.source[0], move.target[0])} == {"gpu-0", "gpu-1"}


def test_it_stops_at_the_exact_minimum(h100: Geometry) -> None:
    state = cluster(*[h100] * 4)
    for number in range(4):
        state.occupy(f"gpu-{number}", h100.index_of("1g.10gb", 0) or 0, owner=number)
    plan = plan_compaction(state, FragmentationTenancy(), most_moves=9, movable=anything, fewest_gpus=3)
    assert plan.used_after == 3
    assert len(plan.moves) == 1


def test_nobody_steps_aside_where_all_targets_must_be_free_from_the_beginning(h100: Geometry) -> None:
    state = cluster(h100, h100)
    state.occupy("gpu-0", h100.index_of("3g.40gb", 4) or 0, owner="half")
    state.occupy("gpu-1", h100.index_of("2g.20gb", 0) or 0, owner="quarter")
    state.occupy("gpu-1", h100.index_of("1g.10gb", 4) or 0, owner="small")
    plans = [
        plan_compaction(
            state,
            FragmentationTenancy(),
            most_moves=3,
            movable=lambda owner: None if owner == "quarter" else Victim(),
            step_aside=aside,
        )
        for aside in (True, False)
    ]
    assert [len(plan.moves) for plan in plans] == [2, 0]


def test_of_gpus_with_equal_layouts_the_one_that_loses_least_is_emptied(h100: Geometry) -> None:
    state = cluster(*[h100] * 3)
    for number in range(3):
        state.occupy(f"gpu-{number}", h100.index_of("1g.10gb", 0) or 0, owner=number)
    lost: dict[Hashable, float] = {0: 900.0, 1: 30.0, 2: 600.0}
    plan = plan_compaction(
        state, FragmentationTenancy(), most_moves=1, movable=lambda owner: Victim(gpu_seconds=lost[owner])
    )
    assert (plan.emptied, plan.gpu_seconds) == (("gpu-1",), 30.0)


def test_a_gpu_is_emptied_only_when_that_is_worth_it(h100: Geometry) -> None:
    state = cluster(h100, h100)
    for number in range(2):
        state.occupy(f"gpu-{number}", h100.index_of("1g.10gb", 0) or 0, owner=number)
    judged: list[Step] = []

    def refuse(step: Step) -> bool:
        judged.append(step)
        return False

    policy = FragmentationTenancy()
    before = sum(policy.value(gpu.geometry, gpu.layout) for gpu in state.gpus)
    plan = plan_compaction(state, policy, most_moves=1, movable=anything, worth=refuse)
    assert plan.moves == ()
    assert {(len(step.moves), step.gpu_seconds) for step in judged} == {(1, 2.0)}
    carry_out(state, judged[0].moves)
    after = sum(policy.value(gpu.geometry, gpu.layout) for gpu in state.gpus)
    assert abs(judged[0].growth - (after - before)) < 1e-9


def test_gpus_behind_many_others_with_their_layout_are_found(h100: Geometry) -> None:
    state = cluster(*[h100] * 80)
    for number in range(80):
        state.occupy(f"gpu-{number}", h100.index_of("1g.10gb", 0) or 0, owner=number)
    plan = plan_compaction(
        state, FragmentationTenancy(), most_moves=1, movable=anything, feasible=Feasible(gpus=0b11 << 78)
    )
    assert plan.emptied in (("gpu-78",), ("gpu-79",))
