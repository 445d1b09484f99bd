"""What fits by free repacking is what the integer program says, and bounds what policies accept."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.packing.boards import parse_pool
from tessera.packing.requests import pack_requests
from tessera.placement.policies import FragmentationTenancy
from tessera.simulate.cluster import parse_cluster
from tessera.simulate.costs import MoveCosts
from tessera.simulate.lifetimes import lifetimes_of
from tessera.simulate.loss_system import run
from tessera.simulate.mixes import named_mix
from tessera.simulate.mover import MoveRules
from tessera.simulate.online import poisson_workload
from tessera.simulate.pool import pool_decisions
from tessera.simulate.repacking import fewest_gpus, fits, repacking_decisions, shapes_of

PROFILES = {
    "1g.10gb": "1g1",
    "1g.20gb": "1g2",
    "2g.20gb": "2g2",
    "3g.40gb": "3g4",
    "4g.40gb": "4g4",
    "7g.80gb": "7g8",
}


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(0, 7), min_size=6, max_size=6).filter(any))
def test_the_fewest_gpus_are_those_of_the_integer_program(counts: list[int]) -> None:
    demand = {profile: count for profile, count in zip(PROFILES, counts, strict=True) if count}
    shapes = Counter({PROFILES[profile]: count for profile, count in demand.items()})
    fewest = pack_requests([parse_pool("H100-80GB")], demand).gpus
    assert fewest_gpus(shapes) == fewest
    assert not fits(shapes, fewest - 1)


@pytest.mark.parametrize("model", ["H100-80GB", "A100-40GB", "H200-141GB"])
def test_the_rule_holds_on_boards_with_these_profiles(model: str) -> None:
    (geometry,) = parse_cluster([model], gpus=1).geometries
    shapes = shapes_of(geometry)
    assert shapes is not None and set(shapes.values()) <= set(PROFILES.values())


def test_there_is_no_rule_for_other_boards_several_models_and_media_engines() -> None:
    for cluster in (
        parse_cluster(["A30"], gpus=4),
        parse_cluster(["H100-80GB:2", "A100-40GB:2"], gpus=None),
        parse_cluster(["H100-80GB"], gpus=4).offering(["1g.10gb+me"]),
    ):
        workload = poisson_workload(
            cluster,
            named_mix("uniform", cluster),
            load=1.0,
            lifetimes=lifetimes_of("exponential"),
            arrivals=20,
            seed=0,
        )
        assert repacking_decisions(workload, cluster) is None


def test_repacking_accepts_more_than_moves_do_and_about_as_much_as_the_pool() -> None:
    cluster = parse_cluster(["H100-80GB"], gpus=10)
    workload = poisson_workload(
        cluster,
        named_mix("skew-big", cluster),
        load=1.2,
        lifetimes=lifetimes_of("exponential"),
        arrivals=1500,
        seed=3,
    )
    sizes = [cluster.sizes[profile] for profile in workload.profiles]

    def slices(accepted: list[bool]) -> int:
        return sum(sizes[w] for w, yes in zip(workload.wanted, accepted, strict=True) if yes)

    repacked = repacking_decisions(workload, cluster)
    assert repacked is not None
    rules = MoveRules(most_victims=2)
    moved = run(workload, cluster, FragmentationTenancy(), rules=rules, costs=MoveCosts())
    by_moves = slices([place is not None for place in moved.placed])
    assert by_moves < slices(repacked)
    # Decision by decision the pool takes more; over a run, who turns a large request away has more room.
    assert slices(repacked) == pytest.approx(slices(pool_decisions(workload, cluster)), rel=0.02)
