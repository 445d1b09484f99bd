"""GPUs whose MIG mode is off are placed as a whole, in one cluster and on one node with GPUs that are cut."""

from __future__ import annotations

from typing import Any

import pytest
from scheduler_objects import devices_where, exactly
from tessera.placement.policies import FirstFit, make_policy
from tessera.scheduler.actions import Refuse
from tessera.scheduler.explain import explain_pod
from tessera.scheduler.planner import Planner
from unit.scheduler.decisions import placed
from unit.scheduler.two_crowded_gpus import Cluster, a_planner

CUT, WHOLE = "gpu-aaaaaaaa", "gpu-bbbbbbbb"
NAMED = f"{WHOLE}-gpu-0"


@pytest.fixture
def empty(world: Any) -> Any:
    """No node yet."""
    return type(world)()


@pytest.fixture
def mixed(empty: Any) -> Any:
    """One node with a GPU that is cut and one that is not."""
    empty.add_node("node-a", gpus=[CUT], whole=[WHOLE])
    return empty


def refusals(actions: list[Any]) -> dict[str, tuple[str, str]]:
    return {a.pod.key[1]: (str(a.reason), a.message) for a in actions if isinstance(a, Refuse)}


@pytest.mark.parametrize("policy", ["default", "fgd", "mfi", "mcc", "best_fit", "worst_fit", "round_robin"])
def test_each_gets_what_it_names_and_never_the_other(mixed: Any, policy: str) -> None:
    planner = Planner(make_policy(policy), grace_seconds=30)
    for at in range(2):
        mixed.add_pod_with_claim(f"large-{at}", "7g.80gb", created=float(at))
        mixed.add_pod_with_claim(f"whole-{at}", "gpu", created=float(at))
    actions = planner.plan(mixed.snapshot())
    assert placed(actions) == {"large-0": (f"{CUT}-7g-80gb-0",), "whole-0": (NAMED,)}
    told = refusals(actions)
    assert {name: reason for name, (reason, _) in told.items()} == dict.fromkeys(
        ("large-1", "whole-1"), "Unplaceable"
    )
    assert "no GPU has room for gpu: it needs 8 free memory slices" in told["whole-1"][1]
    assert f"freeing {NAMED} (claim default/whole-0)" in told["whole-1"][1]


def test_one_claim_may_have_both_on_one_node(mixed: Any, planner: Planner) -> None:
    mixed.add_claim("both", exactly("gpu", name="big"), exactly("1g.10gb", name="small"))
    mixed.add_pod("p", "both")
    assert placed(planner.plan(mixed.snapshot())) == {"p": (NAMED, f"{CUT}-1g-10gb-0")}


def test_a_class_of_ones_own_may_mean_whole_gpus(mixed: Any, planner: Planner) -> None:
    mixed.add_class("whole.example.com", 'device.attributes["gpu.tessera.dev"].profile == "gpu"')
    mixed.add_claim("p", {"name": "gpu", "exactly": {"deviceClassName": "whole.example.com"}})
    mixed.add_pod("p", "p")
    assert placed(planner.plan(mixed.snapshot())) == {"p": (NAMED,)}


def test_who_names_no_profile_gets_a_slice_as_long_as_one_fits(mixed: Any, planner: Planner) -> None:
    half = 'device.attributes["gpu.tessera.dev"].memorySlices >= 4'
    for at in range(3):
        mixed.add_claim(f"p{at}", devices_where(half))
        mixed.add_pod(f"p{at}", f"p{at}", created=float(at))
    assert placed(planner.plan(mixed.snapshot())) == {
        "p0": (f"{CUT}-3g-40gb-0",),
        "p1": (f"{CUT}-3g-40gb-4",),
        "p2": (NAMED,),
    }


def test_where_no_gpu_is_whole_the_reason_says_so(world: Any, planner: Planner) -> None:
    world.add_pod_with_claim("p", "gpu")
    reason, message = refusals(planner.plan(world.snapshot()))["p"]
    assert reason == "UnknownProfile"
    assert "profile gpu is not offered by any GPU" in message


def test_where_no_gpu_is_cut_the_reason_says_so(empty: Any, planner: Planner) -> None:
    empty.add_node("node-a", gpus=[], whole=[WHOLE])
    empty.add_pod_with_claim("p", "1g.10gb")
    reason, message = refusals(planner.plan(empty.snapshot()))["p"]
    assert reason == "UnknownProfile"
    assert message.endswith("ask for one of those that are: gpu")


def test_a_reserve_keeps_nobody_from_a_whole_gpu_and_is_not_met_by_one(mixed: Any, planner: Planner) -> None:
    mixed.reserve("pool", CUT, WHOLE, seven_g=1)
    mixed.add_pod_with_claim("whole", "gpu")
    mixed.add_pod_with_claim("small", "1g.10gb", created=1.0)
    actions = planner.plan(mixed.snapshot())
    assert placed(actions) == {"whole": (NAMED,)}
    assert "is reserved" in refusals(actions)["small"][1]


def test_explain_counts_the_gpus_that_are_whole(mixed: Any) -> None:
    mixed.add_pod_with_claim("p", "gpu")
    found = explain_pod(mixed.snapshot(), ("default", "p"), FirstFit())
    assert (found.state, found.devices) == ("Fits", (NAMED,))
    mixed.allocate("p", NAMED, node="node-a", pod="p")
    mixed.let_go("p")
    mixed.add_pod_with_claim("late", "gpu", created=1.0)
    found = explain_pod(mixed.snapshot(), ("default", "late"), FirstFit())
    assert found.funnel is not None
    assert (found.reason, found.funnel.gpus_offering) == ("Unplaceable", {"H100-80GB": 1})
    assert [(room.profile, room.slices) for room in found.funnel.rooms] == [("gpu", 0)]


@pytest.mark.parametrize(("profile", "device"), [("gpu", NAMED), ("7g.80gb", f"{CUT}-7g-80gb-0")])
def test_who_has_a_whole_gpu_is_not_preempted(mixed: Any, profile: str, device: str) -> None:
    mixed.allow_moves("pool", CUT, WHOLE, preemption="LowerPriority")
    cluster = Cluster(mixed, a_planner())
    cluster.add_victim("victim", profile, device, node="node-a")
    mixed.add_pod_with_claim("urgent", profile, priority=9)
    cluster.round()
    cluster.round()
    assert cluster.evicted == ([] if profile == "gpu" else ["victim"])
