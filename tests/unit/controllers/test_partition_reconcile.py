"""What a partition's status says: what it selects, what it has, how full it is, and what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from tessera.api.reasons import Reason
from tessera.controllers import gpu_node, partition
from tessera.controllers.gpu_view import GPU, gpus_of
from tessera.controllers.partition import ClusterView
from tessera.controllers.plan import Plan
from tessera.controllers.selection import owners

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
Object = dict[str, Any]

# (profile, starts, memory slices, compute slices) of two models, from the table of MIG profiles.
H100 = (
    ("1g.10gb", range(7), 1, 1),
    ("2g.20gb", (0, 2, 4), 2, 2),
    ("3g.40gb", (0, 4), 4, 3),
    ("4g.40gb", (0,), 4, 4),
    ("7g.80gb", (0,), 8, 7),
)
A30 = (("1g.6gb", range(4), 1, 1), ("4g.24gb", (0,), 4, 4))


def uuid_of(node: str, index: int) -> str:
    return f"GPU-{node}-{index}"


def device_name(node: str, index: int, profile: str, start: int) -> str:
    return f"gpu-{node}{index}-{profile.replace('.', '-')}-{start}"


def resource_slices(node: str, index: int, table: Sequence[Any], *, generation: int = 1) -> list[Object]:
    """Counters first, then devices, as the agent publishes one GPU."""
    slices = table[-1][2]
    counter_set = f"gpu-{node}{index}"
    counters: Object = {f"memory-slice-{i}": {"value": "1"} for i in range(slices)}
    counters["compute-slices"] = {"value": str(table[-1][3])}
    devices = []
    for profile, starts, width, compute in table:
        for start in starts:
            used: Object = {f"memory-slice-{i}": {"value": "1"} for i in range(start, start + width)}
            used["compute-slices"] = {"value": str(compute)}
            attributes = {
                "profile": {"string": profile},
                "start": {"int": start},
                "memorySlices": {"int": width},
                "computeSlices": {"int": compute},
                "gpuUUID": {"string": uuid_of(node, index)},
            }
            devices.append(
                {
                    "name": device_name(node, index, profile, start),
                    "attributes": attributes,
                    "consumesCounters": [{"counterSet": counter_set, "counters": used}],
                }
            )
    pool = {"name": node, "generation": generation}
    common = {"driver": "gpu.tessera.dev", "pool": pool}
    return [
        {"spec": {**common, "sharedCounters": [{"name": counter_set, "counters": counters}]}},
        {"spec": {**common, "devices": devices}},
    ]


def node(name: str, **labels: str) -> Object:
    return {"metadata": {"name": name, "labels": labels}}


def gpu_report(name: str, index: int = 0, model: str = "H100-80GB", **fields: Any) -> Object:
    slices = 4 if model.startswith("A30") else 8
    return {
        "index": index,
        "uuid": uuid_of(name, index),
        "model": model,
        "migMode": "Enabled",
        "memorySlices": slices,
        "healthy": True,
        "instances": [],
        **fields,
    }


def gpu_node_object(
    name: str, *gpus: Object, ready: tuple[str, str, str] | None = ("True", "Published", "")
) -> Object:
    conditions = []
    if ready is not None:
        conditions = [{"type": "Ready", "status": ready[0], "reason": ready[1], "message": ready[2]}]
    return {
        "metadata": {"name": name, "uid": f"uid-{name}"},
        "status": {"conditions": conditions, "gpus": list(gpus)},
    }


def partition_object(name: str = "p", *, age: int = 0, uid: str = "uid-p", **spec: Any) -> Object:
    return {
        "apiVersion": "tessera.dev/v1alpha1",
        "kind": "MIGPartition",
        "metadata": {
            "name": name,
            "uid": uid,
            "generation": 1,
            "creationTimestamp": f"2026-01-01T00:00:{59 - age:02d}Z",
        },
        "spec": spec,
    }


def claim_on(name: str, device: str) -> Object:
    results = [{"driver": "gpu.tessera.dev", "pool": name, "device": device}]
    return {"status": {"allocation": {"devices": {"results": results}}}}


def cluster(
    partitions: Sequence[Object],
    *,
    nodes: Sequence[Object] = (),
    gpu_nodes: Sequence[Object] = (),
    slices: Sequence[Object] = (),
    claims: Sequence[Object] = (),
) -> ClusterView:
    gpus: tuple[GPU, ...] = gpus_of(gpu_nodes, slices, claims)
    by_name: Mapping[str, Object] = {item["metadata"]["name"]: item for item in gpu_nodes}
    return ClusterView(nodes=nodes, gpu_nodes=by_name, gpus=gpus, owners=owners(partitions, nodes, gpus))


def one_h100(*partitions: Object, **more: Any) -> ClusterView:
    return cluster(
        partitions,
        nodes=[node("n1", pool="a")],
        gpu_nodes=[gpu_node_object("n1", gpu_report("n1"))],
        slices=resource_slices("n1", 0, H100),
        **more,
    )


def said(plan: Plan, type: str) -> tuple[str, str, str]:
    assert plan.status is not None
    found = {c["type"]: c for c in plan.status["conditions"]}[type]
    return found["status"], found["reason"], found["message"]


def judged(obj: Object, view: ClusterView) -> Plan:
    return partition.reconcile(obj, view, now=NOW)


def test_a_partition_that_works_says_what_it_has_and_what_fits() -> None:
    obj = partition_object()
    view = one_h100(obj, claims=[claim_on("n1", device_name("n1", 0, "3g.40gb", 4))])
    plan = judged(obj, view)
    assert said(plan, "Ready") == ("True", "Partitioned", "1 GPU(s) on 1 node(s) are cut on demand")
    assert plan.status is not None
    assert plan.status["gpus"] == {"selected": 1, "owned": 1, "ready": 1}
    assert plan.status["largestPlaceable"] == "4g.40gb"
    assert (plan.status["inUse"], plan.status["freeMemorySlices"]) == (1, 4)
    by_profile = {item["profile"]: item for item in plan.status["slices"]}
    assert by_profile["3g.40gb"] == {"profile": "3g.40gb", "inUse": 1, "warm": 0, "placeable": 1}
    assert by_profile["7g.80gb"]["placeable"] == 0


NO_DRIVER = ("False", "DriverMissing", "libnvidia-ml.so.1 is not found; install the NVIDIA driver")
WRONG = [
    pytest.param(
        {"nodeSelector": {"matchLabels": {"pool": "b"}}}, {}, "NoNodesSelected", "--show-labels", id="no node"
    ),
    pytest.param(
        {"gpus": {"models": ["H200-141GB"]}}, {}, "NoGPUsSelected", "H100-80GB (index 0)", id="model"
    ),
    pytest.param({"gpus": {"indexes": [5]}}, {}, "NoGPUsSelected", "spec.gpus matches none", id="index"),
    pytest.param(
        {"mode": "static", "static": {"layout": [{"profile": "3g.40gb"}]}},
        {},
        "StaticNotSupported",
        "those that it selects are cut on demand like any other; set spec.mode to dynamic",
        id="static",
    ),
    pytest.param({}, {"gpu_nodes": []}, "GPUNodeMissing", "tessera-agent", id="no agent"),
    pytest.param(
        {},
        {"gpu_nodes": [gpu_node_object("n1", ready=NO_DRIVER)]},
        "DriverMissing",
        "node n1: libnvidia-ml.so.1 is not found; install the NVIDIA driver",
        id="no driver",
    ),
    pytest.param({}, {"gpu_nodes": [gpu_node_object("n1")]}, "NoGPUsSelected", "report no GPU", id="no GPU"),
    pytest.param(
        {},
        {"gpu_nodes": [gpu_node_object("n1", gpu_report("n1"), ready=None)]},
        "Reconciling",
        "has not reported",
        id="no report",
    ),
    pytest.param(
        {},
        {"gpu_nodes": [gpu_node_object("n1", gpu_report("n1", healthy=False))]},
        "GPUUnhealthy",
        "kubectl describe gn n1",
        id="sick GPU",
    ),
    pytest.param(
        {},
        {"gpu_nodes": [gpu_node_object("n1", gpu_report("n1", migMode="EnablePending"))]},
        "MIGDisabled",
        "MIG mode is EnablePending",
        id="MIG is off",
    ),
    pytest.param(
        {"dynamic": {"reserves": [{"profile": "2g.25gb"}]}},
        {},
        "UnknownProfile",
        "has a profile 2g.25gb (did you mean 2g.20gb?); H100-80GB has ",
        id="unknown profile",
    ),
    pytest.param(
        {"dynamic": {"reserves": [{"profile": "9g.999999gb"}]}},
        {},
        "UnknownProfile",
        "has a profile 9g.999999gb; H100-80GB has ",
        id="unknown profile without a near name",
    ),
    pytest.param(
        {"dynamic": {"reserves": [{"profile": "1g.6gb"}]}, "gpus": {"models": ["H100-80GB"]}},
        {
            "gpu_nodes": [gpu_node_object("n1", gpu_report("n1"), gpu_report("n1", 1, "A30-24GB"))],
            "slices": resource_slices("n1", 0, H100) + resource_slices("n1", 1, A30),
        },
        "IllegalProfile",
        "H100-80GB (GPU 0 of node n1) has no profile 1g.6gb; it has 1g.10gb, 2g.20gb",
        id="profile of another model",
    ),
]


@pytest.mark.parametrize(("spec", "surroundings", "reason", "words"), WRONG)
def test_ready_says_what_is_wrong_and_what_to_do(
    spec: Object, surroundings: Object, reason: str, words: str
) -> None:
    obj = partition_object(**spec)
    known = {
        "nodes": [node("n1", pool="a")],
        "gpu_nodes": [gpu_node_object("n1", gpu_report("n1"))],
        "slices": resource_slices("n1", 0, H100),
        **surroundings,
    }
    plan = judged(obj, cluster([obj], **known))
    assert said(plan, "Ready")[:2] == ("False", reason)
    assert words in said(plan, "Ready")[2]
    assert plan.status is not None
    assert [c["type"] for c in plan.status["conditions"]] == [
        "Ready",
        "NoConflict",
        "ProfilesValid",
        "ReservesMet",
    ]


def test_a_start_that_does_not_exist_names_the_ones_that_do() -> None:
    obj = partition_object(mode="static", static={"layout": [{"profile": "3g.40gb", "start": 2}]})
    plan = judged(obj, one_h100(obj))
    assert said(plan, "ProfilesValid") == (
        "False",
        "IllegalStart",
        "3g.40gb cannot begin at memory slice 2 of H100-80GB; it can at 0, 4",
    )


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


@pytest.mark.parametrize(
    "idle",
    [
        partition_object("idle", age=9, uid="i", dryRun=True),
        partition_object("idle", age=9, uid="i", mode="static", static={"layout": [{"profile": "1g.10gb"}]}),
    ],
    ids=["dry run", "static"],
)
def test_a_partition_that_takes_nothing_conflicts_with_nobody(idle: Object) -> None:
    obj = partition_object()
    view = one_h100(idle, obj)
    assert said(judged(obj, view), "Ready")[0] == "True"


def test_a_dry_run_shows_what_it_would_take() -> None:
    obj = partition_object(dryRun=True)
    plan = judged(obj, one_h100(obj))
    assert said(plan, "Ready")[:2] == ("True", "DryRun")
    assert "1 GPU(s) on 1 node(s) would be taken" in said(plan, "Ready")[2]


@pytest.mark.parametrize(
    ("reserve", "held", "met"),
    [
        ({"profile": "3g.40gb", "count": 2}, [], True),
        ({"profile": "3g.40gb", "count": 2}, [("1g.10gb", 5)], False),
        ({"profile": "1g.10gb", "count": 7}, [], True),
        ({"profile": "1g.10gb", "count": 8}, [], False),
        ({"profile": "2g.20gb", "count": 3}, [], True),
        ({"profile": "2g.20gb", "count": 2}, [("4g.40gb", 0)], False),
        ({"profile": "1g.10gb", "count": 3}, [("4g.40gb", 0)], True),
    ],
)
def test_reserves_are_counted_against_the_free_room(
    reserve: Object, held: list[tuple[str, int]], met: bool
) -> None:
    obj = partition_object(dynamic={"reserves": [reserve]})
    claims = [claim_on("n1", device_name("n1", 0, profile, start)) for profile, start in held]
    plan = judged(obj, one_h100(obj, claims=claims))
    assert said(plan, "ReservesMet")[0] == ("True" if met else "False")
    assert said(plan, "Ready")[0] == "True", "a reserve that is not met stops nobody"


def test_a_foreign_instance_takes_room_and_is_nobodys_slice() -> None:
    obj = partition_object()
    instance = {"device": device_name("n1", 0, "4g.40gb", 0), "profile": "4g.40gb", "state": "Foreign"}
    view = cluster(
        [obj],
        nodes=[node("n1")],
        gpu_nodes=[gpu_node_object("n1", gpu_report("n1", instances=[instance]))],
        slices=resource_slices("n1", 0, H100),
    )
    plan = judged(obj, view)
    assert plan.status is not None
    assert (plan.status["inUse"], plan.status["largestPlaceable"]) == (0, "3g.40gb")


def test_slices_of_an_older_generation_do_not_count() -> None:
    old = resource_slices("n1", 0, A30, generation=1)
    new = resource_slices("n1", 0, H100, generation=2)
    (gpu,) = gpus_of([gpu_node_object("n1", gpu_report("n1"))], old + new, [])
    assert "1g.6gb" not in gpu.profiles()


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


def test_two_partitions_may_share_a_node_and_the_agent_learns_which_gpu_is_whose() -> None:
    first = partition_object("first", age=2, uid="1", gpus={"indexes": [0]})
    second = partition_object("second", age=1, uid="2", gpus={"indexes": [1]}, migMode="Unmanaged")
    reports = [gpu_report("n1", 0), gpu_report("n1", 1), gpu_report("n1", 2)]
    obj, other = gpu_node_object("n1", *reports), gpu_node_object("n2", gpu_report("n2"))
    view = cluster([first, second], nodes=[node("n1"), node("n2")], gpu_nodes=[obj, other])
    (child,) = gpu_node.reconcile(obj, gpus=view.gpus, owners=view.owners).children
    wanted = [
        {"uuid": "GPU-n1-0", "partition": "first", "mode": "dynamic", "migMode": "Enabled"},
        {"uuid": "GPU-n1-1", "partition": "second", "mode": "dynamic", "migMode": "Unmanaged"},
    ]
    assert child.body["spec"] == {"gpus": wanted}
    assert child.owned is False
    settled = {**obj, "spec": {"gpus": wanted[::-1]}}
    assert gpu_node.reconcile(settled, gpus=view.gpus, owners=view.owners) == Plan()


def test_news_are_told_once() -> None:
    obj = partition_object()
    first = judged(obj, one_h100(obj))
    assert [item.reason for item in first.news] == [Reason.PARTITIONED]
    again = judged({**obj, "status": first.status}, one_h100(obj))
    assert again.news == ()
    assert again.status == first.status
