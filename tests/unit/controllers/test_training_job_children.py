"""What is made, changed and deleted for a training job, and what is not."""

from __future__ import annotations

import pytest
from tessera.api.reasons import Reason
from tessera.controllers.plan import Plan, Terminal
from tessera.controllers.training_job import blocked
from unit.controllers.plan_words import NOW, said
from unit.controllers.training_objects import ended_pod, job, look, training_job


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
