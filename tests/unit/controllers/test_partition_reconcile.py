"""What a partition's status says: what it has, how full it is, and what is wrong."""

from __future__ import annotations

import pytest
from tessera.api.reasons import Reason
from tessera.controllers.gpu_view import gpus_of
from unit.controllers.partition_objects import (
    A30,
    H100,
    Object,
    claim_on,
    cluster,
    device_name,
    gpu_node_object,
    gpu_report,
    judged,
    node,
    one_h100,
    partition_object,
    resource_slices,
)
from unit.controllers.plan_words import said


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
        "MIG mode is EnablePending; `kubectl describe gn n1` says what is in the way",
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
    ("mode", "ready"),
    [
        (
            "Disabled",
            (
                "True",
                "Partitioned",
                "1 GPU(s) on 1 node(s) are offered as a whole, because MIG mode is off",
            ),
        ),
        (
            "DisablePending",
            (
                "False",
                "Reconciling",
                "GPU 0 of node n1: MIG mode is DisablePending and is to be switched off; `kubectl describe "
                "gn n1` says what is in the way",
            ),
        ),
        ("Enabled", ("False", "Updating", "0 of 1 nodes have MIG mode off; in change: n1")),
    ],
)
def test_a_partition_that_wants_mig_off_is_ready_when_it_is_off(
    mode: str, ready: tuple[str, str, str]
) -> None:
    obj = partition_object(migMode="Disabled")
    report = gpu_report("n1", migMode=mode, layout={"state": "Applied"})
    reported = gpu_node_object("n1", report)
    reported["spec"] = {"gpus": [{"uuid": report["uuid"], "partition": "p", "migMode": "Disabled"}]}
    plan = judged(obj, cluster([obj], nodes=[node("n1")], gpu_nodes=[reported]))
    assert said(plan, "Ready") == ready


def test_a_partition_counts_gpus_that_are_offered_as_a_whole() -> None:
    obj = partition_object(migMode="Unmanaged")
    whole = gpu_report("n1", 1, migMode="Disabled")
    slices = resource_slices("n1", 0, H100) + resource_slices("n1", 1, [("gpu", (0,), 8, 7)])
    held = claim_on("n1", device_name("n1", 1, "gpu", 0))
    nodes = [gpu_node_object("n1", gpu_report("n1"), whole)]
    plan = judged(obj, cluster([obj], nodes=[node("n1")], gpu_nodes=nodes, slices=slices, claims=[held]))
    assert said(plan, "Ready") == (
        "True",
        "Partitioned",
        "2 GPU(s) on 1 node(s) are cut on demand, but for 1 whose MIG mode is off: offered as a whole",
    )
    assert plan.status is not None
    assert plan.status["gpus"]["ready"] == 2
    counted = {item["profile"]: (item["inUse"], item["placeable"]) for item in plan.status["slices"]}
    assert (counted["gpu"], counted["7g.80gb"]) == ((1, 0), (0, 1))


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


@pytest.mark.parametrize("key", ["unhealthy", "leaving", "foreign-instance", "managed"])
def test_there_is_no_room_on_devices_that_the_agent_bars(key: str) -> None:
    obj = partition_object(dynamic={"reserves": [{"profile": "7g.80gb", "count": 1}]})
    slices = resource_slices("n1", 0, H100)
    for device in slices[1]["spec"]["devices"]:
        device["taints"] = [{"key": f"tessera.dev/{key}", "value": "lost", "effect": "NoExecute"}]
    view = cluster(
        [obj],
        nodes=[node("n1")],
        gpu_nodes=[gpu_node_object("n1", gpu_report("n1"))],
        slices=slices,
    )
    assert said(judged(obj, view), "ReservesMet")[0] == ("True" if key == "managed" else "False")


def test_a_foreign_instance_takes_room_and_is_nobodys_slice() -> None:
    obj = partition_object()
    device = device_name("n1", 0, "4g.40gb", 0)
    instance = {"device": device, "profile": "4g.40gb", "start": 0, "state": "Foreign"}
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


def test_news_are_told_once() -> None:
    obj = partition_object()
    first = judged(obj, one_h100(obj))
    assert [item.reason for item in first.news] == [Reason.PARTITIONED]
    again = judged({**obj, "status": first.status}, one_h100(obj))
    assert again.news == ()
    assert again.status == first.status


def test_who_else_manages_the_gpus_is_worth_an_event() -> None:
    obj = partition_object()
    report = gpu_node_object("n1", gpu_report("n1"), ready=("False", "ManagedByOthers", "remove it"))
    plan = judged(obj, cluster([obj], nodes=[node("n1")], gpu_nodes=[report]))
    assert [(item.type, item.message) for item in plan.news] == [("Warning", "node n1: remove it")]
