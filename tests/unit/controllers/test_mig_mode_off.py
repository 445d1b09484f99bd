"""MIG mode off goes over the nodes as a layout does: a few at a time, drained as the partition allows."""

from __future__ import annotations

from datetime import timedelta

import pytest
from unit.controllers.partition_objects import (
    Object,
    claim_on,
    cluster,
    device_name,
    gpu_node_object,
    gpu_report,
    judged,
    node,
    partition_object,
    resource_slices,
    static_partition,
    uuid_of,
)
from unit.controllers.plan_words import said
from unit.controllers.static_world import World

TWO: Object = {"profile": "2g.20gb", "start": 2}
TWOS: Object = {"profile": "2g.20gb", "count": 3}
EVICT: Object = {"update": {"drain": {"policy": "Evict", "timeoutSeconds": 60}}}


def modes(world: World) -> list[str]:
    return [gpu["migMode"] for name in world.names for gpu in world.gpu_nodes[name]["spec"]["gpus"]]


def in_use(**spec: object) -> World:
    """Three nodes with slices, on the first of which a pod runs; now MIG mode is to be off."""
    world = World(3, TWOS)
    world.hold("n0", "2g.20gb", 0)
    world.settle()
    world.ask_for_mig_off(**spec)
    return world


def test_nodes_are_switched_off_one_at_a_time_and_their_pods_are_evicted() -> None:
    world = in_use(**EVICT)
    assert world.turn(agents=False).evictions == (), "n0 is only begun"
    assert modes(world) == ["Disabled", "Enabled", "Enabled"]
    assert world.layout("n1") == ["2g.20gb@0", "2g.20gb@2", "2g.20gb@4"], "until its turn"
    world.agent("n0")
    plan = world.turn()
    assert [(str(one.pod), one.why) for one in plan.evictions] == [
        ("team/pod-n0-0", "slice 2g.20gb@0 of GPU 0 of node n0 has to go: MIG mode is to be off")
    ]
    assert said(plan, "Ready")[1:] == (
        "Updating",
        "0 of 3 nodes have MIG mode off; in change: n0 (GPU 0 of node n0: 2g.20gb@0 is held by claim "
        "team/claim-n0-0-0 (pods: team/pod-n0-0)), 2 wait for their turn",
    )
    assert world.in_change() == {"n0"}
    world.end("n0")
    plan = world.settle()
    assert modes(world) == ["Disabled"] * 3
    assert said(plan, "Ready") == (
        "True",
        "Partitioned",
        "3 GPU(s) on 3 node(s) are offered as a whole, because MIG mode is off",
    )
    assert said(plan, "LayoutApplied")[2] == "the GPUs of 3 node(s) have MIG mode off"


def test_nobody_is_evicted_without_being_asked_for_and_idle_nodes_go_first() -> None:
    world = in_use()
    plan = world.settle()
    assert plan.evictions == ()
    assert modes(world) == ["Enabled", "Disabled", "Disabled"]
    assert said(plan, "Ready")[1] == "Blocked"
    assert "team/claim-n0-0-0" in said(plan, "Ready")[2]


def test_a_drain_over_time_ends_it_and_the_former_spec_brings_the_layouts_back() -> None:
    world = in_use(**EVICT)
    world.turn()
    world.now += timedelta(seconds=60)
    plan = world.turn()
    assert said(plan, "Ready")[1] == "LayoutFailed"
    assert modes(world) == ["Disabled", "Enabled", "Enabled"]
    world.ask(TWOS)
    assert said(world.settle(), "LayoutApplied")[0] == "True"
    assert modes(world) == ["Enabled"] * 3


def test_a_program_that_keeps_the_mode_from_changing_is_waited_for() -> None:
    world = World(2, TWOS)
    world.settle()
    world.ask_for_mig_off()
    world.turn()
    world.gpu_nodes["n0"]["status"]["gpus"][0]["migMode"] = "Enabled"  # the agent has only emptied it
    plan = world.turn(agents=False)
    assert said(plan, "LayoutApplied")[1:] == (
        "Updating",
        "0 of 2 nodes have MIG mode off; in change: n0, 1 wait for their turn",
    )


def test_a_dry_run_says_what_would_be_switched() -> None:
    world = in_use(dryRun=True)
    plan = world.turn()
    assert (plan.status or {})["layout"]["diff"][1] == (
        "GPU 0 of node n1: - 2g.20gb@0 - 2g.20gb@2 - 2g.20gb@4 MIG mode off"
    )


@pytest.mark.parametrize(("policy", "reason"), [("Never", "Blocked"), ("Evict", "Updating")])
def test_a_gpu_that_is_held_as_a_whole_is_drained_before_it_is_cut(policy: str, reason: str) -> None:
    obj = static_partition(TWOS, update={"drain": {"policy": policy}})
    report = gpu_node_object("n0", gpu_report("n0", migMode="Disabled"))
    whole = device_name("n0", 0, "gpu", 0)
    claim = claim_on("n0", whole)
    offered = resource_slices("n0", 0, (("gpu", (0,), 8, 7),))
    view = cluster([obj], nodes=[node("n0")], gpu_nodes=[report], slices=offered, claims=[claim])
    plan = judged(obj, view)
    assert said(plan, "LayoutApplied")[1] == reason
    assert f"gpu@0 is held by claim default/{whole}" in said(plan, "LayoutApplied")[2]


def test_the_pod_on_a_whole_gpu_is_evicted_so_that_the_gpu_can_be_cut() -> None:
    world = World(2, TWOS, **EVICT)
    world.hold("n0", "gpu", 0)
    world.gpu_nodes["n0"]["status"]["gpus"][0]["migMode"] = "Disabled"
    world.turn()
    plan = world.turn()
    assert [str(one.pod) for one in plan.evictions] == ["team/pod-n0-0"]
    world.end("n0")
    assert said(world.settle(), "LayoutApplied")[0] == "True"


@pytest.mark.parametrize(
    ("held", "wanted", "why"),
    [
        ("2g.20gb", {"migMode": "Disabled"}, "MIG mode is to be off"),
        ("gpu", {"migMode": "Enabled", "layout": [TWO]}, "the GPU is to have a fixed layout without it"),
    ],
)
def test_a_pod_whose_slice_has_gone_is_told_what_its_gpu_is_to_be(
    held: str, wanted: Object, why: str
) -> None:
    off = wanted["migMode"] == "Disabled"
    obj = partition_object(migMode="Disabled", **EVICT) if off else static_partition(TWO, **EVICT)
    report = gpu_node_object("n0", gpu_report("n0", migMode=wanted["migMode"], layout={"state": "Applied"}))
    report["spec"] = {"gpus": [{"uuid": uuid_of("n0", 0), "partition": "p", **wanted}]}
    claim = claim_on("n0", device_name("n0", 0, held, 0))
    claim["status"]["reservedFor"] = [{"resource": "pods", "name": "late", "uid": "uid-pod"}]
    report["status"]["prepareFailures"] = [{"claim": {"uid": claim["metadata"]["uid"]}, "message": "gone"}]
    offered = resource_slices("n0", 0, [("gpu", (0,), 8, 7)] if off else [("2g.20gb", (0, 2, 4), 2, 2)])
    view = cluster([obj], nodes=[node("n0")], gpu_nodes=[report], slices=offered, claims=[claim])
    (eviction,) = judged(obj, view).evictions
    assert eviction.why == f"its slice of GPU 0 of node n0 is gone: {why}"


def test_a_claim_on_the_whole_gpu_is_not_in_the_way_of_mig_mode_off() -> None:
    obj = partition_object(migMode="Disabled")
    report = gpu_node_object("n0", gpu_report("n0", migMode="Disabled"))
    claim = claim_on("n0", device_name("n0", 0, "gpu", 0))
    offered = resource_slices("n0", 0, (("gpu", (0,), 8, 7),))
    view = cluster([obj], nodes=[node("n0")], gpu_nodes=[report], slices=offered, claims=[claim])
    assert (judged(obj, view).status or {})["layout"]["blockers"] == []
