"""Room that MIGPartitions keep free is not given to others, and is given to those it is kept for."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.api import names
from tessera.placement.policies import BestFit, FirstFit
from tessera.placement.room_counts import most_slices
from tessera.scheduler.actions import Place, Refuse
from tessera.scheduler.planner import Planner
from unit.scheduler import decisions


def placed(actions: list[Any]) -> dict[str, str]:
    return {pod: " ".join(devices) for pod, devices in decisions.placed(actions).items()}


def refused(actions: list[Any]) -> dict[str, str]:
    return {a.pod.key[1]: a.message for a in actions if isinstance(a, Refuse)}


def test_a_small_slice_avoids_the_gpu_that_a_large_one_is_kept_for(world: Any, planner: Planner) -> None:
    world.reserve("all", "gpu-aaaaaaaa", "gpu-bbbbbbbb", seven_g=1)
    for i in range(9):
        world.add_pod_with_claim(f"p{i}", "1g.10gb", created=float(i))
    actions = planner.plan(world.snapshot())
    assert len(placed(actions)) == 7
    assert all(device.startswith("gpu-aaaaaaaa") for device in placed(actions).values())
    assert refused(actions)["p7"] == (
        "the room that is left for 1g.10gb is reserved: 1 x 7g.80gb (MIGPartition all), room for 1 now; wait "
        "for running work to end, ask for a reserved profile, or lower spec.dynamic.reserves"
    )


def test_the_reserved_profile_may_use_its_room(world: Any, planner: Planner) -> None:
    world.reserve("all", "gpu-aaaaaaaa", "gpu-bbbbbbbb", seven_g=2)
    world.add_pod_with_claim("small", "1g.10gb", created=0.0)
    world.add_pod_with_claim("large", "7g.80gb", created=1.0)
    actions = planner.plan(world.snapshot())
    assert placed(actions) == {"large": "gpu-aaaaaaaa-7g-80gb-0"}
    assert set(refused(actions)) == {"small"}


def test_where_the_reserve_is_not_met_anyway_what_takes_nothing_of_it_is_welcome(
    world: Any, planner: Planner
) -> None:
    world.reserve("all", "gpu-aaaaaaaa", "gpu-bbbbbbbb", seven_g=2)
    world.add_pod_with_claim("used", "1g.10gb", gates=())
    world.allocate("used", "gpu-bbbbbbbb-1g-10gb-3", node="node-b", pod="used")
    world.add_pod_with_claim("small", "1g.10gb")
    assert placed(planner.plan(world.snapshot())) == {"small": "gpu-bbbbbbbb-1g-10gb-0"}


def test_gpus_of_no_partition_and_of_others_are_not_concerned(world: Any, planner: Planner) -> None:
    world.reserve("mine", "gpu-aaaaaaaa", seven_g=1)
    world.add_pod_with_claim("small", "1g.10gb")
    assert placed(planner.plan(world.snapshot())) == {"small": "gpu-bbbbbbbb-1g-10gb-0"}


def test_a_broken_gpu_is_no_room_that_is_kept(world: Any, planner: Planner, publish: Any) -> None:
    world.reserve("all", "gpu-aaaaaaaa", "gpu-bbbbbbbb", seven_g=1)
    taint = {"key": names.UNHEALTHY_TAINT_KEY, "value": "lost", "effect": "NoExecute"}
    world.slices = [
        *publish("node-a", ["gpu-aaaaaaaa"], generation=2),
        *publish("node-b", ["gpu-bbbbbbbb"], generation=2, taints=[taint]),
    ]
    world.add_pod_with_claim("small", "1g.10gb")
    (message,) = refused(planner.plan(world.snapshot())).values()
    assert "1 x 7g.80gb (MIGPartition all), room for 1 now" in message


def test_the_slices_of_one_pod_count_together(world: Any, planner: Planner, request_for: Any) -> None:
    world.reserve("all", "gpu-aaaaaaaa", "gpu-bbbbbbbb", three_g=3)
    # One 3g.40gb can be spared, two cannot: each 2g at 0 and 4 costs one.
    world.add_claim("pair", request_for("2g.20gb", count=3))
    world.add_pod("pair", "pair")
    assert "reserved: 3 x 3g.40gb" in refused(planner.plan(world.snapshot()))["pair"]
    world.add_claim("pair", request_for("2g.20gb", count=2))
    world.touch(world.claims["pair"])
    world.now += 60
    assert set(placed(planner.plan(world.snapshot()))) == {"pair"}


def test_a_reserve_that_is_lowered_lets_the_waiting_pod_in(world: Any, planner: Planner) -> None:
    world.reserve("all", "gpu-aaaaaaaa", "gpu-bbbbbbbb", seven_g=2)
    world.add_pod_with_claim("small", "1g.10gb")
    assert set(refused(planner.plan(world.snapshot()))) == {"small"}
    world.reserve("all", "gpu-aaaaaaaa", "gpu-bbbbbbbb", seven_g=1)
    assert set(placed(planner.plan(world.snapshot()))) == {"small"}


@pytest.mark.parametrize("change", [{"dryRun": True}, {"mode": "static"}])
def test_partitions_that_are_not_in_force_reserve_nothing(
    world: Any, planner: Planner, change: dict[str, Any]
) -> None:
    world.reserve("all", "gpu-aaaaaaaa", "gpu-bbbbbbbb", seven_g=2)
    world.partitions["all"]["spec"] |= change
    world.add_pod_with_claim("small", "1g.10gb")
    assert set(placed(planner.plan(world.snapshot()))) == {"small"}


def test_a_pod_that_is_bound_already_gets_its_slice_all_the_same(world: Any, planner: Planner) -> None:
    world.reserve("all", "gpu-aaaaaaaa", "gpu-bbbbbbbb", seven_g=2)
    world.add_pod_with_claim("bound", "1g.10gb", gates=(), nodeName="node-b")
    assert placed(planner.plan(world.snapshot())) == {"bound": "gpu-bbbbbbbb-1g-10gb-0"}


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1_000_000))
def test_no_placement_of_another_profile_lowers_the_room_below_the_reserve(
    empty_world: Callable[[], Any], request_for: Any, seed: int
) -> None:
    rng = random.Random(seed)
    world = empty_world()
    gpus = [f"gpu-{i:08x}" for i in range(4)]
    world.add_node("node-a", gpus=gpus)
    counts = {name: rng.randrange(1, 4) for name in rng.sample(["two_g", "three_g", "seven_g"], 2)}
    world.reserve("some", *gpus[:3], **counts)
    planner = Planner(rng.choice([FirstFit, BestFit])(), grace_seconds=30)
    profiles = {"two_g": "2g.20gb", "three_g": "3g.40gb", "seven_g": "7g.80gb"}
    for step in range(12):
        profile = rng.choice(["1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "7g.80gb"])
        world.add_claim(f"p{step}", request_for(profile, count=rng.choice([1, 1, 2])))
        world.add_pod(f"p{step}", f"p{step}")
        before = {p: room for _, p, _, room in rooms(planner, world)}
        taken = {
            result.profile
            for action in planner.plan(world.snapshot())
            if isinstance(action, Place)
            for one in action.pods[0].claims
            for result in one.results
        }
        # A decision stays in the books until the next snapshot, which does not have those that are lost.
        after = {p: room for _, p, _, room in planner.reserves.rooms()}
        for name, count in counts.items():
            kept = profiles[name]
            if kept not in taken:
                assert after[kept] >= min(before[kept], count)
        for claim in world.claims.values():
            if "status" not in claim and rng.random() < 0.7:
                take(world, planner, claim)


def rooms(planner: Planner, world: Any) -> list[tuple[str, str, int, int]]:
    planner.open_books(world.snapshot())
    return planner.reserves.rooms()


def take(world: Any, planner: Planner, claim: Any) -> None:
    owners: Iterator[Any] = planner.occupancy.state.owners()
    holders = [h for h in owners if h.claim_uid == claim["metadata"]["uid"]]
    name = claim["metadata"]["name"]
    if holders:
        world.allocate(name, *(h.device for h in holders), node="node-a", pod=name)
        world.let_go(name)


def test_the_room_of_a_gpu_is_the_most_slices_that_fit(world: Any) -> None:
    geometry = world.snapshot().inventory.gpus[0].geometry
    assert [most_slices(geometry, 0, p) for p in ("1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "7g.80gb")] == [
        7,
        4,
        3,
        2,
        1,
    ]
