"""A static partition whose nodes are in trouble: what is kept, who is waited for, and what is told."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tessera.controllers import gpu_node
from unit.controllers.partition_objects import (
    H100,
    Object,
    cluster,
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

SEVEN: Object = {"profile": "1g.10gb", "count": 7}
THREES: Object = {"profile": "3g.40gb", "count": 2}
EVICT: Object = {"update": {"drain": {"policy": "Evict", "timeoutSeconds": 60}}}


def test_layouts_outlast_a_driver_that_has_not_answered_its_new_agent() -> None:
    world = World(2, SEVEN)
    world.settle()
    before = world.gpu_nodes["n0"]["spec"]
    world.gpu_nodes["n0"]["status"]["gpus"] = []  # as after a reboot, until the driver is loaded
    world.see("gpu_nodes")
    view = world.view()
    plan = gpu_node.reconcile(world.gpu_nodes["n0"], gpus=view.gpus_by_node.get("n0", ()), owners=view.owners)
    assert before["gpus"]
    assert plan.children == ()


@pytest.mark.parametrize("changes", [{"healthy": False}, {"migMode": "EnablePending"}])
def test_a_gpu_that_cannot_be_cut_takes_nobodys_turn(changes: Object) -> None:
    world = World(3, SEVEN)
    world.settle()
    world.gpu_nodes["n0"]["status"]["gpus"][0] |= {**changes, "layout": {"state": "Blocked"}}
    world.ask(THREES)
    for _ in range(4):
        plan = world.turn(agents=False)
        for name in ("n1", "n2"):
            world.agent(name)
    assert [world.layout(name) for name in ("n1", "n2")] == [["3g.40gb@0", "3g.40gb@4"]] * 2
    assert said(plan, "LayoutApplied")[1] == "Blocked"
    assert (plan.status or {})["layout"]["summary"] == "2/3"


def test_a_node_that_others_manage_takes_nobodys_turn() -> None:
    world = World(2, SEVEN)
    world.settle()
    status = world.gpu_nodes["n0"]["status"]
    del status["gpus"][0]["layout"]  # the agent tries none there
    status["conditions"][0] |= {"status": "False", "reason": "ManagedByOthers", "message": "remove it"}
    world.ask(THREES)
    for _ in range(4):
        plan = world.turn(agents=False)
        world.agent("n1")
    assert world.layout("n1") == ["3g.40gb@0", "3g.40gb@4"]
    assert (plan.status or {})["layout"]["begun"] == []


def test_an_agent_that_says_nothing_of_its_layout_is_named_after_a_minute() -> None:
    world = World(2, SEVEN)
    world.turn(agents=False)
    plan = world.turn(agents=False)
    assert said(plan, "LayoutApplied")[2].endswith("in change: n0, 1 wait for their turn")
    world.now += timedelta(seconds=60)
    plan = world.turn(agents=False)
    words = "node n0: its agent has said nothing of the layout for a minute; look at the pod of DaemonSet"
    assert words in said(plan, "LayoutApplied")[2]
    assert words in (plan.status or {})["layout"]["blockers"][0]
    world.agent("n0")
    assert said(world.settle(), "LayoutApplied")[0] == "True"


@pytest.mark.parametrize("policy", ["Never", "Evict"])
def test_a_begun_node_whose_agent_has_died_is_a_failure_after_a_while(policy: str) -> None:
    world = World(5, SEVEN, update={"maxUnavailable": 2, "drain": {"policy": policy}})
    world.turn(agents=False)
    world.agent("n1")
    world.turn(agents=False)
    world.agent("n2")
    plan = world.turn(agents=False)
    assert said(plan, "LayoutApplied")[1] == "Updating"
    assert plan.requeue_seconds == 598
    world.now += timedelta(seconds=598)
    plan = world.turn(agents=False)
    assert said(plan, "LayoutApplied") == (
        "False",
        "LayoutFailed",
        "node n0 was not changed within spec.update.drain.timeoutSeconds: node n0: its agent has said "
        "nothing of the layout for a minute; look at the pod of DaemonSet tessera-agent there (kubectl get "
        "pods -n tessera-system -o wide), or apply the former spec to go back; no further node is begun",
    )
    world.agent("n3")
    for _ in range(2):
        world.turn(agents=False)
    assert world.layout("n4") is None
    world.agent("n0")
    assert said(world.settle(), "LayoutApplied")[0] == "True"


def test_a_begun_node_that_reboots_keeps_its_turn() -> None:
    world = World(2, SEVEN)
    world.turn(agents=False)
    gpus, world.gpu_nodes["n0"]["status"]["gpus"] = world.gpu_nodes["n0"]["status"]["gpus"], []
    plan = world.turn(agents=False)
    assert [item["node"] for item in (plan.status or {})["layout"]["begun"]] == ["n0"]
    assert "node n0: its agent reports no GPU" in said(plan, "LayoutApplied")[2]
    assert world.layout("n1") is None
    world.gpu_nodes["n0"]["status"]["gpus"] = gpus
    assert said(world.settle(), "LayoutApplied")[0] == "True"


def test_a_gpunode_that_may_not_be_written_is_told_and_stops_the_rollout_after_a_while() -> None:
    world = World(2, SEVEN)
    world.reconcile_partition()
    world.refused = {"n0": "GPUNode n0 was refused: no rights; give them"}
    plan = world.turn()
    words = "node n0: GPUNode n0 was refused: no rights; give them"
    assert said(plan, "Ready") == ("False", "ReconcileError", words)
    assert f"in change: n0 ({words})" in said(plan, "LayoutApplied")[2]
    world.now += timedelta(seconds=600)
    plan = world.turn()
    assert said(plan, "LayoutApplied")[1] == "LayoutFailed"
    assert words in said(plan, "LayoutApplied")[2]
    assert world.layout("n1") is None
    world.refused = {}
    assert said(world.settle(), "LayoutApplied")[0] == "True"


def test_a_node_in_trouble_is_named_once() -> None:
    world = World(1, SEVEN)
    ready = world.gpu_nodes["n0"]["status"]["conditions"][0]
    ready |= {"status": "False", "reason": "DriverMissing", "message": "load the driver"}
    plan = world.turn()
    assert (plan.status or {})["layout"]["blockers"] == ["node n0: load the driver"]


def test_a_claim_of_many_pods_is_told_in_a_line_that_the_status_can_hold() -> None:
    world = World(1, SEVEN)
    world.hold("n0", "2g.20gb", 0)
    pods = [{"resource": "pods", "name": f"{number:0>253}", "uid": f"u{number}"} for number in range(256)]
    world.claims[0]["status"]["reservedFor"] = pods
    plan = world.turn()
    (line,) = (plan.status or {})["layout"]["blockers"]
    assert line.endswith(f"team/{4:0>253} and 251 more)")


def test_the_words_of_a_node_are_cut_to_a_line_that_the_status_can_hold() -> None:
    world = World(1, SEVEN)
    ready = world.gpu_nodes["n0"]["status"]["conditions"][0]
    ready |= {"status": "False", "reason": "NVMLError", "message": "x" * 32768}
    (line,) = (world.turn().status or {})["layout"]["blockers"]
    assert len(line) == 2048


def test_a_drain_over_time_says_what_helps() -> None:
    world = World(1, SEVEN, **EVICT)
    world.hold("n0", "2g.20gb", 0)
    world.turn()
    world.now += timedelta(seconds=60)
    assert said(world.turn(), "LayoutApplied")[2].endswith(
        "held by claim team/claim-n0-0-0 (pods: team/pod-n0-0); end these pods, or raise that limit, or "
        "apply the former spec to go back; no further node is begun"
    )


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_a_gpu_that_cannot_do_mig_is_none_of_a_partition(mode: str) -> None:
    obj = static_partition(SEVEN) if mode == "static" else partition_object()
    report = gpu_node_object("n0", gpu_report("n0"))
    display = {"index": 1, "uuid": "GPU-display", "healthy": True, "productName": "NVIDIA DGX Display"}
    report["status"]["gpus"].append(display)
    view = cluster([obj], nodes=[node("n0")], gpu_nodes=[report], slices=resource_slices("n0", 0, H100))
    plan = judged(obj, view)
    assert (plan.status or {})["gpus"] == {"selected": 1, "owned": 1, "ready": 1}
    assert said(plan, "Ready")[1] != "MIGDisabled"
    assert "GPU-display" not in view.owners


def test_a_node_in_change_says_whom_it_waits_for() -> None:
    world = World(2, SEVEN, **EVICT)
    world.hold("n0", "2g.20gb", 0)
    world.turn()
    assert said(world.turn(), "Ready")[2] == (
        "0 of 2 nodes have the layout; in change: n0 (GPU 0 of node n0: 2g.20gb@0 is held by claim "
        "team/claim-n0-0-0 (pods: team/pod-n0-0)), 1 wait for their turn"
    )
