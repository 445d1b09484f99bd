"""Snapshots -> decisions: who is served, where, and what everybody else is told."""

from __future__ import annotations

from typing import Any

import pytest
from tessera.api import names
from tessera.api.reasons import Reason
from tessera.metrics.registry import REGISTRY
from tessera.scheduler.actions import GiveUp, Place, Protect, Refuse
from tessera.scheduler.planner import Planner
from unit.scheduler.decisions import placed


def refused(actions: list[Any]) -> dict[str, tuple[str, str]]:
    return {a.pod.key[1]: (str(a.reason), a.message) for a in actions if isinstance(a, Refuse)}


def nodes(actions: list[Any]) -> dict[str, str]:
    return {
        p.pod.key[1]: p.claims[0].node for a in actions if isinstance(a, Place) for p in a.pods if p.claims
    }


def test_pods_of_one_round_do_not_get_the_same_room(world: Any, planner: Planner) -> None:
    for i in range(5):
        world.add_pod_with_claim(f"p{i}", "3g.40gb", created=float(i))
    actions = planner.plan(world.snapshot())
    devices = [d for ds in placed(actions).values() for d in ds]
    assert len(devices) == len(set(devices)) == 4
    assert list(refused(actions)) == ["p4"]
    assert planner.waiting == 1


def test_higher_priority_then_age_decides(world: Any, planner: Planner) -> None:
    world.add_pod_with_claim("old", "7g.80gb", created=0.0)
    world.add_pod_with_claim("young", "7g.80gb", created=5.0)
    world.add_pod_with_claim("urgent", "7g.80gb", created=9.0, priority=10)
    actions = planner.plan(world.snapshot())
    assert set(placed(actions)) == {"urgent", "old"}
    assert set(refused(actions)) == {"young"}


def test_a_written_allocation_stays_and_the_rest_is_placed_around_it(world: Any, planner: Planner) -> None:
    world.add_pod_with_claim("a", "4g.40gb")
    assert placed(planner.plan(world.snapshot())) == {"a": ("gpu-aaaaaaaa-4g-40gb-0",)}
    world.allocate("a", "gpu-aaaaaaaa-4g-40gb-0", node="node-a", pod="a")
    world.pods["a"]["spec"]["schedulingGates"] = []
    world.touch(world.pods["a"])
    world.add_pod_with_claim("b", "4g.40gb")
    assert placed(planner.plan(world.snapshot())) == {"b": ("gpu-bbbbbbbb-4g-40gb-0",)}


def test_an_allocated_claim_only_needs_its_pod_ungated(world: Any, planner: Planner) -> None:
    world.add_pod_with_claim("a", "2g.20gb")
    world.allocate("a", "gpu-aaaaaaaa-2g-20gb-0", node="node-a", pod="a")
    assert placed(planner.plan(world.snapshot())) == {"a": ()}


def test_a_pod_without_our_claims_is_ungated_at_once(world: Any, planner: Planner) -> None:
    world.add_pod("plain")
    world.add_claim("foreign", {"name": "r", "exactly": {"deviceClassName": "nic.example.com"}})
    world.add_pod("with-nic", "foreign")
    assert placed(planner.plan(world.snapshot())) == {"plain": (), "with-nic": ()}


def test_a_pod_that_others_gate_too_is_left_alone(world: Any, planner: Planner) -> None:
    world.add_pod_with_claim("a", "2g.20gb", gates=("example.com/quota", "tessera.dev/placement"))
    assert planner.plan(world.snapshot()) == []


def test_an_ungated_pod_with_an_unallocated_claim_is_served(world: Any, planner: Planner) -> None:
    world.add_pod_with_claim("a", "2g.20gb", gates=())
    assert placed(planner.plan(world.snapshot())) == {"a": ("gpu-aaaaaaaa-2g-20gb-0",)}


def test_a_bound_pod_is_allocated_on_its_own_node_even_when_that_is_full(
    world: Any, planner: Planner
) -> None:
    world.add_pod_with_claim("a", "2g.20gb", gates=(), cpu="16", nodeName="node-b")
    assert placed(planner.plan(world.snapshot())) == {"a": ("gpu-bbbbbbbb-2g-20gb-0",)}


def test_two_pods_of_one_claim_are_placed_once_and_ungated_both(
    world: Any, planner: Planner, request_for: Any
) -> None:
    world.add_claim("shared", request_for("3g.40gb"))
    world.add_pod("first", "shared", created=0.0)
    world.add_pod("second", "shared", created=1.0)
    assert placed(planner.plan(world.snapshot())) == {"first": ("gpu-aaaaaaaa-3g-40gb-0",)}
    world.allocate("shared", "gpu-aaaaaaaa-3g-40gb-0", node="node-a", pod="first")
    world.let_go("first")
    (action,) = planner.plan(world.snapshot())
    assert isinstance(action, Place)
    assert action.pods[0].pod.key[1] == "second"
    assert [claim.key[1] for claim in action.pods[0].shares] == ["shared"]


def test_all_claims_of_a_pod_go_to_one_node(world: Any, planner: Planner, request_for: Any) -> None:
    world.add_claim("small", request_for("1g.10gb"))
    world.add_claim("whole", request_for("7g.80gb"))
    world.add_pod_with_claim("busy", "1g.10gb", created=-1.0)
    world.add_node("node-c", gpus=["gpu-cccccccc", "gpu-dddddddd"])
    world.add_pod("both", "small", "whole")
    actions = planner.plan(world.snapshot())
    assert set(placed(actions)["both"]) == {"gpu-cccccccc-7g-80gb-0", "gpu-dddddddd-1g-10gb-0"}


def test_a_claim_of_another_driver_that_is_allocated_chooses_the_node(world: Any, planner: Planner) -> None:
    world.add_pod_with_claim("a", "2g.20gb")
    world.add_claim("nic", {"name": "r", "exactly": {"deviceClassName": "nic.example.com"}})
    world.allocate("nic", node="node-b")
    world.pods["a"]["spec"]["resourceClaims"].append({"name": "nic", "resourceClaimName": "nic"})
    assert nodes(planner.plan(world.snapshot())) == {"a": "node-b"}


def test_node_resources_are_counted_over_the_pods_of_the_round(world: Any, planner: Planner) -> None:
    for i in range(3):
        world.add_pod_with_claim(f"p{i}", "1g.10gb", cpu="10", created=float(i))
    actions = planner.plan(world.snapshot())
    assert nodes(actions) == {"p0": "node-a", "p1": "node-b"}
    reason, message = refused(actions)["p2"]
    assert reason == "Unplaceable"
    assert "insufficient cpu excluded 2" in message


def test_pods_on_their_way_to_a_node_count_there(world: Any, planner: Planner) -> None:
    world.add_pod_with_claim("coming", "1g.10gb", cpu="10", gates=())
    world.allocate("coming", "gpu-aaaaaaaa-1g-10gb-0", node="node-a", pod="coming")
    world.add_pod_with_claim("next", "1g.10gb", cpu="10")
    assert nodes(planner.plan(world.snapshot())) == {"next": "node-b"}


def test_refusals_name_profile_room_and_remedy(world: Any, planner: Planner) -> None:
    for i, gpu in enumerate(("aaaaaaaa", "bbbbbbbb")):
        world.add_pod_with_claim(f"used{i}", "1g.10gb", gates=())
        world.allocate(f"used{i}", f"gpu-{gpu}-1g-10gb-0", node=f"node-{gpu[0]}", pod=f"used{i}")
    world.add_pod_with_claim("big", "7g.80gb")
    world.add_pod_with_claim("odd", "9g.90gb")
    told = refused(planner.plan(world.snapshot()))
    assert told["big"] == (
        "Unplaceable",
        "no GPU has room for 7g.80gb: it needs 8 free memory slices at a legal start, 14 are free on 2 GPUs "
        "(2 H100-80GB), the largest placement that still fits has 4; "
        "room: 1g.10gb 12, 1g.10gb+me 2, 1g.20gb 6, 2g.20gb 4, 3g.40gb 2; 2 of 2 nodes pass; "
        "freeing gpu-aaaaaaaa-1g-10gb-0 (claim default/used0) on node-a/gpu-aaaaaaaa would make room; "
        "move: none: no MIGPartition allows moves (spec.dynamic.moves)",
    )
    assert told["odd"][0] == "UnknownProfile"
    assert told["odd"][1].startswith(
        "profile 9g.90gb is not offered by any GPU (14 memory slices are free on 2 GPUs, "
        "the largest placement that still fits has 4); ask for one of those that are: 1g.10gb"
    )


def test_an_unplaceable_pod_is_not_tried_again_until_something_helps(world: Any, planner: Planner) -> None:
    world.add_pod_with_claim("used", "1g.10gb", gates=())
    world.allocate("used", "gpu-aaaaaaaa-1g-10gb-0", node="node-a", pod="used")
    world.add_pod_with_claim("used2", "1g.10gb", gates=())
    world.allocate("used2", "gpu-bbbbbbbb-1g-10gb-0", node="node-b", pod="used2")
    world.add_pod_with_claim("big", "7g.80gb")
    assert set(refused(planner.plan(world.snapshot()))) == {"big"}
    world.now += 1
    assert planner.plan(world.snapshot()) == []
    assert planner.waiting == 1
    world.now += 60
    assert set(refused(planner.plan(world.snapshot()))) == {"big"}
    world.now += 1
    del world.pods["used"], world.claims["used"]
    assert placed(planner.plan(world.snapshot())) == {"big": ("gpu-aaaaaaaa-7g-80gb-0",)}


def test_the_same_question_is_asked_once_a_round(world: Any, planner: Planner) -> None:
    def decisions() -> float:
        return REGISTRY.get_sample_value("tessera_placement_seconds_count") or 0.0

    for name in ("node-a", "node-b"):
        world.add_pod_with_claim(f"on-{name}", "1g.10gb", gates=(), nodeName=name)
        world.allocate(f"on-{name}", f"gpu-{name[-1] * 8}-1g-10gb-0", node=name, pod=f"on-{name}")
    for i in range(20):
        world.add_pod_with_claim(f"big{i}", "7g.80gb", created=float(i))
    world.add_pod_with_claim("elsewhere", "7g.80gb", created=30.0, nodeSelector={"disk": "fast"})
    world.add_pod_with_claim("small", "1g.10gb", created=31.0)
    before = decisions()
    actions = planner.plan(world.snapshot())
    assert decisions() - before == 3
    assert len(refused(actions)) == 21
    assert "nodeSelector excluded 2" in refused(actions)["elsewhere"][1]
    assert set(placed(actions)) == {"small"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"selectors": [{"cel": {"expression": "device.nope =="}}]}, "does not compile"),
        ({"allocationMode": "All"}, "allocationMode All is not served; give a count"),
        ({"adminAccess": True}, "adminAccess is not served"),
    ],
)
def test_a_request_that_is_not_served_is_refused_by_name(
    world: Any, planner: Planner, request_for: Any, change: dict[str, Any], words: str
) -> None:
    world.add_claim("c", request_for("2g.20gb", **change))
    world.add_pod("p", "c")
    reason, message = refused(planner.plan(world.snapshot()))["p"]
    assert reason == "InvalidRequest"
    assert message.startswith("request slice")
    assert words in message


def test_a_claim_that_mixes_classes_is_refused(world: Any, planner: Planner, request_for: Any) -> None:
    world.add_claim(
        "c", request_for("2g.20gb"), {"name": "nic", "exactly": {"deviceClassName": "nic.example.com"}}
    )
    world.add_pod("p", "c")
    assert (
        "put devices of other classes into a ResourceClaim of their own"
        in refused(planner.plan(world.snapshot()))["p"][1]
    )


def test_first_available_names_the_chosen_alternative(world: Any, planner: Planner, request_for: Any) -> None:
    parts = [{"name": n, **request_for(p)["exactly"]} for n, p in (("odd", "9g.90gb"), ("half", "3g.40gb"))]
    world.add_claim("c", {"name": "slice", "firstAvailable": parts})
    world.add_pod("p", "c")
    (action,) = planner.plan(world.snapshot())
    assert isinstance(action, Place)
    assert action.pods[0].claims[0].results[0].request == "slice/half"


@pytest.mark.parametrize("name", ["gpuUUID", "gpu" + '" + "' + "UUID"])
def test_a_selector_may_name_one_gpu(world: Any, planner: Planner, request_for: Any, name: str) -> None:
    expression = f'device.attributes["gpu.tessera.dev"]["{name}"] == "GPU-bbbbbbbb"'
    world.add_claim("c", request_for("1g.10gb", selectors=[{"cel": {"expression": expression}}]))
    world.add_pod("p", "c")
    (devices,) = placed(planner.plan(world.snapshot())).values()
    assert devices[0].startswith("gpu-bbbbbbbb-1g-10gb")


def test_a_count_and_a_constraint_within_a_claim(world: Any, planner: Planner, request_for: Any) -> None:
    same = [{"requests": ["pair"], "matchAttribute": "gpu.tessera.dev/gpuUUID"}]
    apart = [{"distinctAttribute": "gpu.tessera.dev/gpuUUID"}]
    world.add_node("node-c", gpus=["gpu-cccccccc", "gpu-dddddddd"])
    world.add_claim("same", request_for("3g.40gb", name="pair", count=2), constraints=same)
    world.add_claim("apart", request_for("3g.40gb", name="pair", count=2), constraints=apart)
    world.add_pod("same", "same", created=0.0)
    world.add_pod("apart", "apart", created=1.0)
    chosen = placed(planner.plan(world.snapshot()))
    assert set(chosen["same"]) == {"gpu-aaaaaaaa-3g-40gb-0", "gpu-aaaaaaaa-3g-40gb-4"}
    assert set(chosen["apart"]) == {"gpu-cccccccc-3g-40gb-0", "gpu-dddddddd-3g-40gb-0"}


@pytest.mark.parametrize("effect", ["NoSchedule", "NoExecute"])
@pytest.mark.parametrize("key", [names.UNHEALTHY_TAINT_KEY, names.FOREIGN_TAINT_KEY, names.LEAVING_TAINT_KEY])
def test_no_claim_gets_round_a_taint_of_the_agent(
    world: Any, planner: Planner, request_for: Any, publish: Any, key: str, effect: str
) -> None:
    taint = {"key": key, "value": "xid-79", "effect": effect}
    world.slices = publish("node-a", ["gpu-aaaaaaaa"], generation=2, taints=[taint])
    world.add_pod_with_claim("careful", "2g.20gb", created=0.0)
    for name, toleration in (("all", {"operator": "Exists"}), ("it", {"key": key, "operator": "Exists"})):
        world.add_claim(name, request_for("2g.20gb", tolerations=[toleration]))
        world.add_pod(name, name, created=1.0)
    actions = planner.plan(world.snapshot())
    assert placed(actions) == {}
    assert set(refused(actions)) == {"careful", "all", "it"}
    for refusal in actions:
        assert isinstance(refusal, Refuse)
        assert refusal.reason is Reason.UNPLACEABLE
        assert "no GPU with 2g.20gb is open to this request" in refusal.message
        assert "says which are unhealthy" in refusal.message


def test_a_gpu_that_an_administrator_taints_is_used_only_by_claims_that_tolerate_it(
    world: Any, planner: Planner, request_for: Any, publish: Any
) -> None:
    taint = {"key": "example.com/on-trial", "value": "new", "effect": "NoSchedule"}
    world.slices = publish("node-a", ["gpu-aaaaaaaa"], generation=2, taints=[taint])
    world.add_pod_with_claim("careful", "2g.20gb", created=0.0)
    world.add_claim("bold", request_for("2g.20gb", tolerations=[{"key": taint["key"], "operator": "Exists"}]))
    world.add_pod("bold", "bold", created=1.0)
    actions = planner.plan(world.snapshot())
    assert set(placed(actions)) == {"bold"}
    assert set(refused(actions)) == {"careful"}
    (bold,) = [a for a in actions if isinstance(a, Place)]
    assert bold.pods[0].claims[0].results[0].tolerations[0]["key"] == taint["key"]


def test_a_pod_waits_in_silence_while_its_claim_is_still_being_made(world: Any, planner: Planner) -> None:
    world.add_pod("p")
    world.pods["p"]["spec"]["resourceClaims"] = [{"name": "slice", "resourceClaimTemplateName": "t"}]
    assert planner.plan(world.snapshot()) == []
    assert planner.waiting == 1


def test_a_claim_that_was_made_for_another_pod_is_not_used(
    world: Any, planner: Planner, request_for: Any
) -> None:
    claim = world.add_claim("made", request_for("2g.20gb"))
    claim["metadata"]["ownerReferences"] = [
        {"kind": "Pod", "name": "x", "uid": "somebody", "controller": True}
    ]
    world.add_pod("p")
    world.pods["p"]["spec"]["resourceClaims"] = [{"name": "slice", "resourceClaimTemplateName": "t"}]
    world.pods["p"]["status"]["resourceClaimStatuses"] = [{"name": "slice", "resourceClaimName": "made"}]
    assert "was not made for this pod" in refused(planner.plan(world.snapshot()))["p"][1]


def test_a_named_claim_that_does_not_exist_is_said(world: Any, planner: Planner) -> None:
    world.add_pod("p", "missing")
    assert refused(planner.plan(world.snapshot()))["p"] == (
        "AwaitingPlacement",
        "ResourceClaim default/missing does not exist; create it",
    )


def test_an_allocated_claim_without_the_finalizer_gets_it(
    world: Any, planner: Planner, request_for: Any
) -> None:
    world.add_claim("c", request_for("2g.20gb"), finalizer=False)
    world.add_pod("p", "c", gates=())
    world.allocate("c", "gpu-aaaaaaaa-2g-20gb-0", node="node-a", pod="p")
    (action,) = planner.plan(world.snapshot())
    assert isinstance(action, Protect)


GANG = {"tessera.dev/gang": "g", "tessera.dev/gang-size": "2"}


def test_a_gang_waits_for_its_members(world: Any, planner: Planner) -> None:
    world.add_pod_with_claim("m0", "3g.40gb", annotations=GANG)
    told = refused(planner.plan(world.snapshot()))
    assert told["m0"] == ("AwaitingPlacement", "gang g: 1 of its 2 pods exist; the others are waited for")
    world.add_pod_with_claim("m1", "3g.40gb", annotations=GANG)
    (action,) = planner.plan(world.snapshot())
    assert isinstance(action, Place)
    assert len(action.pods) == 2


def test_a_gang_that_does_not_fit_as_a_whole_takes_nothing(world: Any, planner: Planner) -> None:
    trio = {"tessera.dev/gang": "g", "tessera.dev/gang-size": "3"}
    for i in range(3):
        world.add_pod_with_claim(f"m{i}", "7g.80gb", annotations=trio)
    world.add_pod_with_claim("single", "7g.80gb", created=9.0)
    actions = planner.plan(world.snapshot())
    assert set(placed(actions)) == {"single"}
    assert set(refused(actions)) == {"m0", "m1", "m2"}
    assert all(message.startswith("gang g: no GPU has room") for _, message in refused(actions).values())


def test_a_gang_that_cannot_be_completed_gives_back_what_it_holds(world: Any, planner: Planner) -> None:
    for i in range(2):
        world.add_pod_with_claim(f"m{i}", "7g.80gb", annotations=GANG)
    world.allocate("m0", "gpu-aaaaaaaa-7g-80gb-0", node="node-a", pod="m0")
    world.add_pod_with_claim("other", "7g.80gb", gates=())
    world.allocate("other", "gpu-bbbbbbbb-7g-80gb-0", node="node-b", pod="other")
    actions = planner.plan(world.snapshot())
    assert [a.claim.key[1] for a in actions if isinstance(a, GiveUp)] == ["m0"]
    assert placed(actions) == {}


def test_a_member_that_comes_after_the_start_is_served_alone(world: Any, planner: Planner) -> None:
    world.add_pod_with_claim("m0", "3g.40gb", annotations=GANG, gates=())
    world.allocate("m0", "gpu-aaaaaaaa-3g-40gb-0", node="node-a", pod="m0")
    world.add_pod_with_claim("m1", "3g.40gb", annotations=GANG)
    assert placed(planner.plan(world.snapshot())) == {"m1": ("gpu-aaaaaaaa-3g-40gb-4",)}


@pytest.mark.parametrize("size", ["", "0", "two", "-1", "9" * 5000])
def test_a_gang_size_that_is_no_number_is_refused_with_the_remedy(
    world: Any, planner: Planner, size: str
) -> None:
    world.add_pod_with_claim("m0", "3g.40gb", annotations=GANG | {"tessera.dev/gang-size": size})
    reason, message = refused(planner.plan(world.snapshot()))["m0"]
    assert reason == "InvalidRequest"
    assert "give all the same number in tessera.dev/gang-size" in message


def test_new_gpus_rebuild_the_state_with_everything_that_is_held(
    world: Any, planner: Planner, publish: Any
) -> None:
    world.add_pod_with_claim("a", "7g.80gb", gates=())
    world.allocate("a", "gpu-aaaaaaaa-7g-80gb-0", node="node-a", pod="a")
    planner.plan(world.snapshot())
    world.slices += publish("node-c", ["gpu-cccccccc"])
    world.add_pod_with_claim("b", "7g.80gb")
    assert placed(planner.plan(world.snapshot())) == {"b": ("gpu-bbbbbbbb-7g-80gb-0",)}


def test_overlapping_claims_close_the_room_of_both_and_are_reported(
    world: Any, planner: Planner, caplog: pytest.LogCaptureFixture
) -> None:
    for name, device in (("a", "gpu-aaaaaaaa-4g-40gb-0"), ("b", "gpu-aaaaaaaa-7g-80gb-0")):
        world.add_pod_with_claim(name, "1g.10gb", gates=())
        world.allocate(name, device, node="node-a", pod=name)
    world.add_pod_with_claim("c", "1g.10gb")
    assert placed(planner.plan(world.snapshot())) == {"c": ("gpu-bbbbbbbb-1g-10gb-0",)}
    assert caplog.text.count("overlaps another claim") == 1
