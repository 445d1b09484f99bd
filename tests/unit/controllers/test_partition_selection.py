"""Which nodes and GPUs are whose: what a partition selects, who wins where two select one GPU, and what the
agent is told of it.
"""

from __future__ import annotations

import pytest
from tessera.controllers import gpu_node
from tessera.controllers.plan import Plan
from unit.controllers.partition_objects import (
    Object,
    cluster,
    gpu_node_object,
    gpu_report,
    judged,
    node,
    one_h100,
    partition_object,
)
from unit.controllers.plan_words import said


@pytest.mark.parametrize(
    ("selector", "matched"),
    [
        ({}, ["a", "b", "c"]),
        ({"matchLabels": {"zone": "1"}}, ["a", "b"]),
        ({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["2", "3"]}]}, ["c"]),
        ({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["2"]}]}, ["a", "b"]),
        ({"matchExpressions": [{"key": "spot", "operator": "NotIn", "values": ["n"]}]}, ["a", "b", "c"]),
        ({"matchExpressions": [{"key": "spot", "operator": "Exists"}]}, ["b"]),
        (
            {"matchLabels": {"zone": "1"}, "matchExpressions": [{"key": "spot", "operator": "DoesNotExist"}]},
            ["a"],
        ),
    ],
)
def test_node_selectors_select_as_kubernetes_does(selector: Object, matched: list[str]) -> None:
    obj = partition_object(nodeSelector=selector)
    names = ("a", "b", "c")
    view = cluster(
        [obj],
        nodes=[node("a", zone="1"), node("b", zone="1", spot="y"), node("c", zone="2")],
        gpu_nodes=[gpu_node_object(name, gpu_report(name)) for name in names],
    )
    plan = judged(obj, view)
    assert plan.status is not None
    assert plan.status["nodes"] == matched


@pytest.mark.parametrize(
    ("first", "second", "winner"),
    [
        ({"name": "old", "age": 9, "uid": "z"}, {"name": "new", "age": 1, "uid": "a"}, "old"),
        ({"name": "b", "age": 5, "uid": "2"}, {"name": "a", "age": 5, "uid": "1"}, "a"),
    ],
    ids=["the older wins", "of equal age the lower UID wins"],
)
def test_of_two_partitions_that_select_one_gpu(first: Object, second: Object, winner: str) -> None:
    both = [partition_object(**first), partition_object(**second)]
    for ordered in (both, both[::-1]):
        view = one_h100(*ordered)
        for obj in both:
            name = obj["metadata"]["name"]
            plan = judged(obj, view)
            if name == winner:
                assert said(plan, "NoConflict")[0] == "True"
                assert said(plan, "Ready")[0] == "True"
                continue
            assert said(plan, "NoConflict")[:2] == ("False", "Conflict")
            assert f"GPU 0 (GPU-n1-0) of node n1 belongs to {winner}" in said(plan, "Ready")[2]
            assert plan.status is not None
            assert plan.status["gpus"] == {"selected": 1, "owned": 0, "ready": 0}


def test_a_dry_run_conflicts_with_nobody() -> None:
    obj = partition_object()
    view = one_h100(partition_object("idle", age=9, uid="i", dryRun=True), obj)
    assert said(judged(obj, view), "Ready")[0] == "True"


def test_two_partitions_may_share_a_node_and_the_agent_learns_which_gpu_is_whose() -> None:
    first = partition_object("first", age=2, uid="1", gpus={"indexes": [0]})
    second = partition_object("second", age=1, uid="2", gpus={"indexes": [1]}, migMode="Unmanaged")
    reports = [gpu_report("n1", 0), gpu_report("n1", 1), gpu_report("n1", 2)]
    obj, other = gpu_node_object("n1", *reports), gpu_node_object("n2", gpu_report("n2"))
    view = cluster([first, second], nodes=[node("n1"), node("n2")], gpu_nodes=[obj, other])
    (child,) = gpu_node.reconcile(obj, gpus=view.gpus_by_node["n1"], owners=view.owners).children
    wanted = [
        {"uuid": "GPU-n1-0", "partition": "first", "migMode": "Enabled"},
        {"uuid": "GPU-n1-1", "partition": "second", "migMode": "Unmanaged"},
    ]
    assert child.body["spec"] == {"gpus": wanted}
    assert child.owned is False
    settled = {**obj, "spec": {"gpus": wanted[::-1]}}
    assert gpu_node.reconcile(settled, gpus=view.gpus_by_node["n1"], owners=view.owners) == Plan()
