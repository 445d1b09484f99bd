"""What did not work out is given up, and the next place is another one."""

from __future__ import annotations

from typing import Any

import pytest
from tessera.scheduler.actions import GiveUp, Place, Refuse
from tessera.scheduler.index import Index
from tessera.scheduler.objects import read_pod
from tessera.scheduler.planner import Planner
from tessera.scheduler.takeback import Avoidance, find_take_backs, identity


@pytest.fixture
def stuck(world: Any) -> Any:
    """A pod with a slice on node-a that kube-scheduler refused 60 s ago; its slice is 40 s old."""
    world.add_pod_with_claim("p", "2g.20gb", gates=())
    world.allocate("p", "gpu-aaaaaaaa-2g-20gb-0", node="node-a", pod="p", since=-40.0)
    refuse(world, "p", ago=60.0)
    return world


def refuse(world: Any, pod: str, *, ago: float) -> None:
    from datetime import UTC, datetime

    at = datetime.fromtimestamp(world.now - ago, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": '0/2 nodes are available: persistentvolumeclaim "out" not found.',
        "lastTransitionTime": at,
    }
    world.pods[pod]["status"]["conditions"] = [condition]
    world.touch(world.pods[pod])


def given_up(world: Any) -> list[str]:
    snapshot = world.snapshot()
    return [t.claim.key[1] for t in find_take_backs(snapshot, Index.of(snapshot), grace_seconds=30, gone={})]


def test_a_pod_that_is_not_scheduled_in_time_loses_its_slice(stuck: Any) -> None:
    assert given_up(stuck) == ["p"]


def test_a_fresh_allocation_has_its_own_grace_time(stuck: Any) -> None:
    stuck.allocate("p", "gpu-aaaaaaaa-2g-20gb-0", node="node-a", pod="p", since=-10.0)
    assert given_up(stuck) == []


def test_a_pod_that_kube_scheduler_has_not_judged_yet_keeps_its_slice(stuck: Any) -> None:
    stuck.pods["p"]["status"]["conditions"][0]["reason"] = "SchedulingGated"
    stuck.touch(stuck.pods["p"])
    assert given_up(stuck) == []


def test_a_pod_that_was_not_refused_keeps_its_slice(stuck: Any) -> None:
    stuck.pods["p"]["status"]["conditions"] = []
    stuck.touch(stuck.pods["p"])
    assert given_up(stuck) == []


@pytest.mark.parametrize(
    "change", [{"nodeName": "node-a"}, {"schedulingGates": [{"name": "tessera.dev/placement"}]}]
)
def test_a_bound_or_gated_pod_keeps_its_slice(stuck: Any, change: dict[str, Any]) -> None:
    stuck.pods["p"]["spec"] |= change
    stuck.touch(stuck.pods["p"])
    assert given_up(stuck) == []


def test_a_slice_that_another_pod_uses_stays(stuck: Any) -> None:
    stuck.claims["p"]["status"]["reservedFor"].append({"resource": "pods", "name": "q", "uid": "pod-q"})
    stuck.touch(stuck.claims["p"])
    assert given_up(stuck) == []


def test_a_shared_slice_is_taken_back_once_when_all_of_its_pods_are_refused(stuck: Any) -> None:
    stuck.add_pod("q", "p", gates=())
    stuck.claims["p"]["status"]["reservedFor"].append({"resource": "pods", "name": "q", "uid": "pod-q"})
    stuck.touch(stuck.claims["p"])
    assert given_up(stuck) == []
    refuse(stuck, "q", ago=60.0)
    assert given_up(stuck) == ["p"]


def test_an_allocation_that_nobody_uses_is_freed_after_a_minute(world: Any, request_for: Any) -> None:
    world.add_claim("orphan", request_for("2g.20gb"))
    world.allocate("orphan", "gpu-aaaaaaaa-2g-20gb-0", node="node-a", since=-59.0)
    assert given_up(world) == []
    world.now += 1
    assert given_up(world) == ["orphan"]
    world.add_pod("p", "orphan")
    assert given_up(world) == []


@pytest.fixture
def late(world: Any, publish: Any) -> Any:
    """A pod is bound to a node on which its slice was withdrawn before it could be prepared: a fixed layout
    has come. Another GPU of the node has room.
    """
    world.add_pod_with_claim("late", "2g.20gb", gates=(), nodeName="node-a")
    world.allocate("late", "gpu-aaaaaaaa-2g-20gb-0", node="node-a", pod="late", since=-600.0)
    world.slices = [item for item in world.slices if item["spec"]["nodeName"] != "node-a"]
    world.slices += publish("node-a", ["gpu-aaaaaaaa", "gpu-cccccccc"])
    for item in world.slices:
        item["spec"]["devices"] = [
            device
            for device in item["spec"].get("devices", ())
            if not device["name"].startswith("gpu-aaaaaaaa-2g-20gb")
        ]
    return world


def test_a_bound_pod_whose_slice_was_withdrawn_gets_another_one_of_its_node(
    late: Any, planner: Planner
) -> None:
    assert planner.plan(late.snapshot()) == [], "its agent may be preparing it at this moment"
    late.now += 29
    late.add_node("node-c", gpus=["gpu-eeeeeeee"])
    late.touch(late.claims["late"])
    assert planner.plan(late.snapshot()) == []
    late.now += 1
    (action,) = planner.plan(late.snapshot())
    assert isinstance(action, GiveUp)
    assert action.why == "node node-a has not given the device and does not offer it any more"
    del late.claims["late"]["status"]
    late.touch(late.claims["late"])
    (action,) = planner.plan(late.snapshot())
    assert isinstance(action, Place)
    assert [result.device for result in action.pods[0].claims[0].results] == ["gpu-cccccccc-2g-20gb-0"]
    late.hand_over(action.pods[0])
    late.now += 60
    assert planner.plan(late.snapshot()) == []


@pytest.mark.parametrize(
    "why",
    [
        "it runs",
        "it is being deleted",
        "its claim goes as a node comes",
        "one of two runs",
        "its GPU is not published",
        "it is offered",
    ],
)
def test_a_bound_pod_that_may_have_its_slice_keeps_it(late: Any, planner: Planner, why: str) -> None:
    planner.plan(late.snapshot())
    late.now += 60
    if why == "its claim goes as a node comes":
        late.add_node("node-c", gpus=["gpu-eeeeeeee"])
        del late.claims["late"]
    elif why == "it is being deleted":
        late.pods["late"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        late.touch(late.pods["late"])
    elif why == "it runs":
        late.pods["late"]["status"]["containerStatuses"] = [{"containerID": "containerd://1"}]
        late.touch(late.pods["late"])
    elif why == "one of two runs":
        other = {"resource": "pods", "name": "ended", "uid": "pod-ended"}
        late.claims["late"]["status"]["reservedFor"].append(other)
        late.touch(late.claims["late"])
    elif why == "its GPU is not published":
        late.allocate("late", "gpu-dddddddd-2g-20gb-0", node="node-a", pod="late", since=-60.0)
    else:
        late.allocate("late", "gpu-cccccccc-2g-20gb-0", node="node-a", pod="late", since=-60.0)
    assert planner.plan(late.snapshot()) == []


def test_the_next_place_is_on_another_node_and_then_there_is_none(stuck: Any, planner: Planner) -> None:
    (action,) = planner.plan(stuck.snapshot())
    assert isinstance(action, GiveUp)
    for node, gpu in (("node-b", "gpu-bbbbbbbb"), (None, "")):
        del stuck.claims["p"]["status"]
        stuck.touch(stuck.claims["p"])
        (action,) = planner.plan(stuck.snapshot())
        if node is None:
            assert isinstance(action, Refuse)
            assert "tried without success a short while ago excluded 2" in action.message
            assert (
                "kube-scheduler could not bind the pod on node node-a (and 1 more): 0/2 nodes are available: "
                'persistentvolumeclaim "out" not found; put that right; the next try is at 13:47:40 UTC, '
                "60 s after the last"
            ) in action.message
            assert "CPU" not in action.message
            break
        assert isinstance(action, Place)
        assert action.pods[0].claims[0].node == node
        stuck.allocate("p", f"{gpu}-2g-20gb-0", node=node, pod="p", since=0.0)
        assert planner.plan(stuck.snapshot()) == []
    # After a minute the first node may be tried again.
    stuck.now += 61
    (action,) = planner.plan(stuck.snapshot())
    assert isinstance(action, Place)


def test_full_nodes_beside_an_avoided_one_keep_their_remedy(stuck: Any, planner: Planner) -> None:
    planner.plan(stuck.snapshot())
    del stuck.claims["p"]["status"]
    stuck.touch(stuck.claims["p"])
    stuck.nodes["node-b"]["status"]["allocatable"]["cpu"] = "0"
    stuck.touch(stuck.nodes["node-b"])
    (action,) = planner.plan(stuck.snapshot())
    assert isinstance(action, Refuse)
    assert "free CPU and memory there" in action.message
    assert "kube-scheduler could not bind the pod on node node-a: 0/2 nodes" in action.message


def test_a_freed_claim_of_a_pod_that_has_ended_is_no_bad_sign_for_the_node(
    world: Any, planner: Planner
) -> None:
    world.add_pod_with_claim("first", "2g.20gb", gates=())
    world.allocate("first", "gpu-aaaaaaaa-2g-20gb-0", node="node-a", pod="first")
    planner.plan(world.snapshot())
    del world.pods["first"]
    del world.claims["first"]["status"]
    world.touch(world.claims["first"])
    world.add_pod("second", "first")
    (action,) = planner.plan(world.snapshot())
    assert isinstance(action, Place)
    assert action.pods[0].claims[0].node == "node-a"


def test_a_replacement_of_an_indexed_job_is_the_same_pod(world: Any) -> None:
    owner = [{"kind": "Job", "name": "j", "uid": "job-1", "controller": True}]
    pods = []
    for name, index in (("j-0-abc", "0"), ("j-0-def", "0"), ("j-1-ghi", "1")):
        pod = world.add_pod(name)
        pod["metadata"] |= {
            "ownerReferences": owner,
            "labels": {"batch.kubernetes.io/job-completion-index": index},
        }
        pods.append(read_pod(pod))
    assert identity(pods[0]) == identity(pods[1]) != identity(pods[2])
    avoidance = Avoidance()
    avoidance.add(pods[0], "node-a", now=100.0)
    assert avoidance.nodes(pods[1], now=101.0) == {"node-a"}
    assert avoidance.nodes(pods[2], now=101.0) == frozenset()


def test_avoidance_doubles_and_is_forgotten_with_the_pod(world: Any) -> None:
    pod = read_pod(world.add_pod("p"))
    avoidance = Avoidance()
    avoidance.add(pod, "node-a", now=0.0)
    assert avoidance.nodes(pod, now=59.0)
    assert not avoidance.nodes(pod, now=60.0)
    avoidance.add(pod, "node-a", now=100.0)
    assert avoidance.nodes(pod, now=219.0)
    avoidance.forget(set, now=150.0)
    assert avoidance.nodes(pod, now=150.0)
    avoidance.forget(set, now=220.0)
    avoidance.add(pod, "node-a", now=300.0)
    assert not avoidance.nodes(pod, now=360.0)
