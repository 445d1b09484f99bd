"""How a static layout goes over the nodes: how many at a time, in which order, what stops it, who leaves."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.api.mig_partition import BEGUN_LIMIT, Update
from tessera.controllers.gpu_layout import GPUPlan
from tessera.controllers.gpu_view import GPU, Layout
from tessera.controllers.rollout import Node, allowed, roll_out
from tessera.relayout.plan import Place
from unit.controllers.partition_objects import A30, Object, cuttable, partition_object
from unit.controllers.plan_words import NOW, said
from unit.controllers.static_world import World

SEVEN: Object = {"profile": "1g.10gb", "count": 7}
THREES: Object = {"profile": "3g.40gb", "count": 2}
WITH_LAYOUT = GPU(
    node="n", uuid="GPU-n", index=0, model="H100-80GB", mig_mode="Enabled", healthy=True, memory_slices=8,
    layout=Layout(places=(Place(0, "7g.80gb"),), state=None),
)  # fmt: skip
EVICT: Object = {"update": {"drain": {"policy": "Evict", "timeoutSeconds": 60}}}


@pytest.mark.parametrize(
    ("limit", "nodes", "number"),
    [(1, 10, 1), (3, 2, 3), ("10%", 39, 3), ("10%", 3, 1), ("100%", 8, 8), ("100%", 5000, BEGUN_LIMIT)],
)
def test_a_percentage_is_rounded_down_and_is_one_at_least(limit: int | str, nodes: int, number: int) -> None:
    assert allowed(Update(max_unavailable=limit), nodes) == number


def test_the_record_holds_no_more_nodes_than_it_may_when_all_are_in_change() -> None:
    place = Place(0, "7g.80gb")
    nodes = [
        Node(name=f"n{number}", plans=(GPUPlan(gpu=WITH_LAYOUT, target=(place,)),))
        for number in range(BEGUN_LIMIT + 1)
    ]
    rollout = roll_out(nodes, update=Update(), begun={"n7": NOW}, now=NOW)
    assert len(rollout.begun) == BEGUN_LIMIT
    assert "n7" in rollout.begun


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["operator", "operator", "partition", "node", "agent", "agent", "see gpu_nodes", "see claims",
             "hold", "end", "ask", "ask back"]
        ),
        st.integers(0, 3),
    ),
    max_size=40,
)  # fmt: skip


def act(world: World, action: str, name: str, update: Object) -> None:
    """One thing happens; what the operator sees of GPUNodes and claims may be old."""
    match action:
        case "operator":
            world.reconcile_partition()
            world.see("partition")
            for each in world.names:
                world.reconcile_node(each)
        case "partition":
            world.reconcile_partition()
        case "node":
            world.reconcile_node(name)
        case "agent":
            world.agent(name)
        case "see gpu_nodes" | "see claims":
            world.see(action.removeprefix("see "))
        case "hold" if world.holdable(name):
            world.hold(name, "2g.20gb", 0)
        case "end":
            world.end(name)
        case "ask":
            world.ask(THREES, update=update)
        case "ask back":
            world.ask(SEVEN, update=update)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(actions=ACTIONS, limit=st.sampled_from([1, "50%"]))
def test_never_more_nodes_are_in_change_than_allowed_and_it_ends_when_agents_answer(
    actions: list[tuple[str, int]], limit: int | str
) -> None:
    update: Object = {"maxUnavailable": limit}
    world = World(4, SEVEN, update=update)
    for action, number in actions:
        act(world, action, world.names[number], update)
        assert len(world.in_change()) <= (1 if limit == 1 else 2)
    for name in world.names:
        world.end(name)
    world.ask(THREES, update=update)
    plan = world.settle()
    assert said(plan, "LayoutApplied")[:2] == ("True", "Applied")
    assert {tuple(world.layout(name) or ()) for name in world.names} == {("3g.40gb@0", "3g.40gb@4")}


def test_a_node_that_was_begun_counts_although_its_gpunode_is_seen_as_it_was() -> None:
    world = World(3, SEVEN)
    world.hold("n0", "2g.20gb", 0)
    world.see("gpu_nodes")
    world.reconcile_partition()
    world.see("partition")
    world.reconcile_node("n0")
    assert world.in_change() == {"n0"}
    # Now the claim is seen, and the spec that was written is not: n0 looks like one that may not be begun.
    world.see("claims")
    plan = world.reconcile_partition()
    assert [item["node"] for item in (plan.status or {})["layout"]["begun"]] == ["n0"]
    assert plan.decides, "nothing is written when the partition has changed meanwhile"


def test_nodes_go_by_name_and_show_how_far_they_are() -> None:
    world = World(3, SEVEN, gpus=2)
    seen = [world.turn() for _ in range(4)]
    summaries = [(plan.status or {})["layout"]["summary"] for plan in seen]
    assert summaries == ["0/3", "1/3", "2/3", "3/3"]
    assert (seen[0].status or {})["layout"]["begun"] == [{"node": "n0", "since": "2026-01-02T03:04:05Z"}]
    assert said(seen[1], "LayoutApplied") == (
        "False",
        "Updating",
        "1 of 3 nodes have the layout; in change: n1, 1 wait for their turn",
    )
    assert said(seen[1], "Ready")[:2] == ("False", "Updating")
    assert said(seen[3], "LayoutApplied") == ("True", "Applied", "the GPUs of 3 node(s) have the layout")
    assert said(seen[3], "Ready") == ("True", "Partitioned", "6 GPU(s) on 3 node(s) have their fixed layout")
    assert world.layout("n2", 1) == [f"1g.10gb@{start}" for start in range(7)]


def test_a_layout_stands_whatever_else_changes_in_the_spec_of_its_node() -> None:
    world = World(2, SEVEN)
    world.settle()
    world.gpu_nodes["n0"]["metadata"]["generation"] += 1  # as for the GPU of another partition
    plan = world.turn(agents=False)
    assert said(plan, "LayoutApplied")[1] == "Applied"
    assert (plan.status or {})["layout"]["changing"] == 0


def test_a_layout_that_is_taken_back_before_its_agent_has_seen_it_is_one_to_wait_for() -> None:
    """The agent may be at work with what it has read before."""
    world = World(2, SEVEN)
    world.settle()
    world.ask(THREES)
    world.turn(agents=False)
    world.ask(SEVEN)
    world.turn(agents=False)
    assert world.layout("n0") == [f"1g.10gb@{start}" for start in range(7)]
    assert world.in_change() == {"n0"}
    plan = world.turn(agents=False)
    assert said(plan, "LayoutApplied")[1] == "Updating"
    world.agent("n0")
    assert said(world.settle(), "LayoutApplied")[0] == "True"


def test_the_diff_names_each_gpu_until_it_is_changed() -> None:
    world = World(2, THREES)
    world.settle()
    world.ask({"profile": "2g.20gb", "start": 0}, {"profile": "3g.40gb"})
    diff = "- 3g.40gb@0 + 2g.20gb@0"
    first = world.turn()
    assert (first.status or {})["layout"]["diff"] == [f"GPU 0 of node n{n}: {diff}" for n in (0, 1)]
    assert (world.settle().status or {})["layout"]["diff"] == []


def test_former_layouts_come_back_with_the_former_spec() -> None:
    world = World(3, SEVEN)
    world.settle()
    former = [world.layout(name) for name in world.names]
    world.ask(THREES)
    world.turn()
    world.turn()
    assert world.layout("n0") == ["3g.40gb@0", "3g.40gb@4"]
    world.ask(SEVEN)
    world.settle()
    assert [world.layout(name) for name in world.names] == former


def test_the_first_failure_begins_no_further_node_and_says_what_to_do() -> None:
    world = World(4, SEVEN, update={"maxUnavailable": 2})
    world.failing = {"n0"}
    for _ in range(4):
        plan = world.turn()
    assert said(plan, "LayoutApplied") == (
        "False",
        "LayoutFailed",
        "GPU 0 of node n0: NVML says no; reset the GPU; mend that, or apply the former spec to go back; no "
        "further node is begun",
    )
    assert said(plan, "Ready")[:2] == ("False", "LayoutFailed")
    assert [world.layout(name) is None for name in world.names] == [False, False, True, True]
    assert (plan.status or {})["layout"]["failed"] == 1
    # Another spec starts afresh, with the node that was in change.
    world.failing = set()
    world.ask(THREES)
    assert said(world.settle(), "LayoutApplied")[0] == "True"


def test_a_node_in_use_waits_and_the_others_do_not() -> None:
    world = World(2, SEVEN)
    world.hold("n0", "2g.20gb", 0)
    plan = world.settle()
    assert world.layout("n0") is None
    assert said(plan, "LayoutApplied") == (
        "False",
        "Blocked",
        "1 of 2 nodes have the layout; none can be begun: GPU 0 of node n0: 2g.20gb@0 is held by claim "
        "team/claim-n0-0-0 (pods: team/pod-n0-0); wait until the pods end, delete them, or set "
        "spec.update.drain.policy to Evict",
    )
    assert plan.evictions == ()
    world.end("n0")
    assert said(world.settle(), "LayoutApplied")[0] == "True"


def test_only_pods_on_slices_that_go_are_evicted_and_only_when_nothing_follows_them_there() -> None:
    world = World(2, {"profile": "3g.40gb", "start": 4}, SEVEN | {"count": 4}, **EVICT)
    world.hold("n0", "2g.20gb", 0)
    world.hold("n0", "3g.40gb", 4)
    assert world.turn(agents=False).evictions == (), "n0 is only begun"
    assert world.turn(agents=False).evictions == (), "its agent has not seen the layout"
    world.agent("n0")
    plan = world.turn()
    assert [str(eviction.pod) for eviction in plan.evictions] == ["team/pod-n0-0"]
    assert plan.requeue_seconds == 10
    assert world.in_change() == {"n0"}
    world.end("n0")
    assert said(world.settle(), "LayoutApplied")[0] == "True"


def test_a_drain_over_time_is_a_failure_until_the_pods_are_gone() -> None:
    world = World(2, SEVEN, **EVICT)
    world.hold("n0", "2g.20gb", 0)
    for _ in range(3):
        world.turn()
    world.now += timedelta(seconds=60)
    plan = world.turn()
    assert said(plan, "LayoutApplied")[1] == "LayoutFailed"
    assert "node n0 was not drained within spec.update.drain.timeoutSeconds" in said(plan, "Ready")[2]
    assert plan.evictions == ()
    assert world.layout("n1") is None
    world.end("n0")
    assert said(world.settle(), "LayoutApplied")[0] == "True"


def test_nodes_in_change_stay_on_record_while_the_spec_is_one_that_cannot_be_had() -> None:
    world = World(2, SEVEN, **EVICT)
    world.hold("n0", "2g.20gb", 0)
    world.turn()
    world.turn()
    layout = world.layout("n0")
    world.ask({"profile": "9g.90gb"}, **EVICT)
    plan = world.turn()
    assert [item["node"] for item in (plan.status or {})["layout"]["begun"]] == ["n0"]
    assert plan.decides
    assert plan.evictions == ()
    assert world.layout("n0") == layout, "what is refused is given to no node"
    world.ask(SEVEN, **EVICT)
    plan = world.turn()
    assert [str(eviction.pod) for eviction in plan.evictions] == ["team/pod-n0-0"]
    assert world.in_change() == {"n0"}


def test_a_layout_that_one_model_cannot_have_is_given_to_no_begun_node() -> None:
    world = World(2, SEVEN)
    world.turn(agents=False)
    spec = world.gpu_nodes["n0"]["spec"]
    world.gpu_nodes["n1"]["status"]["gpus"][0]["model"] = "A30-24GB"
    world.gpu_nodes["n1"]["status"]["models"] = [cuttable("A30-24GB", A30)]
    world.ask(THREES)
    plan = world.turn(agents=False)
    assert [item["node"] for item in (plan.status or {})["layout"]["begun"]] == ["n0"]
    assert world.gpu_nodes["n0"]["spec"] == spec


def test_a_record_ends_with_what_asked_for_it() -> None:
    world = World(2, SEVEN)
    world.turn(agents=False)
    world.partition["spec"] = partition_object()["spec"]
    world.partition["metadata"]["generation"] += 1
    assert "layout" not in (world.turn().status or {})


def test_the_time_to_drain_counts_from_the_last_change_of_the_spec() -> None:
    world = World(2, SEVEN, **EVICT)
    world.hold("n0", "2g.20gb", 0)
    world.turn()
    world.now += timedelta(seconds=60)
    assert said(world.turn(), "LayoutApplied")[1] == "LayoutFailed"
    world.ask(THREES, **EVICT)
    assert said(world.turn(), "LayoutApplied")[1] == "Updating"
    world.now += timedelta(seconds=60)
    assert said(world.turn(), "LayoutApplied")[1] == "LayoutFailed"
