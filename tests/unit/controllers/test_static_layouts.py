"""Which layout each GPU of a static partition gets, and what a layout that cannot be had looks like."""

from __future__ import annotations

from typing import Any

import pytest
from tessera.agent.gpunode import cuttable as report_of
from tessera.boards import every_profile, geometry_of_model
from tessera.controllers import gpu_node
from tessera.controllers.cuttable import geometry_from
from tessera.controllers.gpu_layout import satisfies, wishes_of
from tessera.controllers.selection import spec_of
from tessera.gpu.profiles import boards, model
from tessera.relayout.plan import Place
from unit.controllers.partition_objects import (
    H100,
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
)
from unit.controllers.plan_words import said
from unit.controllers.static_world import World


@pytest.mark.parametrize("name", boards())
def test_the_operator_plans_with_the_geometry_that_the_agent_has(name: str) -> None:
    board = model(name)
    assert geometry_from(report_of(board)) is geometry_of_model(board, profiles=every_profile(board))


@pytest.mark.parametrize(
    ("places", "kept"),
    [
        (["3g.40gb@4", "1g.10gb@0", "1g.10gb@3"], True),
        (["3g.40gb@0", "1g.10gb@4", "1g.10gb@5"], False),
        (["3g.40gb@4", "1g.10gb@0"], False),
        (["3g.40gb@4", "1g.10gb@0", "1g.10gb@1", "1g.10gb@2"], False),
        (["3g.40gb@4", "1g.10gb@0", "2g.20gb@2"], False),
    ],
)
def test_a_layout_is_kept_while_it_is_what_the_partition_asks(places: list[str], kept: bool) -> None:
    layout = [{"profile": "3g.40gb", "start": 4}, {"profile": "1g.10gb", "count": 2}]
    wishes = wishes_of(spec_of(static_partition(*layout)))
    assert wishes is not None
    there = tuple(Place(int(start), profile) for profile, start in (place.split("@") for place in places))
    assert satisfies(there, wishes) is kept


def test_starts_are_chosen_so_that_what_is_in_use_stays() -> None:
    world = World(2, {"profile": "3g.40gb"}, {"profile": "1g.10gb", "count": 2})
    world.hold("n0", "3g.40gb", 0)
    world.settle()
    assert world.layout("n0") == ["3g.40gb@0", "1g.10gb@4", "1g.10gb@5"]
    assert world.layout("n1") == ["1g.10gb@0", "1g.10gb@1", "3g.40gb@4"], "most room is left"
    world.end("n0")
    world.settle()
    assert world.layout("n0") == ["3g.40gb@0", "1g.10gb@4", "1g.10gb@5"], "a plan that was written stays"


IMPOSSIBLE = [
    pytest.param([{"profile": "2g.25gb"}], "UnknownProfile", "did you mean 2g.20gb?", id="profile"),
    pytest.param([{"profile": "3g.40gb", "start": 2}], "IllegalStart", "it can at 0, 4", id="start"),
    pytest.param(
        [{"profile": "3g.40gb", "count": 3}],
        "ImpossibleLayout",
        "GPU 0 of node n0: layout 3g.40gb, 3g.40gb, 3g.40gb is not possible on H100-80GB: together 9 compute "
        "and 12 memory slices, of 7 and 8. Without the rest this fits: 3g.40gb, 3g.40gb",
        id="too many",
    ),
    pytest.param(
        [{"profile": "4g.40gb", "start": 0}, {"profile": "1g.10gb", "start": 3}],
        "ImpossibleLayout",
        "no choice of starts keeps the instances apart",
        id="overlap",
    ),
]


@pytest.mark.parametrize(("layout", "reason", "words"), IMPOSSIBLE)
def test_a_layout_that_cannot_be_had_changes_no_node(layout: list[Object], reason: str, words: str) -> None:
    world = World(2, {"profile": "7g.80gb"})
    world.settle()
    world.ask(*layout)
    for _ in range(3):
        plan = world.turn()
    assert said(plan, "Ready")[:2] == ("False", reason)
    assert words in said(plan, "Ready")[2]
    assert said(plan, "LayoutApplied")[:2] == ("Unknown", reason)
    assert [world.layout(name) for name in world.names] == [["7g.80gb@0"]] * 2


def mixed(*layout: Object, **spec: Any) -> tuple[Object, Any]:
    obj = static_partition(*layout, **spec)
    gpus = (gpu_report("n0"), gpu_report("n0", 1, "A30-24GB"))
    return obj, cluster([obj], nodes=[node("n0")], gpu_nodes=[gpu_node_object("n0", *gpus)])


def test_a_model_that_cannot_have_the_layout_is_named_and_keeps_it_from_all() -> None:
    obj, view = mixed({"profile": "1g.10gb"})
    plan = judged(obj, view)
    assert said(plan, "Ready")[:2] == ("False", "IllegalProfile")
    assert "A30-24GB (GPU 1 of node n0) has no profile 1g.10gb" in said(plan, "Ready")[2]
    assert "layout" not in (plan.status or {})


def test_a_dry_run_shows_the_difference_and_takes_nothing() -> None:
    obj, view = mixed({"profile": "1g.6gb", "count": 2}, gpus={"models": ["A30-24GB"]}, dryRun=True)
    plan = judged(obj, view)
    assert said(plan, "LayoutApplied")[:2] == ("Unknown", "DryRun")
    assert said(plan, "Ready")[:2] == ("True", "DryRun")
    progress = (plan.status or {})["layout"]
    assert progress["diff"] == ["GPU 1 of node n0: + 1g.6gb@0 + 1g.6gb@1"]
    assert progress["begun"] == []
    gpu_nodes = gpu_node.reconcile(view.gpu_nodes["n0"], gpus=view.gpus, owners=view.owners)
    assert gpu_nodes.children == ()


def test_what_tessera_did_not_make_keeps_a_node_from_being_begun() -> None:
    obj = static_partition({"profile": "1g.10gb"})
    foreign = {"device": "gpu-x", "profile": "2g.20gb", "start": 2, "state": "Foreign"}
    report = gpu_node_object("n0", gpu_report("n0", instances=[foreign]))
    plan = judged(obj, cluster([obj], nodes=[node("n0")], gpu_nodes=[report]))
    assert said(plan, "LayoutApplied")[1] == "Blocked"
    assert "2g.20gb@2 was not made by Tessera; remove it on the node" in said(plan, "LayoutApplied")[2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"healthy": False}, "GPU 0 of node n0: unhealthy"),
        ({"migMode": "EnablePending"}, "MIG mode is EnablePending"),
    ],
)
def test_a_gpu_that_cannot_be_changed_keeps_its_node_from_being_begun(changes: Object, words: str) -> None:
    obj = static_partition({"profile": "1g.10gb"})
    report = gpu_node_object("n0", gpu_report("n0", **changes))
    plan = judged(obj, cluster([obj], nodes=[node("n0")], gpu_nodes=[report]))
    assert said(plan, "LayoutApplied")[1] == "Blocked"
    assert words in said(plan, "LayoutApplied")[2]


def test_an_agent_that_does_not_say_what_its_gpus_can_be_cut_into_keeps_its_node_from_being_begun() -> None:
    obj = static_partition({"profile": "1g.10gb"})
    reports = [gpu_node_object(name, gpu_report(name)) for name in ("n0", "n1")]
    del reports[0]["status"]["models"]
    view = cluster([obj], nodes=[node("n0"), node("n1")], gpu_nodes=reports)
    plan = judged(obj, view)
    assert said(plan, "LayoutApplied")[1] == "Updating"
    assert "in change: n1, 1 cannot be begun (node n0: its agent does not say" in said(plan, "Ready")[2]


@pytest.mark.parametrize(("reason", "begun"), [("NodeStatusUnknown", "n1"), ("NodeStatusNeverUpdated", "n0")])
def test_a_node_that_has_gone_silent_takes_nobodys_turn(reason: str, begun: str) -> None:
    obj = static_partition({"profile": "1g.10gb"})
    gone = node("n0") | {"status": {"conditions": [{"type": "Ready", "status": "Unknown", "reason": reason}]}}
    reports = [gpu_node_object(name, gpu_report(name)) for name in ("n0", "n1")]
    plan = judged(obj, cluster([obj], nodes=[gone, node("n1")], gpu_nodes=reports))
    assert [item["node"] for item in (plan.status or {})["layout"]["begun"]] == [begun]


@pytest.mark.parametrize(
    ("policy", "refused", "evicted"),
    [("Evict", True, ["team/late"]), ("Evict", False, []), ("Never", True, [])],
    ids=["its slice is gone", "not refused, so it may be running", "nobody is evicted"],
)
def test_a_pod_that_got_a_slice_as_it_was_taken_away_is_evicted(
    policy: str, refused: bool, evicted: list[str]
) -> None:
    whole = {"profile": "7g.80gb", "start": 0}
    obj = static_partition(whole, update={"drain": {"policy": policy}})
    gpu = {"uuid": "GPU-n0-0", "partition": "p", "migMode": "Enabled", "layout": [whole]}
    instance = {"device": device_name("n0", 0, "7g.80gb", 0), "state": "Warm", **whole}
    report = gpu_node_object("n0", gpu_report("n0", instances=[instance], layout={"state": "Applied"}))
    report["spec"] = {"gpus": [gpu]}
    claim = claim_on("n0", device_name("n0", 0, "1g.10gb", 6))
    claim["metadata"] = {"namespace": "team", "name": "late", "uid": "uid-claim"}
    claim["status"]["reservedFor"] = [{"resource": "pods", "name": "late", "uid": "uid-pod"}]
    if refused:
        report["status"]["prepareFailures"] = [{"claim": {"uid": "uid-claim"}, "message": "it is gone"}]
    offered = resource_slices("n0", 0, [one for one in H100 if one[0] == "7g.80gb"])
    view = cluster([obj], nodes=[node("n0")], gpu_nodes=[report], slices=offered, claims=[claim])
    plan = judged(obj, view)
    assert said(plan, "LayoutApplied")[1] == "Applied"
    assert [str(eviction.pod) for eviction in plan.evictions] == evicted


@pytest.mark.parametrize("then", ["deleted", "dynamic"])
def test_layouts_go_at_once_with_what_asked_for_them(then: str) -> None:
    world = World(3, {"profile": "7g.80gb"}, update={"maxUnavailable": "100%"})
    world.settle()
    if then == "deleted":
        world.partition["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    else:
        world.partition["spec"] = partition_object()["spec"]
    world.see("partition")
    for name in world.names:
        world.reconcile_node(name)
        assert world.layout(name) is None
