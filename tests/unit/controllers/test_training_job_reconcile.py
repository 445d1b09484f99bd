"""What a training job's status says in every situation, and what is made, changed and deleted for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tessera.api.heterogeneous_training_job import Progress
from tessera.api.reasons import Reason
from tessera.controllers.plan import Plan, Terminal
from tessera.controllers.training_job import blocked, reconcile
from tessera.controllers.training_view import TrainingView
from tessera.controllers.worker_pod import WorkerSettings

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SETTINGS = WorkerSettings(image="tessera/worker:1")
CONDITIONS = ["Ready", "Admitted", "Placed", "Running", "Suspended", "Complete", "Failed"]

Object = dict[str, Any]


def training_job(status: Mapping[str, Any] | None = None, **spec: Any) -> Object:
    return {
        "apiVersion": "tessera.dev/v1alpha1",
        "kind": "HeterogeneousTrainingJob",
        "metadata": {"name": "train", "namespace": "default", "uid": "htj-uid", "generation": 2},
        "spec": {"workload": {"name": "noiser"}, "resources": {"slice": {"profile": "2g.20gb"}}, **spec},
        **({"status": status} if status else {}),
    }


def job(*, ended: str | None = None, reason: str = "", **spec: Any) -> Object:
    conditions = []
    if ended:
        conditions.append(
            {"type": ended, "status": "True", "reason": reason, "lastTransitionTime": "2026-01-02T03:00:00Z"}
        )
    return {
        "metadata": {"name": "train", "namespace": "default", "uid": "job-uid"},
        "spec": {"suspend": False, "backoffLimit": 3, **spec},
        "status": {"conditions": conditions},
    }


TEMPLATE: Object = {"metadata": {"name": "train", "namespace": "default"}}


def pod(
    *,
    uid: str = "pod-1",
    phase: str = "Pending",
    state: Mapping[str, Any] | None = None,
    node: str | None = None,
    scheduled: tuple[str, str, str] | None = None,
    created: str = "2026-01-02T03:00:00Z",
    deleting: bool = False,
) -> Object:
    status: Object = {"phase": phase}
    if state is not None:
        status["containerStatuses"] = [{"name": "worker", "state": dict(state)}]
    if scheduled is not None:
        value, reason, message = scheduled
        status["conditions"] = [
            {"type": "PodScheduled", "status": value, "reason": reason, "message": message}
        ]
    metadata: Object = {"name": uid, "namespace": "default", "uid": uid, "creationTimestamp": created}
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-02T03:01:00Z"
    return {"metadata": metadata, "spec": {"nodeName": node} if node else {}, "status": status}


def ended_pod(exit_code: int, message: object = "", *, reason: str = "Error", uid: str = "pod-1") -> Object:
    text = message if isinstance(message, str) else json.dumps(message)
    return pod(
        uid=uid,
        phase="Succeeded" if exit_code == 0 else "Failed",
        node="n1",
        state={
            "terminated": {
                "exitCode": exit_code,
                "reason": reason,
                "message": text,
                "finishedAt": "2026-01-02T03:00:00Z",
            }
        },
    )


def claim(*, device: str | None = None, said: str | None = None, owner: str = "pod-1") -> Object:
    metadata: Object = {
        "name": "train-0-slice-x",
        "namespace": "default",
        "ownerReferences": [{"uid": owner}],
        "annotations": {"tessera.dev/placement-message": said} if said is not None else {},
    }
    status: Object = {}
    if device is not None:
        results = [{"request": "slice", "driver": "gpu.tessera.dev", "pool": "n1", "device": device}]
        status = {"allocation": {"devices": {"results": results}}}
    return {"metadata": metadata, "status": status}


DEVICE = "gpu-1f3c9a2e-2g-20gb-4"
DEVICES: dict[tuple[str, str], Mapping[str, Any]] = {
    ("n1", DEVICE): {
        "name": DEVICE,
        "attributes": {
            "gpuUUID": {"string": "GPU-1f3c9a2e"},
            "profile": {"string": "2g.20gb"},
            "start": {"int": 4},
        },
    }
}


def look(obj: Object, **view: Any) -> Plan:
    known = {"job": job(), "template": TEMPLATE, "devices": DEVICES, **view}
    return reconcile(obj, TrainingView(**known), settings=SETTINGS, now=NOW)


def said(plan: Plan, type: str) -> tuple[str, str, str]:
    assert plan.status is not None
    found = {c["type"]: c for c in plan.status["conditions"]}[type]
    return found["status"], found["reason"], found["message"]


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


INVALID = {"outcome": "invalid", "message": "unknown workload noisr; did you mean noiser?"}
FAILED = [
    pytest.param(2, INVALID, "PodFailurePolicy", "InvalidWorkload", "did you mean noiser", id="exit 2"),
    pytest.param(3, {"message": "ssim"}, "PodFailurePolicy", "CheckFailed", "result.json", id="exit 3"),
    pytest.param(42, {}, "PodFailurePolicy", "GPUOutOfMemory", "larger slice than 2g.20gb", id="exit 42"),
    pytest.param(1, "Traceback", "BackoffLimitExceeded", "BackoffLimitExceeded", "Traceback", id="exit 1"),
    pytest.param(1, "?", "Other", "JobFailed", "Other", id="a reason of the Job that we do not know"),
    pytest.param(143, {}, "DeadlineExceeded", "DeadlineExceeded", "activeDeadlineSeconds", id="deadline"),
]


@pytest.mark.parametrize(("code", "message", "job_reason", "reason", "words"), FAILED)
def test_a_failed_job_says_why_and_what_to_do(
    code: int, message: object, job_reason: str, reason: str, words: str
) -> None:
    plan = look(training_job(), job=job(ended="Failed", reason=job_reason), pods=[ended_pod(code, message)])
    assert said(plan, "Failed")[:2] == ("True", reason)
    assert said(plan, "Ready")[:2] == ("False", reason)
    assert words in said(plan, "Failed")[2]
    assert [(n.type, n.reason) for n in plan.news if n.reason == reason] == [("Warning", Reason(reason))]


def test_a_worker_that_used_too_much_host_memory_is_told_apart_from_other_kills() -> None:
    view = {"job": job(ended="Failed", reason="BackoffLimitExceeded")}
    plan = look(training_job(), pods=[ended_pod(137, reason="OOMKilled")], **view)
    assert said(plan, "Failed")[1] == "HostOutOfMemory"
    assert "spec.resources.hostMemory" in said(plan, "Failed")[2]
    plan = look(training_job(), pods=[ended_pod(137, reason="Error")], **view)
    assert said(plan, "Failed")[1] == "BackoffLimitExceeded"


def test_a_job_whose_pods_are_gone_still_says_how_it_failed() -> None:
    plan = look(training_job(), job=job(ended="Failed", reason="FailedIndexes"))
    assert said(plan, "Failed")[:2] == ("True", "JobFailed")
    assert "FailedIndexes" in said(plan, "Failed")[2]


def test_a_complete_job_shows_what_the_worker_measured() -> None:
    words = {
        "outcome": "complete",
        "step": 50,
        "steps": 50,
        "checks": {"passed": 3, "failed": 0},
        "metrics": {"gain": 0.4, "name": "x", "flag": True, "broken": float("nan")},
        "resultPath": "/output/train/result.json",
    }
    obj = training_job({"placement": {"node": "n1", "device": DEVICE}, "progress": {"step": 40, "loss": 0.5}})
    plan = look(obj, job=job(ended="Complete"), pods=[ended_pod(0, words)])
    assert said(plan, "Complete")[:2] == ("True", "Complete")
    assert plan.status is not None
    assert plan.status["result"]["metrics"] == {"gain": 0.4}
    assert plan.status["result"]["checks"] == {"passed": 3, "failed": 0}
    assert plan.status["progress"] == {"step": 50, "steps": 50, "loss": 0.5, "etaSeconds": 0.0}
    assert plan.status["placement"]["device"] == DEVICE, "the slice it held stays visible"


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


def test_children_are_made_once_template_first() -> None:
    plan = look(training_job(), job=None, template=None)
    assert [child.resource.kind for child in plan.children] == ["ResourceClaimTemplate", "Job"]
    for child in plan.children:
        assert child.body["metadata"]["ownerReferences"][0]["uid"] == "htj-uid"
    assert look(training_job()).children == ()


def test_limits_that_changed_reach_the_job_and_nothing_else_does() -> None:
    obj = training_job(backoffLimit=5, activeDeadlineSeconds=60)
    (change,) = look(obj).changes
    assert change.body["spec"] == {"backoffLimit": 5, "activeDeadlineSeconds": 60}
    (change,) = look(training_job(), job=job(activeDeadlineSeconds=60)).changes
    assert change.body["spec"] == {"activeDeadlineSeconds": None}


def test_a_job_that_has_ended_is_never_started_again() -> None:
    ended = look(training_job(), job=job(ended="Failed", reason="x"), pods=[ended_pod(3)])
    assert ended.status is not None
    plan = look(training_job(ended.status), job=None, template=None)
    assert plan == Plan()


@pytest.mark.parametrize("type", ["Complete", "Failed"])
def test_time_to_live_counts_from_the_end(type: str) -> None:
    conditions = [
        {"type": type, "status": "True", "reason": "x", "lastTransitionTime": "2026-01-02T03:00:00Z"}
    ]
    status = {"conditions": conditions}
    waiting = look(training_job(status, ttlSecondsAfterFinished=300), job=None)
    assert (waiting.delete, waiting.requeue_seconds) == (False, 55.0)
    due = look(training_job(status, ttlSecondsAfterFinished=245), job=None)
    assert due.delete is True
    assert [n.reason for n in due.news] == [Reason.EXPIRED]
    assert look(training_job(status), job=None) == Plan()


@pytest.mark.parametrize(
    ("value", "words"),
    [([1], "not a list"), ({"a": 1}, "not an object"), (None, "not nothing (null)")],
)
def test_a_parameter_of_a_wrong_type_fails_the_job_before_it_has_children(value: object, words: str) -> None:
    obj = training_job(workload={"name": "noiser", "parameters": {"x": value}})
    plan = look(obj, job=None, template=None)
    assert plan.children == ()
    assert said(plan, "Failed")[:2] == ("True", "InvalidWorkload")
    assert (
        f"spec.workload.parameters.x: a parameter is a string, a number or a boolean, {words}"
        in said(plan, "Failed")[2]
    )


def test_an_object_that_no_schema_of_this_release_admits_is_a_condition_and_not_a_crash() -> None:
    plan = look(training_job(resources={"slice": {"profile": "two"}}), job=None)
    assert said(plan, "Failed")[:2] == ("True", "InvalidWorkload")
    assert "spec.resources.slice.profile" in said(plan, "Failed")[2]


def test_a_child_that_cannot_be_made_is_a_condition_and_is_tried_again() -> None:
    plan = blocked(training_job(), Terminal(Reason.NAME_TAKEN, "Job train exists"), now=NOW)
    assert said(plan, "Admitted") == ("False", "NameTaken", "Job train exists")
    assert said(plan, "Failed")[0] == "False"
    assert plan.requeue_seconds


def test_an_object_that_is_being_deleted_is_left_to_the_garbage_collector() -> None:
    obj = training_job()
    obj["metadata"]["deletionTimestamp"] = "2026-01-02T03:00:00Z"
    assert look(obj, job=None, template=None) == Plan()


@pytest.mark.parametrize(
    "message",
    [
        '{"metrics": {"loss": NaN, "gain": Infinity, "kept": 1.5}}',
        '{"metrics": {"huge": 1' + "0" * 400 + ', "kept": 1.5}}',
        '{"metrics": {"' + "n" * 200 + '": 1, "": 2, "kept": 1.5}}',
        '{"step": 9223372036854775808, "checks": {"passed": 1e400}, "metrics": {"kept": 1.5}}',
        r'{"message": "\ud800", "resultPath": "\udfff", "outcome": "\ud800", "metrics": {"kept": 1.5}}',
    ],
    ids=["no numbers", "beyond a float", "names", "beyond int64", "half characters"],
)
def test_what_a_last_word_says_wrongly_is_left_out_and_the_rest_is_stored(message: str) -> None:
    plan = look(training_job(), job=job(ended="Complete"), pods=[ended_pod(0, message)])
    assert plan.status is not None
    assert plan.status["result"]["metrics"] == {"kept": 1.5}
    assert not plan.status.get("progress", {}).get("step")
    json.dumps(plan.status, allow_nan=False, ensure_ascii=False).encode()


def test_a_result_keeps_as_many_metrics_as_the_schema_allows() -> None:
    message = {"metrics": {f"m{number:03}": number for number in range(100)}}
    plan = look(training_job(), job=job(ended="Complete"), pods=[ended_pod(0, message)])
    assert plan.status is not None
    assert list(plan.status["result"]["metrics"]) == [f"m{number:03}" for number in range(64)]


def test_a_last_word_that_is_nested_too_deeply_is_a_plain_message() -> None:
    plan = look(training_job(), job=job(ended="Complete"), pods=[ended_pod(0, "[" * 4000)])
    assert plan.status is not None
    assert plan.status["result"]["message"] == "[" * 4000
