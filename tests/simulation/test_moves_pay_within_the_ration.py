"""Moves in the online loss system: what they gain on the same workload, within the ration at every moment."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate

import pytest
from tessera.packing.boards import parse_pool
from tessera.packing.requests import pack_requests
from tessera.placement.compaction import plan_compaction
from tessera.placement.moves import Victim
from tessera.placement.policies import FragmentationTenancy
from tessera.simulate.cluster import Cluster, parse_cluster
from tessera.simulate.costs import MoveCosts
from tessera.simulate.lifetimes import lifetimes_of
from tessera.simulate.loss_system import Outcome, run
from tessera.simulate.mixes import named_mix
from tessera.simulate.mover import MoveRules
from tessera.simulate.online import poisson_workload
from tessera.simulate.workload import Workload

GPUS = 60


def busy(cluster: Cluster, mix: str, *, load: float, seed: int, arrivals: int) -> Workload:
    return poisson_workload(
        cluster,
        named_mix(mix, cluster),
        load=load,
        lifetimes=lifetimes_of("exponential"),
        arrivals=arrivals,
        seed=seed,
    )


def accepted_slices(workload: Workload, cluster: Cluster, outcome: Outcome) -> int:
    sizes = [cluster.sizes[profile] for profile in workload.profiles]
    return sum(
        sizes[workload.wanted[request]]
        for request, place in enumerate(outcome.placed)
        if place is not None and request >= workload.counted_from
    )


def offered_slices(workload: Workload, cluster: Cluster) -> int:
    sizes = [cluster.sizes[profile] for profile in workload.profiles]
    return sum(sizes[profile] for profile in workload.wanted[workload.counted_from :])


@pytest.mark.parametrize("mix", ["uniform", "skew-big"])
def test_moves_gain_more_than_a_point_and_keep_the_ration(mix: str) -> None:
    cluster = parse_cluster(["H100-80GB"], gpus=GPUS)
    workload = busy(cluster, mix, load=1.0, seed=1, arrivals=6000)
    outcomes = [
        run(workload, cluster, FragmentationTenancy(), rules=rules, costs=MoveCosts())
        for rules in (MoveRules(), MoveRules(most_victims=2, moves_per_100=5.0))
    ]
    without, moved = (accepted_slices(workload, cluster, outcome) for outcome in outcomes)
    # Over 40,000 arrivals on 100 GPUs it is about 2 points (docs/results/online.md).
    assert 100 * (moved - without) / offered_slices(workload, cluster) > 1.0
    moves = [len(outcomes[1].relocations.get(request, ())) for request in range(len(workload))]
    accepted = accumulate(place is not None for place in outcomes[1].placed)
    for made, taken in zip(accumulate(moves), accepted, strict=True):
        assert made <= 0.05 * taken
    assert max(moves) == 2


@pytest.mark.parametrize("mix", ["uniform", "bimodal"])
def test_compaction_comes_within_two_gpus_of_the_exact_minimum(mix: str) -> None:
    cluster = parse_cluster(["H100-80GB"], gpus=GPUS)
    (geometry,) = cluster.geometries
    workload = busy(cluster, mix, load=0.7, seed=2, arrivals=2000)
    policy = FragmentationTenancy()
    outcome = run(workload, cluster, policy, rules=MoveRules(), costs=MoveCosts())
    state = cluster.new_state()
    gone = {~event for event in workload.events if event < 0}
    for request, place in enumerate(outcome.placed):
        if place is not None and request not in gone:
            state.occupy_at(*place, request)
    demand = Counter(geometry.placements[index].profile for gpu in state.gpus for index in gpu.held.values())
    fewest = pack_requests([parse_pool("H100-80GB")], demand).gpus
    plan = plan_compaction(state, policy, most_moves=100, movable=lambda owner: Victim(), fewest_gpus=fewest)
    assert fewest <= plan.used_after <= fewest + 2
    assert plan.used_after < plan.used_before
    for move in plan.moves:
        state.release(move.owner)
        state.occupy(*move.target, owner=move.owner)
    assert sum(bool(gpu.held) for gpu in state.gpus) == plan.used_after
