"""How a training job ends, and what is kept of the last words of its worker."""

from __future__ import annotations

import json

import pytest
from tessera.api.reasons import Reason
from unit.controllers.plan_words import said
from unit.controllers.training_objects import DEVICE, ended_pod, job, look, training_job

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
