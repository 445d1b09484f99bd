"""What each policy chooses, on clusters small enough to see it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.simulate.openb.cluster import Cluster
from tessera.simulate.openb.expected_fill import ExpectedFill
from tessera.simulate.openb.fragmentation import (
    FragmentationGradientDescent,
    UsableByNextPod,
    exact,
    fragmentation_milli,
    sigmoid_steps,
)
from tessera.simulate.openb.policies import (
    BestFit,
    DotProduct,
    FirstFit,
    GpuClustering,
    GpuPacking,
    Policy,
    RandomChoice,
    WorstFit,
)
from tessera.simulate.openb.replay import Replay, run
from tessera.simulate.openb.trace import Node, PodType
from tessera.simulate.openb.typical import TypicalPod, typical_pods
from tessera.simulate.openb.unallocated import unallocated, unavoidable

THIRD = PodType(2000, 1, 1, 300)
HALF = PodType(2000, 1, 1, 500)
MOST = PodType(3000, 1, 1, 800)
WHOLE = PodType(8000, 1, 1, 1000)
PAIR = PodType(12000, 1, 2, 1000)
ONLY_T4 = PodType(2000, 1, 1, 500, ("T4",))
CPU_ONLY = PodType(6000, 1, 0, 0)
EVERY = [THIRD, HALF, MOST, WHOLE, PAIR, ONLY_T4, CPU_ONLY]


def cluster(*shapes: tuple[int, int], model: str = "G2") -> Cluster:
    """Nodes of these (CPU in cores, GPUs)."""
    return Cluster([Node(f"n-{i}", cpu * 1000, 10_000, gpus, model) for i, (cpu, gpus) in enumerate(shapes)])


def chosen(state: Cluster, policy: Policy, pod: PodType) -> tuple[int, list[int]]:
    """The node, and what is left on its GPUs then."""
    node = Replay(state, policy).place(pod)
    return node, state.gpu_left[node].tolist()


def test_first_best_and_worst_fit() -> None:
    for policy, node, left in (
        (FirstFit(), 0, [500, 1000]),
        (BestFit(), 1, [1000, 200]),
        (WorstFit(), 0, [500, 1000]),
    ):
        state = cluster((64, 2), (64, 2))
        state.place(1, THIRD, 1)
        state.place(1, CPU_ONLY, -1)
        assert chosen(state, policy, HALF) == (node, left)


def test_dot_product_takes_the_node_with_the_least_left() -> None:
    assert chosen(cluster((96, 8), (16, 2)), DotProduct(), WHOLE)[0] == 1


def test_packing_prefers_a_shared_gpu_then_a_used_node_then_a_free_one() -> None:
    state = cluster((64, 2), (64, 2))
    state.place(1, HALF, 0)
    assert chosen(state, GpuPacking(), THIRD) == (1, [200, 1000])
    assert chosen(state, GpuPacking(), WHOLE) == (1, [200, 0])
    assert chosen(state, GpuPacking(), WHOLE)[0] == 0


def test_clustering_prefers_nodes_of_the_same_kind() -> None:
    state = cluster((64, 4), (64, 4), (64, 4))
    state.place(0, WHOLE, -1)
    state.place(2, HALF, 0)
    assert chosen(state, GpuClustering(), THIRD)[0] == 2
    assert chosen(state, GpuClustering(), PAIR)[0] == 1


def test_random_chooses_only_where_the_pod_fits_and_repeats_with_its_seed() -> None:
    def nodes(seed: int) -> list[int]:
        state = cluster((4, 4), (64, 4), (64, 4))
        replay = Replay(state, RandomChoice(seed))
        return [replay.place(WHOLE) for _ in range(8)]

    assert set(nodes(1)) == {1, 2}
    assert nodes(1) == nodes(1) != nodes(2)


def brute_force_f(state: Cluster, types: list[TypicalPod]) -> float:
    """F by its definition, type by type."""
    total = 0.0
    for cpu, row, model in zip(state.cpu_left, state.gpu_left, state.model, strict=True):
        name = next(key for key, code in state.models.items() if code == model)
        for pod in types:
            hosts = (
                pod.gpus > 0
                and cpu >= pod.cpu_milli
                and (not pod.models or name in pod.models)
                and sum(left >= pod.gpu_milli for left in row) >= pod.gpus
            )
            unusable = row[row < pod.gpu_milli].sum() if hosts else row.sum()
            total += pod.share * float(unusable)
    return total


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.sampled_from(EVERY), max_size=14), st.lists(st.sampled_from(EVERY), min_size=1, max_size=9)
)
def test_fragmentation_from_tables_is_that_of_the_definition(
    placed: list[PodType], arriving: list[PodType]
) -> None:
    state = cluster((20, 2), (64, 4), (9, 1))
    replay = Replay(state, BestFit())
    for pod in placed:
        replay.place(pod)
    types = typical_pods(arriving, coverage=1.0)
    usable = UsableByNextPod(state, types)
    assert fragmentation_milli(state, usable) == pytest.approx(brute_force_f(state, types), abs=1e-6)


@pytest.mark.parametrize("pod", EVERY)
def test_fgd_scores_the_fall_of_f(pod: PodType) -> None:
    types = typical_pods(EVERY, coverage=1.0)
    state = cluster((64, 4), model="T4")
    state.place(0, THIRD, 1)
    state.place(0, MOST, 2)
    usable = UsableByNextPod(state, types)
    score, gpu = FragmentationGradientDescent(usable, quantise=exact).score(state.view(np.array([0])), pod)
    before = brute_force_f(state, types)
    state.place(0, pod, int(gpu[0]))
    assert score[0] == pytest.approx(before - brute_force_f(state, types))


def test_the_published_steps_truncate_and_equal_falls_share_one() -> None:
    steps = sigmoid_steps(np.array([0.0, -1e-10, 39.0, 41.0, -1.0, 1e9]))
    assert steps.tolist() == [50, 50, 50, 51, 49, 100]


def test_fuller_nodes_win_ties_of_fgd_when_asked() -> None:
    types = typical_pods([CPU_ONLY], coverage=1.0)
    for prefer_fuller, node in ((False, 0), (True, 1)):
        state = cluster((64, 2), (64, 2))
        state.place(1, HALF, 0)
        policy = FragmentationGradientDescent(
            UsableByNextPod(state, types), quantise=sigmoid_steps, prefer_fuller=prefer_fuller
        )
        assert chosen(state, policy, CPU_ONLY)[0] == node


def fill(room: int, shares: dict[int, float], stop: float) -> float:
    """W by its definition, recursively."""
    fitting = {milli: share for milli, share in shares.items() if milli <= room}
    if not fitting:
        return 0.0
    worth = sum(share * (milli + fill(room - milli, shares, stop)) for milli, share in fitting.items())
    return worth / (sum(fitting.values()) + stop)


def test_the_gain_of_expected_fill_is_that_of_its_formula() -> None:
    arriving = [THIRD] * 2 + [HALF] + [MOST]
    types = typical_pods(arriving, coverage=1.0)
    state = cluster((6, 1))
    policy = ExpectedFill(state, types, stop_chance=0.1, sharpness=2.0)
    score, _ = policy.score(state.view(np.array([0])), HALF)

    shares = {300: 0.5, 500: 0.25, 800: 0.25}
    # Once the pod is there, 4 cores are left: enough for every type.
    per_milli = (2000 * 0.5 + 2000 * 0.25 + 3000 * 0.25) / (300 * 0.5 + 500 * 0.25 + 800 * 0.25)

    def value(cpu: int, room: int) -> float:
        return 1 / math.hypot(1 / fill(room, shares, 0.1), per_milli / cpu)

    assert score[0] == pytest.approx(value(4000, 500) - value(6000, 1000), abs=1e-5)


def test_expected_fill_completes_a_gpu_and_leaves_no_room_that_nobody_fills() -> None:
    # 300 + 300 leaves 400 for another 300; next to 500 it leaves 200, which nothing fills.
    state = cluster((64, 4))
    state.place(0, HALF, 0)
    state.place(0, THIRD, 1)
    policy = ExpectedFill(state, typical_pods([THIRD, HALF], coverage=1.0))
    assert chosen(state, policy, HALF) == (0, [0, 700, 1000, 1000])


def test_expected_fill_gives_cpu_away_where_there_is_too_much() -> None:
    state = cluster((24, 2), (104, 2))
    policy = ExpectedFill(state, typical_pods([WHOLE, CPU_ONLY], coverage=1.0))
    assert chosen(state, policy, CPU_ONLY)[0] == 1


def test_expected_fill_keeps_sets_of_gpus_together() -> None:
    state = cluster((96, 2), (96, 1))
    policy = ExpectedFill(state, typical_pods([WHOLE, PAIR, PAIR], coverage=1.0))
    assert chosen(state, policy, WHOLE)[0] == 1


@settings(max_examples=6, deadline=None)
@given(st.lists(st.sampled_from(EVERY), min_size=1, max_size=40))
def test_kept_scores_choose_as_fresh_ones_and_nothing_is_overdrawn(pods: list[PodType]) -> None:
    def place_all(*, fresh: bool) -> tuple[list[int], Cluster]:
        nodes = [
            Node("a", 48_000, 20, 4, "T4"),
            Node("b", 16_000, 9, 2, "G2"),
            Node("c", 30_000, 30, 1, "T4"),
        ]
        state = Cluster(nodes)
        policy = ExpectedFill(state, typical_pods(EVERY, coverage=1.0))
        replay = Replay(state, policy)
        taken = []
        for pod in pods:
            taken.append((Replay(state, policy) if fresh else replay).place(pod))
        return taken, state

    kept, state = place_all(fresh=False)
    assert kept == place_all(fresh=True)[0]
    assert min(state.cpu_left.min(), state.gpu_left.min(), state.memory_left.min()) >= 0
    placed = sum(pod.total_gpu_milli for pod, node in zip(pods, kept, strict=True) if node >= 0)
    assert placed == state.capacity_milli - state.gpu_left.sum()
    idle = unallocated(state, typical_pods(EVERY, coverage=1.0))
    assert sum(idle.values()) == pytest.approx(float(state.gpu_left.sum()))


def test_a_run_is_read_when_the_demand_arrives_and_at_its_end() -> None:
    state = cluster((64, 2))
    outcome = run(
        state, [WHOLE, HALF, WHOLE], FirstFit(), levels_pct=(50, 75, 130), fragmentation=lambda _: 0.0
    )
    assert [(r.arrived_pct, r.allocation_pct) for r in outcome.readings] == [
        (50, 50.0),
        (75, 75.0),
        (130, 75.0),
    ]
    assert (outcome.arrived, outcome.placed, outcome.placements) == (3, 2, [0, 0, -1])


def test_what_is_idle_for_want_of_cpu_is_told_apart() -> None:
    state = cluster((9, 2), (64, 1))
    state.place(0, WHOLE, -1)
    state.place(1, MOST, 0)
    idle = unallocated(state, typical_pods([THIRD, WHOLE], coverage=1.0))
    assert (idle["cpu"], idle["useless"], sum(idle.values())) == (1000, 200, 1200)


def test_the_rest_beside_large_pods_is_unavoidable_unless_small_ones_lie_there() -> None:
    large, middle, small = PodType(1, 1, 1, 810), PodType(1, 1, 1, 600), PodType(1, 1, 1, 160)
    assert unavoidable([large, large, WHOLE, CPU_ONLY]) == 380
    assert unavoidable([large, large, small]) == 220
    assert unavoidable([large, large, small, middle]) == 620
    assert unavoidable([THIRD, HALF, PAIR]) == 0
