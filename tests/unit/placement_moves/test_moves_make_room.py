"""Plans of moves: they are legal, complete, the cheapest by their rule, and touch only what may be moved."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterator, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tessera.placement.geometry import Geometry
from tessera.placement.move_plans import one_after_the_other
from tessera.placement.moves import (
    UNDER_BUDGET,
    Move,
    MovePlan,
    MovePlanner,
    PlanPrice,
    Victim,
    gpu_seconds_lost,
)
from tessera.placement.policies import FragmentationTenancy
from tessera.placement.request import Feasible, Offer, request_for_profile
from tessera.placement.state import ClusterState
from unit.placement_moves.small_clusters import carry_out, cluster, fill_at_random


def anything(owner: Hashable) -> Victim:
    return Victim()


def place_by(state: ClusterState, plan: MovePlan) -> None:
    """The moves, then the request: `occupy` refuses any overlap on the way."""
    carry_out(state, plan.moves)
    state.occupy(plan.placement.gpu, plan.placement.index, owner="request")


def openings(state: ClusterState, profile: str, *, most: int) -> Iterator[tuple[int, int, list[Hashable]]]:
    """(GPU number, placement, owners in the way) with 1 to `most` victims, by looking at every GPU."""
    for gpu in state.gpus:
        for index in gpu.geometry.placements_of(profile):
            victims = [o for o, held in gpu.held.items() if gpu.geometry.overlap(held, index)]
            if 1 <= len(victims) <= most:
                yield gpu.number, index, victims


def with_request(state: ClusterState, number: int, index: int, victims: list[Hashable]) -> list[int]:
    """The layouts of all GPUs after the victims are gone and the request is placed."""
    layouts = [gpu.layout for gpu in state.gpus]
    gpu = state.gpus[number]
    for victim in victims:
        layouts[number] = gpu.table.after_released(layouts[number], gpu.held[victim])
    layouts[number] = gpu.table.after_placed(layouts[number], index)
    return layouts


def fits(state: ClusterState, layouts: Sequence[int], profile: str) -> bool:
    return any(
        gpu.table.fits(layouts[gpu.number], index)
        for gpu in state.gpus
        for index in gpu.geometry.placements_of(profile)
    )


def can_make_room(state: ClusterState, profile: str, *, movable: set[Hashable], most: int) -> bool:
    """Brute force: any instances that may be moved, one after the other, each to any room that is free."""
    held = {o: (gpu.number, index) for gpu in state.gpus for o, index in gpu.held.items() if o in movable}
    start = (tuple(gpu.layout for gpu in state.gpus), frozenset[Hashable]())
    reached = {start}
    for _ in range(most):
        before, reached = reached, set()
        for layouts, moved in before:
            for owner, (source, index) in held.items():
                if owner in moved:
                    continue
                left = list(layouts)
                left[source] = state.gpus[source].table.after_released(left[source], index)
                for target, gpu in enumerate(state.gpus):
                    for place in gpu.geometry.placements_of(gpu.geometry.placements[index].profile):
                        if gpu.table.fits(left[target], place):
                            after = list(left)
                            after[target] = gpu.table.after_placed(left[target], place)
                            reached.add((tuple(after), moved | {owner}))
        if any(fits(state, layouts, profile) for layouts in {layouts for layouts, _ in reached}):
            return True
    return False


def greedy_change(
    state: ClusterState, policy: FragmentationTenancy, number: int, index: int, victims: list[Hashable]
) -> float | None:
    """The rule by the book: the request, then each victim, widest first, where V grows least."""
    gpu = state.gpus[number]
    layouts = with_request(state, number, index, victims)
    change = policy.value(gpu.geometry, layouts[number]) - policy.value(gpu.geometry, gpu.layout)
    placements = [gpu.geometry.placements[gpu.held[v]] for v in victims]
    for moved in sorted(placements, key=lambda p: (p.width, p.compute, -p.start), reverse=True):
        best: tuple[float, int, int, int] | None = None
        for target, other in enumerate(state.gpus):
            for place in other.geometry.placements_of(moved.profile):
                if not other.table.fits(layouts[target], place):
                    continue
                after = other.table.after_placed(layouts[target], place)
                growth = policy.value(other.geometry, after) - policy.value(other.geometry, layouts[target])
                rank = (round(growth, 9), target, other.geometry.placements[place].start, after)
                if best is None or rank < best:
                    best = rank
        if best is None:
            return None
        change += best[0]
        layouts[best[1]] = best[3]
    return change


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32), size=st.sampled_from(((1, 1), (2, 1), (3, 1), (1, 2))), pick=st.integers(0, 5)
)
@example(seed=4, size=(2, 2), pick=0)
@example(seed=190, size=(2, 2), pick=0)
def test_a_plan_is_found_exactly_when_one_exists(
    h100: Geometry, seed: int, size: tuple[int, int], pick: int
) -> None:
    gpus, most = size
    state = cluster(*[h100] * gpus)
    fill_at_random(state, seed=seed, leave=random.Random(seed).choice((0.1, 0.2, 0.3, 0.5)))
    rejected = [p for p in h100.profiles if not fits(state, [gpu.layout for gpu in state.gpus], p)]
    if not rejected:
        return
    profile = rejected[pick % len(rejected)]
    fixed = {o for o in state.owners() if random.Random(f"{seed} {o}").random() < 0.2}
    before = {o: h100.placements[state.holds(o)[1]].profile for o in state.owners()}  # type: ignore[index]
    plan = MovePlanner(FragmentationTenancy()).plan(
        state,
        request_for_profile(state, profile),
        most_victims=most,
        movable=lambda owner: None if owner in fixed else Victim(),
    )
    movable = set(state.owners()) - fixed
    assert (plan is not None) == can_make_room(state, profile, movable=movable, most=most)
    if plan is not None:
        assert 1 <= len(plan.moves) <= most
        assert not fixed & {move.owner for move in plan.moves}
        place_by(state, plan)
        after = {o: h100.placements[state.holds(o)[1]].profile for o in state.owners()}  # type: ignore[index]
        assert after == before | {"request": profile}


@pytest.mark.parametrize(
    ("seed", "gpus", "profile"),
    [(21, 1, "4g.40gb"), (58, 2, "4g.40gb"), (70, 2, "2g.20gb"), (74, 3, "2g.20gb"), (298, 2, "2g.20gb")],
)
def test_a_victim_takes_the_place_of_another_when_no_room_is_free_for_it(
    h100: Geometry, seed: int, gpus: int, profile: str
) -> None:
    state = cluster(*[h100] * gpus)
    fill_at_random(state, seed=seed, leave=random.Random(seed).choice((0.1, 0.2, 0.3, 0.5)))
    request = request_for_profile(state, profile)
    policy = FragmentationTenancy()
    assert MovePlanner(policy).plan(state, request, most_victims=1, movable=anything) is None
    plan = MovePlanner(policy).plan(state, request, most_victims=2, movable=anything)
    assert plan is not None and len(plan.moves) == 2
    must_stay = plan.moves[0].owner
    other = MovePlanner(policy).plan(
        state,
        request,
        most_victims=2,
        movable=lambda owner: None if owner == must_stay else Victim(),
    )
    assert other is None or must_stay not in {move.owner for move in other.moves}
    place_by(state, plan)


@pytest.mark.parametrize("seed", [190, 370])
def test_two_instances_that_would_swap_their_places_make_no_plan(h100: Geometry, seed: int) -> None:
    state = cluster(h100, h100)
    fill_at_random(state, seed=seed, leave=random.Random(seed).choice((0.1, 0.2, 0.3, 0.5)))
    request = request_for_profile(state, "1g.10gb")
    assert MovePlanner(FragmentationTenancy()).plan(state, request, most_victims=2, movable=anything) is None
    assert not can_make_room(state, "1g.10gb", movable=set(state.owners()), most=2)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), under_budget=st.booleans(), data=st.data())
def test_the_plan_is_the_cheapest_by_its_rule(
    h100: Geometry, seed: int, under_budget: bool, data: st.DataObject
) -> None:
    state = cluster(*[h100] * 3)
    fill_at_random(state, seed=seed, leave=0.4)
    policy = FragmentationTenancy()
    profile = data.draw(st.sampled_from(h100.profiles))
    price = UNDER_BUDGET if under_budget else PlanPrice()
    plan = MovePlanner(policy).plan(
        state, request_for_profile(state, profile), most_victims=2, movable=anything, price=price
    )
    found = [
        (0 if under_budget else len(victims), len(victims) + (0.3 if under_budget else 0.1) * change)
        for number, index, victims in openings(state, profile, most=2)
        if (change := greedy_change(state, policy, number, index, victims)) is not None
    ]
    if plan is not None and found:
        assert (0 if under_budget else len(plan.moves), plan.price) <= (  # type: ignore[operator]
            min(found)[0],
            pytest.approx(min(found)[1], abs=1e-6),
        )
        number, victims = int(plan.placement.gpu[4:]), [move.owner for move in plan.moves]
        change = greedy_change(state, policy, number, plan.placement.index, victims)
        assert change is None or plan.value_change == pytest.approx(change, abs=1e-6)


def test_two_halves_with_one_small_instance_each_make_a_whole_gpu(h100: Geometry) -> None:
    state = cluster(h100, h100)
    state.occupy("gpu-0", h100.index_of("1g.10gb", 0) or 0, owner="a")
    half = h100.index_of("3g.40gb", 4)
    assert half is not None
    state.occupy("gpu-1", half, owner="b")
    request = request_for_profile(state, "7g.80gb")
    plan = MovePlanner(FragmentationTenancy()).plan(state, request, most_victims=1, movable=anything)
    assert plan is not None and len(plan.moves) == 1
    place_by(state, plan)
    assert plan.placement.legal.profile == "7g.80gb"


@pytest.mark.parametrize("price", [PlanPrice(), UNDER_BUDGET, PlanPrice(per_gpu_second=0.01)])
def test_what_is_dearer_to_move_stays(h100: Geometry, price: PlanPrice) -> None:
    state = cluster(h100, h100, h100)
    small = h100.index_of("1g.10gb", 0)
    assert small is not None
    for number in range(3):
        state.occupy(f"gpu-{number}", small, owner=number)
    lost = {0: 50.0, 1: 10.0, 2: 30.0}
    plan = MovePlanner(FragmentationTenancy()).plan(
        state,
        request_for_profile(state, "7g.80gb"),
        most_victims=1,
        movable=lambda owner: Victim(gpu_seconds=lost[int(str(owner))]),
        price=price,
    )
    assert plan is not None
    assert [move.owner for move in plan.moves] == [1]
    assert plan.gpu_seconds == 10.0


def test_a_victim_goes_only_where_its_offers_allow(h100: Geometry) -> None:
    state = cluster(h100, h100, h100)
    small = h100.index_of("1g.10gb", 0)
    assert small is not None
    for number in range(3):
        state.occupy(f"gpu-{number}", small, owner=number)
    only_gpu_2 = (Offer(h100, h100.placements_of("1g.10gb"), gpus=0b100),)
    request = request_for_profile(state, "7g.80gb")
    plan = MovePlanner(FragmentationTenancy()).plan(
        state,
        request,
        most_victims=1,
        movable=lambda owner: Victim(offers=only_gpu_2),
        feasible=Feasible(gpus=0b110),
    )
    assert plan is not None
    assert plan.placement.gpu == "gpu-1"
    assert plan.moves[0].target[0] == "gpu-2"
    nowhere = (Offer(h100, h100.placements_of("1g.10gb"), gpus=0),)
    assert (
        MovePlanner(FragmentationTenancy()).plan(
            state,
            request,
            most_victims=1,
            movable=lambda owner: Victim(offers=nowhere),
        )
        is None
    )


def test_a_victim_may_go_to_another_model_that_offers_its_profile(h100: Geometry, a30: Geometry) -> None:
    state = cluster(a30, a30, h100)
    for number in range(2):
        state.occupy(f"gpu-{number}", a30.index_of("2g.12gb", 0) or 0, owner=number)
    plan = MovePlanner(FragmentationTenancy()).plan(
        state,
        request_for_profile(state, "4g.24gb"),
        most_victims=1,
        movable=anything,
    )
    assert plan is not None
    assert {plan.placement.gpu, plan.moves[0].target[0]} == {"gpu-0", "gpu-1"}


def test_a_planner_follows_the_values_of_its_policy(h100: Geometry) -> None:
    state = cluster(h100, h100)
    fill_at_random(state, seed=5, leave=0.5)
    policy = FragmentationTenancy()
    planner = MovePlanner(policy)
    request = request_for_profile(state, "7g.80gb")
    for _ in range(200):
        policy.record("7g.80gb")
    kept = planner.plan(state, request, most_victims=4, movable=anything)
    for _ in range(3000):
        policy.record("1g.10gb")
    assert planner.plan(state, request, most_victims=4, movable=anything) == MovePlanner(policy).plan(
        state, request, most_victims=4, movable=anything
    )
    assert kept is None or kept.placement.legal.profile == "7g.80gb"


def test_moves_are_ordered_so_that_each_target_is_free(h100: Geometry) -> None:
    state = cluster(h100, h100)
    left, right = h100.index_of("3g.40gb", 0), h100.index_of("3g.40gb", 4)
    assert left is not None and right is not None
    state.occupy("gpu-0", left, owner="a")
    state.occupy("gpu-0", right, owner="b")
    follows = Move("a", "3g.40gb", ("gpu-0", left), ("gpu-0", right))
    leaves = Move("b", "3g.40gb", ("gpu-0", right), ("gpu-1", left))
    assert one_after_the_other(state, [follows, leaves]) == (leaves, follows)
    swaps = Move("b", "3g.40gb", ("gpu-0", right), ("gpu-0", left))
    assert one_after_the_other(state, [follows, swaps]) is None


def test_cost_is_the_time_lost_times_the_share_of_the_gpu(h100: Geometry) -> None:
    half = h100.index_of("3g.40gb", 4)
    assert half is not None
    lost = gpu_seconds_lost(
        h100,
        h100.placements[half],
        since_checkpoint_seconds=100,
        restart_seconds=19,
        reslice_seconds=1,
    )
    assert lost == 60.0
