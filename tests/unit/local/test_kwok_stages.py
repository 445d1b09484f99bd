"""Simulated nodes treat the pods of Jobs as real ones do; everything else is upstream's."""

from __future__ import annotations

from typing import Any

from tessera.local.kwok import DURATION_ANNOTATION, UPSTREAM_STAGES, read_upstream_stages, stages

UPSTREAM = read_upstream_stages()
STAGES = {stage["metadata"]["name"]: stage for stage in stages(UPSTREAM)}


def conditions(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = STAGES[name]["spec"]["selector"]["matchExpressions"]
    return found


def test_all_of_upstream_is_there_and_two_stages_more() -> None:
    assert len(STAGES) == len(UPSTREAM_STAGES) + 2
    assert STAGES["node-initialize"] == UPSTREAM[0]


def test_upstream_is_not_changed_in_place() -> None:
    assert stages(UPSTREAM) == stages(UPSTREAM)


def test_a_job_runs_as_long_as_its_annotation_says() -> None:
    delay = STAGES["pod-complete"]["spec"]["delay"]
    assert DURATION_ANNOTATION in delay["durationFrom"]["expressionFrom"]


def test_exactly_one_stage_applies_to_a_deleted_pod() -> None:
    """KWOK draws among the stages that match, so overlapping ones would make the outcome a matter of luck."""
    owner = {
        name: next(each for each in conditions(name) if "ownerReferences" in each["key"])["operator"]
        for name in ("pod-delete", "job-pod-fails", "job-pod-delete")
    }
    assert owner == {"pod-delete": "NotIn", "job-pod-fails": "In", "job-pod-delete": "In"}
    phases = [
        set(each["values"])
        for name in ("job-pod-fails", "job-pod-delete")
        for each in conditions(name)
        if each["key"] == ".status.phase"
    ]
    assert phases == [{"Pending", "Running"}, {"Failed", "Succeeded"}]
