"""What the status of a training job says while it waits, runs and is suspended."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tessera.api.heterogeneous_training_job import Progress
from tessera.api.reasons import Reason
from tessera.controllers.training_job import reconcile
from tessera.controllers.training_view import TrainingView
from unit.controllers.plan_words import NOW, said
from unit.controllers.training_objects import (
    CONDITIONS,
    DEVICE,
    SETTINGS,
    TEMPLATE,
    Object,
    claim,
    ended_pod,
    job,
    look,
    pod,
    training_job,
)

LIVE = [
    pytest.param({}, "AwaitingPlacement", "False", "tessera-scheduler", id="nothing yet"),
    pytest.param(
        {"pods": [pod(scheduled=("False", "SchedulingGated", ""))], "claims": [claim()]},
        "AwaitingPlacement",
        "False",
        "2g.20gb",
        id="the scheduler has not decided",
    ),
    pytest.param(
        {"pods": [pod()], "claims": [claim(said='{"reason":"UnknownProfile","message":"no such"}')]},
        "UnknownProfile",
        "False",
        "no such",
        id="the scheduler knows no such profile",
    ),
    pytest.param(
        {"pods": [pod()], "claims": [claim(said='{"reason":"NoGPUs","message":"look at the agents"}')]},
        "NoGPUs",
        "False",
        "look at the agents",
        id="no GPU is published",
    ),
    pytest.param(
        {
            "pods": [pod()],
            "claims": [claim(said='{"reason":"NoGPUs","message":"look at the agents"}')],
            "node_trouble": (Reason.DRIVER_MISSING, "node n1: install the driver"),
        },
        "DriverMissing",
        "False",
        "no GPU is published in this cluster; node n1: install the driver",
        id="no GPU is published, and an agent says why",
    ),
    pytest.param(
        {
            "pods": [pod()],
            "claims": [claim(said='{"reason":"Unplaceable","message":"no room"}')],
            "node_trouble": (Reason.DRIVER_MISSING, "node n1: install the driver"),
        },
        "Unplaceable",
        "False",
        "no room",
        id="GPUs are there, and a node without a driver is not the reason",
    ),
    pytest.param(
        {"pods": [pod()], "claims": [claim(said='{"reason":"Novel","message":"why"}')]},
        "Unplaceable",
        "False",
        "why",
        id="a reason that this release does not know",
    ),
    pytest.param(
        {"pods": [pod()], "claims": [claim(said="plain words")]},
        "Unplaceable",
        "False",
        "plain words",
        id="a message that is not JSON",
    ),
    pytest.param(
        {"pods": [pod(node="n1")], "claims": [claim(device=DEVICE)]},
        "Starting",
        "False",
        "starts on node n1",
        id="bound",
    ),
    pytest.param(
        {
            "pods": [pod(scheduled=("False", "Unschedulable", "0/1 nodes: Insufficient cpu"))],
            "claims": [claim(device=DEVICE)],
        },
        "Starting",
        "False",
        "Insufficient cpu",
        id="allocated but not bindable",
    ),
    pytest.param(
        {
            "pods": [
                pod(scheduled=("False", "Unschedulable", 'persistentvolumeclaim "output" not found')),
            ],
            "claims": [claim(device=DEVICE)],
        },
        "OutputClaimMissing",
        "False",
        "create the claim",
        id="the output's claim is missing",
    ),
    pytest.param(
        {
            "pods": [
                pod(node="n1", state={"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}),
            ],
            "claims": [claim(device=DEVICE)],
        },
        "ImageUnavailable",
        "False",
        "correct spec.image",
        id="the image is missing",
    ),
    pytest.param(
        {
            "pods": [pod(phase="Running", node="n1", state={"running": {}})],
            "claims": [claim(device=DEVICE)],
        },
        "Running",
        "True",
        "trains on node n1",
        id="running",
    ),
]


@pytest.mark.parametrize(("view", "reason", "status", "words"), LIVE)
def test_ready_says_what_the_job_waits_for(view: Object, reason: str, status: str, words: str) -> None:
    plan = look(training_job(), **view)
    assert said(plan, "Ready")[:2] == (status, reason)
    assert words in said(plan, "Ready")[2]
    assert plan.status is not None
    assert [c["type"] for c in plan.status["conditions"]] == CONDITIONS
    assert {c["observedGeneration"] for c in plan.status["conditions"]} == {2}


@pytest.mark.parametrize("placed", [True, False])
def test_a_missing_output_is_what_ready_says_also_while_the_slice_is_taken_back(placed: bool) -> None:
    trouble = ("False", "Unschedulable", 'persistentvolumeclaim "output" not found')
    held = claim(device=DEVICE) if placed else claim(said='{"reason":"Unplaceable","message":"tried"}')
    plan = look(training_job(), pods=[pod(scheduled=trouble)], claims=[held])
    assert said(plan, "Placed")[:2] == (("True", "Placed") if placed else ("False", "Unplaceable"))
    assert said(plan, "Ready")[:2] == ("False", "OutputClaimMissing")


def test_a_failed_prepare_is_told_in_the_agents_words_until_it_succeeds() -> None:
    why = "nvmlDeviceCreateGpuInstanceWithPlacement failed: NVML_ERROR_IN_USE; reset the GPU"
    view: Object = {"pods": [pod(node="n1")], "claims": [claim(device=DEVICE)]}
    plan = look(training_job(), prepare_failures={"claim-uid": why}, **view)
    assert said(plan, "Ready")[:2] == ("False", "PrepareFailed")
    assert f"node n1 could not cut the slice of pod pod-1: {why}; the kubelet tries" in said(plan, "Ready")[2]
    assert Reason.PREPARE_FAILED in [news.reason for news in plan.news]
    assert said(look(training_job(plan.status), **view), "Ready")[1] == "Starting"
    running = {**view, "pods": [pod(phase="Running", node="n1", state={"running": {}})]}
    assert said(look(training_job(), prepare_failures={"claim-uid": why}, **running), "Ready")[1] == "Running"
    other = look(training_job(), prepare_failures={"another": why}, **view)
    assert said(other, "Ready")[1] == "Starting"


@pytest.mark.parametrize(
    ("seconds_ago", "reason", "again"), [(59, "Starting", 1.0), (60, "StartDelayed", None)]
)
def test_a_pod_that_does_not_start_within_a_minute_is_told(
    seconds_ago: int, reason: str, again: float | None
) -> None:
    at = NOW - timedelta(seconds=seconds_ago)
    waiting = {"waiting": {"reason": "ContainerCreating", "message": "no detail"}}
    slow = pod(node="n1", scheduled=("True", "", ""), state=waiting)
    slow["status"]["conditions"][0]["lastTransitionTime"] = at.strftime("%Y-%m-%dT%H:%M:%SZ")
    slow["status"]["conditions"].append({"type": "PodReadyToStartContainers", "status": "False"})
    plan = look(training_job(), pods=[slow], claims=[claim(device=DEVICE)])
    assert said(plan, "Ready")[:2] == ("False", reason)
    assert plan.requeue_seconds == again
    if reason == "StartDelayed":
        assert said(plan, "Ready")[2] == (
            "pod pod-1 is bound to node n1 since 03:03:05 UTC and has not started: its container waits "
            "(ContainerCreating: no detail), and its sandbox (network, devices, memory for the runtime) does "
            "not exist; the kubelet's events say why: kubectl describe pod pod-1"
        )
        slow["status"]["conditions"][1]["status"] = "True"
        plan = look(training_job(), pods=[slow], claims=[claim(device=DEVICE)])
        assert "its sandbox exists: the image may still be on its way" in said(plan, "Ready")[2]


def test_the_placement_is_read_from_claim_and_resource_slice() -> None:
    view = {"pods": [pod(node="n1")], "claims": [claim(device=DEVICE)]}
    plan = look(training_job(), **view)
    assert plan.status is not None
    assert plan.status["placement"] == {
        "node": "n1",
        "gpu": "GPU-1f3c9a2e",
        "profile": "2g.20gb",
        "start": 4,
        "device": DEVICE,
        "claim": "train-0-slice-x",
    }
    later = look(training_job(plan.status), devices={}, **view)
    assert later.status is not None
    assert later.status["placement"] == plan.status["placement"], "known while the agent publishes anew"


def test_a_claim_of_an_earlier_pod_is_not_taken_for_the_new_ones() -> None:
    view = {"pods": [pod(uid="pod-2")], "claims": [claim(device=DEVICE, owner="pod-1")]}
    assert said(look(training_job(), **view), "Placed")[0] == "False"


def test_nothing_is_written_or_told_twice() -> None:
    view = {"pods": [pod()], "claims": [claim(said='{"reason":"Unplaceable","message":"full"}')]}
    first = look(training_job(), **view)
    assert [n.reason for n in first.news] == [Reason.UNPLACEABLE, Reason.ADMITTED]
    assert first.status is not None
    second = look(training_job(first.status), **view)
    assert second.status == first.status
    assert second.news == ()
    assert (second.children, second.changes) == ((), ())


def test_only_a_flip_moves_the_transition_time() -> None:
    waiting = {"pods": [pod()], "claims": [claim()]}
    first = look(training_job(), **waiting)
    assert first.status is not None
    later = NOW + timedelta(minutes=5)
    view = TrainingView(job=job(), template=TEMPLATE, pods=[pod()], claims=[claim(said="full")])
    second = reconcile(training_job(first.status), view, settings=SETTINGS, now=later)
    assert second.status is not None
    placed = next(c for c in second.status["conditions"] if c["type"] == "Placed")
    assert (placed["reason"], placed["lastTransitionTime"]) == ("Unplaceable", "2026-01-02T03:04:05Z")


def test_suspending_is_not_suspended_until_the_last_pod_is_gone() -> None:
    obj = training_job(suspend=True)
    running = [pod(phase="Running", node="n1", state={"running": {}}, deleting=True)]
    assert said(look(obj, job=job(suspend=True), pods=running), "Suspended")[:2] == ("False", "Suspending")
    plan = look(obj, job=job(suspend=True))
    assert said(plan, "Suspended")[:2] == ("True", "Suspended")
    assert said(plan, "Ready")[:2] == ("False", "Suspended")
    assert plan.status is not None
    resumed = look(training_job(plan.status), job=job(suspend=True))
    assert said(resumed, "Suspended")[:2] == ("False", "Resumed")
    assert [change.body["spec"] for change in resumed.changes] == [{"suspend": False}]


def test_a_replacement_counts_as_a_restart_and_a_resume_does_not() -> None:
    first = look(training_job(), pods=[pod(uid="a")])
    assert first.status is not None
    assert first.status["restarts"] == 0
    gone = [ended_pod(143, {"outcome": "preempted"}, uid="a"), pod(uid="b", created="2026-01-02T03:02:00Z")]
    second = look(training_job(first.status), pods=gone)
    assert second.status is not None
    assert second.status["restarts"] == 1
    assert [n.message for n in second.news if n.reason == Reason.RESTARTED] == [
        "restart 1: the worker was stopped and saved its checkpoint; the next pod continues from the last "
        "checkpoint"
    ]
    paused = look(training_job(second.status, suspend=True), job=job(suspend=True))
    assert paused.status is not None
    third = look(training_job(paused.status), pods=[pod(uid="c")])
    assert third.status is not None
    assert third.status["restarts"] == 1


def test_a_pod_that_ended_before_anybody_looked_counts_too() -> None:
    started = {"job": job(started="2026-01-02T03:00:00Z")}
    failed = ended_pod(143, {"outcome": "preempted"}, uid="a")
    second, third = (pod(uid=uid, created=f"2026-01-02T03:0{at}:00Z") for uid, at in (("b", 2), ("c", 3)))
    unseen = look(training_job(), pods=[failed, second], **started)
    assert unseen.status is not None
    assert unseen.status["restarts"] == 1
    # Seen only once it has ended, it is no restart; the pod after it is, once.
    alone = look(training_job(), pods=[failed], **started)
    assert alone.status is not None
    assert (alone.status["restarts"], alone.status["pod"]["uid"]) == (0, "a")
    later = look(training_job(alone.status), pods=[failed, second, third], **started)
    assert later.status is not None
    assert later.status["restarts"] == 2
    again = look(training_job(later.status), pods=[failed, second, third], **started)
    assert again.status == later.status


def test_a_pod_that_failed_before_a_pause_counts_no_second_time() -> None:
    paused = look(training_job(suspend=True), job=job(suspend=True), pods=[ended_pod(143, {}, uid="a")])
    assert paused.status is not None
    assert "pod" not in paused.status
    resumed = look(
        training_job(paused.status),
        job=job(started="2026-01-02T03:04:00Z"),
        pods=[ended_pod(143, {}, uid="a"), pod(uid="b", created="2026-01-02T03:04:01Z")],
    )
    assert resumed.status is not None
    assert resumed.status["restarts"] == 0


def test_the_slice_held_last_is_known_when_its_claim_is_freed_before_the_job_has_counted_the_end() -> None:
    held = look(training_job(), job=job(), pods=(pod(node="n1"),), claims=(claim(device=DEVICE),))
    assert held.status is not None
    freed = look(training_job(held.status), job=job(), pods=(ended_pod(0),), claims=(claim(),))
    assert freed.status is not None
    assert freed.status["placement"]["device"] == DEVICE
    assert said(freed, "Placed")[:2] == ("False", Reason.FINISHING)
    assert said(freed, "Running")[:2] == ("False", Reason.FINISHING)


def test_a_replacement_does_not_claim_the_slice_of_the_pod_before_it() -> None:
    held = look(training_job(), job=job(), pods=(pod(node="n1"),), claims=(claim(device=DEVICE),))
    after = look(
        training_job(held.status), job=job(), pods=(pod(uid="pod-2"),), claims=(claim(owner="pod-2"),)
    )
    assert after.status is not None
    assert "placement" not in after.status


def test_progress_comes_from_the_worker_and_stays_while_it_is_silent() -> None:
    heard = look(training_job(), progress=Progress(step=3, steps=9, loss=0.5, phase="train"))
    assert heard.status is not None
    assert heard.status["progress"] == {"phase": "train", "step": 3, "steps": 9, "loss": 0.5}
    silent = look(training_job(heard.status))
    assert silent.status is not None
    assert silent.status["progress"] == heard.status["progress"]
