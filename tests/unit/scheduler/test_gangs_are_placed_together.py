"""Gangs: all members or none, by a joint search where the first choice of each does not do."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_objects import H100
from tessera.placement.policies import FirstFit, FragmentationGradient
from tessera.scheduler.actions import GiveUp, Place, Refuse
from tessera.scheduler.gangs import place_together
from tessera.scheduler.planner import Planner
from tessera.scheduler.refusals import Unserved
from unit.scheduler.decisions import placed

PROFILES = ("1g.10gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb")


def gang(size: int, **more: str) -> dict[str, str]:
    return {"tessera.dev/gang": "g", "tessera.dev/gang-size": str(size), **more}


@pytest.fixture
def planner() -> Planner:
    return Planner(FirstFit(), grace_seconds=30, gang_time_limit_seconds=600)


def test_an_earlier_member_goes_elsewhere_when_a_later_one_has_only_that_node(
    world: Any, planner: Planner
) -> None:
    # By itself the first would take node-a, the only node that the second may use.
    world.add_pod_with_claim("free", "7g.80gb", annotations=gang(2))
    world.nodes["node-a"]["metadata"]["labels"] = {"disk": "fast"}
    world.touch(world.nodes["node-a"])
    world.add_pod_with_claim("bound-to-a", "4g.40gb", annotations=gang(2), nodeSelector={"disk": "fast"})
    chosen = placed(planner.plan(world.snapshot()))
    assert chosen == {"free": ("gpu-bbbbbbbb-7g-80gb-0",), "bound-to-a": ("gpu-aaaaaaaa-4g-40gb-0",)}


def test_an_earlier_member_takes_another_start_when_that_leaves_room_for_the_others(
    empty_world: Callable[[], Any], planner: Planner
) -> None:
    world = empty_world()
    world.add_node("node-a", gpus=["gpu-aaaaaaaa"])
    # First fit puts 3g at 0; then only one 2g fits, at 4, for 2g cannot begin at 6.
    for name, profile in (("big", "3g.40gb"), ("one", "2g.20gb"), ("two", "2g.20gb")):
        world.add_pod_with_claim(name, profile, annotations=gang(3))
    assert placed(planner.plan(world.snapshot()))["big"] == ("gpu-aaaaaaaa-3g-40gb-4",)


def test_cpu_that_the_first_choice_would_take_is_left_to_who_needs_it(world: Any, planner: Planner) -> None:
    world.nodes["node-b"]["status"]["allocatable"]["cpu"] = "4"
    world.touch(world.nodes["node-b"])
    world.add_pod_with_claim("wide", "7g.80gb", cpu="4", annotations=gang(2))
    world.add_pod_with_claim("hungry", "1g.10gb", cpu="14", annotations=gang(2))
    chosen = placed(planner.plan(world.snapshot()))
    assert chosen["wide"] == ("gpu-bbbbbbbb-7g-80gb-0",)
    assert chosen["hungry"][0].startswith("gpu-aaaaaaaa-1g")


def test_members_with_several_slices_are_revised_too(world: Any, planner: Planner, request_for: Any) -> None:
    world.nodes["node-a"]["metadata"]["labels"] = {"disk": "fast"}
    world.touch(world.nodes["node-a"])
    world.add_claim("pair", request_for("3g.40gb", count=2))
    world.add_pod("pair", "pair", annotations=gang(2))
    world.add_pod_with_claim("tied", "3g.40gb", annotations=gang(2), nodeSelector={"disk": "fast"})
    chosen = placed(planner.plan(world.snapshot()))
    assert set(chosen["pair"]) == {"gpu-bbbbbbbb-3g-40gb-0", "gpu-bbbbbbbb-3g-40gb-4"}
    assert chosen["tied"][0].startswith("gpu-aaaaaaaa")


def test_members_may_share_a_claim_and_start_on_its_node(
    world: Any, planner: Planner, request_for: Any
) -> None:
    world.add_claim("shared", request_for("3g.40gb"))
    for i in range(3):
        world.add_pod(f"m{i}", "shared", cpu="5", annotations=gang(3))
    (action,) = planner.plan(world.snapshot())
    assert isinstance(action, Place)
    assert [len(p.claims) for p in sorted(action.pods, key=lambda p: -len(p.claims))] == [1, 0, 0]
    # A fourth would not find CPU on the node of the claim.
    world.add_pod("m3", "shared", cpu="5", annotations=gang(4))
    for name in world.pods:
        world.pods[name]["metadata"]["annotations"] = gang(4)
        world.touch(world.pods[name])
    (message,) = {a.message for a in planner.plan(world.snapshot()) if isinstance(a, Refuse)}
    assert "the claim that the pod shares is on node node-a, which the pod cannot use: insufficient cpu" in (
        message
    )


def test_replacements_of_a_running_gang_are_placed_together_without_waiting_for_others(
    world: Any, planner: Planner
) -> None:
    world.add_pod_with_claim("m0", "7g.80gb", annotations=gang(4), gates=(), nodeName="node-a")
    world.allocate("m0", "gpu-aaaaaaaa-7g-80gb-0", node="node-a", pod="m0")
    for name in ("m1", "m2"):
        world.add_pod_with_claim(name, "4g.40gb", annotations=gang(4))
    assert placed(planner.plan(world.snapshot())) == {}
    world.add_node("node-c", gpus=["gpu-cccccccc"])
    assert set(placed(planner.plan(world.snapshot()))) == {"m1", "m2"}


def test_a_bound_member_does_not_wait_for_the_others(world: Any, planner: Planner) -> None:
    world.add_pod_with_claim("m0", "2g.20gb", annotations=gang(2), gates=(), nodeName="node-b")
    world.add_pod_with_claim("m1", "9g.90gb", annotations=gang(2))
    assert placed(planner.plan(world.snapshot())) == {"m0": ("gpu-bbbbbbbb-2g-20gb-0",)}


def test_a_gang_that_does_not_come_together_in_time_is_told_so_and_holds_nothing(
    world: Any, planner: Planner
) -> None:
    limited = gang(3, **{"tessera.dev/gang-timeout-seconds": "60"})
    for name in ("m0", "m1"):
        world.add_pod_with_claim(name, "2g.20gb", annotations=limited)
    # What a leader that died between two writes has left.
    world.allocate("m0", "gpu-aaaaaaaa-2g-20gb-0", node="node-a", pod="m0")
    world.now += 59
    early = planner.plan(world.snapshot())
    assert {a.reason for a in early if isinstance(a, Refuse)} == {"AwaitingPlacement"}
    assert [a.claim.key[1] for a in early if isinstance(a, GiveUp)] == ["m0"]
    world.now += 1
    late = [a for a in planner.plan(world.snapshot()) if isinstance(a, Refuse)]
    assert {a.reason for a in late} == {"GangIncomplete"}
    assert late[0].message == (
        "gang g: it has not come together within 60 s and holds nothing: 2 of its 3 pods exist; the others "
        "are waited for; make the missing pods or room for them, or delete its pods"
    )
    world.add_pod_with_claim("m2", "2g.20gb", annotations=limited)
    world.allocate("m0", node="node-a", pod="m0")
    del world.claims["m0"]["status"]
    world.touch(world.claims["m0"])
    assert len(placed(planner.plan(world.snapshot()))) == 3


def test_a_gang_whose_claim_is_never_made_gives_back_after_its_time(world: Any, planner: Planner) -> None:
    world.add_pod_with_claim("m0", "2g.20gb", annotations=gang(2))
    world.allocate("m0", "gpu-aaaaaaaa-2g-20gb-0", node="node-a", pod="m0")
    world.add_pod("m1", annotations=gang(2))
    world.pods["m1"]["spec"]["resourceClaims"] = [{"name": "slice", "resourceClaimTemplateName": "gone"}]
    assert planner.plan(world.snapshot()) == []
    world.now += 601
    (action,) = planner.plan(world.snapshot())
    assert isinstance(action, GiveUp)
    assert action.claim.key[1] == "m0"


def test_the_search_of_a_cluster_of_equal_nodes_ends_soon(empty_world: Callable[[], Any]) -> None:
    world = empty_world()
    for i in range(30):
        world.add_node(f"node-{i}", gpus=[f"gpu-{i:08x}"], cpu="2")
    for i in range(31):
        world.add_pod_with_claim(f"m{i}", "3g.40gb", cpu="2", annotations=gang(31))
    planner = Planner(FragmentationGradient(), grace_seconds=30)
    placing = planner.open_books(world.snapshot())
    pods = list(placing.snapshot.pods.values())
    with pytest.raises(Unserved) as refused:
        place_together(pods, placing, most_tries=200)
    assert "ended after" not in str(refused.value)
    assert list(placing.state.owners()) == []


def arrangement_exists(pods: list[tuple[str, int, set[int]]], cpus: list[int]) -> bool:
    """Brute force: one GPU per node, each pod (profile, CPU, nodes that it may use)."""
    order = sorted(pods, key=lambda p: -H100[p[0]][1])

    def fits(
        at: int, taken: tuple[frozenset[int], ...], compute: tuple[int, ...], cpu: tuple[int, ...]
    ) -> bool:
        if at == len(order):
            return True
        profile, wants, nodes = order[at]
        starts, width, needs, _ = H100[profile]
        for node, start in itertools.product(nodes, starts):
            slices = frozenset(range(start, start + width))
            if slices & taken[node] or compute[node] + needs > 7 or cpu[node] < wants:
                continue
            if fits(
                at + 1,
                (*taken[:node], taken[node] | slices, *taken[node + 1 :]),
                (*compute[:node], compute[node] + needs, *compute[node + 1 :]),
                (*cpu[:node], cpu[node] - wants, *cpu[node + 1 :]),
            ):
                return True
        return False

    empty: tuple[frozenset[int], ...] = tuple(frozenset() for _ in cpus)
    return fits(0, empty, tuple(0 for _ in cpus), tuple(cpus))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1_000_000))
def test_a_gang_is_placed_exactly_when_an_arrangement_exists(
    empty_world: Callable[[], Any], seed: int
) -> None:
    rng = random.Random(seed)
    world = empty_world()
    cpus = [rng.randrange(2, 9) for _ in range(2)]
    for node, cpu in enumerate(cpus):
        world.add_node(f"node-{node}", gpus=[f"gpu-{node:08x}"], cpu=str(cpu), at=str(node))
    members = []
    for i in range(rng.randrange(2, 5)):
        profile, cpu = rng.choice(PROFILES), rng.randrange(1, 5)
        pinned = rng.random() < 0.4
        node = rng.randrange(2)
        members.append((profile, cpu, {node} if pinned else {0, 1}))
        selector = {"nodeSelector": {"at": str(node)}} if pinned else {}
        world.add_pod_with_claim(f"m{i}", profile, cpu=str(cpu), annotations=gang(99), **selector)
    for i in range(len(members)):
        world.pods[f"m{i}"]["metadata"]["annotations"] = gang(len(members))
    planner = Planner(FirstFit(), grace_seconds=30)
    assert bool(placed(planner.plan(world.snapshot()))) == arrangement_exists(members, cpus)
