"""A place is given up early only when it is certain that no pod will come for it."""

from __future__ import annotations

from typing import Any

import pytest
from tessera.scheduler.move_endings import why_none_comes
from tessera.scheduler.move_records import MoveRecord, PodRef

RECORD = MoveRecord("job-1", "7", "slice", PodRef("team", "train-7", "pod-1"), "claim-1", 2e9, "train")


def pod(phase: str, uid: str = "pod-1") -> dict[str, Any]:
    return {"metadata": {"uid": uid}, "status": {"phase": phase}}


def job(uid: str = "job-1", *, metadata: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    return {"metadata": {"uid": uid} | (metadata or {}), "status": status}


def condition(kind: str, status: str = "True") -> dict[str, Any]:
    return {"conditions": [{"type": kind, "status": status}]}


@pytest.mark.parametrize(
    ("last", "of", "words"),
    [
        (pod("Succeeded"), job(), "has succeeded"),
        (None, None, "is gone"),
        (None, job("another life"), "is gone"),
        (None, job(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}), "is being deleted"),
        (None, job(**condition("Complete")), "is Complete"),
        (None, job(**condition("SuccessCriteriaMet")), "is SuccessCriteriaMet"),
        (pod("Failed"), job(**condition("FailureTarget")), "is FailureTarget"),
        (None, job(completedIndexes="0,2-9"), "completedIndexes"),
        (None, job(failedIndexes="7"), "failedIndexes"),
    ],
)
def test_nobody_comes_for_a_pod_whose_work_is_over(last: Any, of: Any, words: str) -> None:
    assert words in why_none_comes(RECORD, pod=last, job=of)


@pytest.mark.parametrize(
    ("last", "of"),
    [
        (None, job()),
        (pod("Running"), job()),
        (pod("Failed"), job()),
        (pod("Succeeded", "another pod of that name"), job()),
        (None, job(**condition("Suspended"))),
        (None, job(**condition("Complete", "False"))),
        (None, job(completedIndexes="0-6,8,70", failedIndexes="17")),
    ],
)
def test_in_doubt_a_replacement_may_still_come(last: Any, of: Any) -> None:
    assert why_none_comes(RECORD, pod=last, job=of) == ""


def test_of_a_record_without_the_name_of_its_job_only_the_pod_is_looked_at() -> None:
    old = MoveRecord("job-1", "7", "slice", PodRef("team", "train-7", "pod-1"), "claim-1", 2e9)
    assert why_none_comes(old, pod=None, job=None) == ""
    assert why_none_comes(old, pod=pod("Succeeded"), job=None) != ""
