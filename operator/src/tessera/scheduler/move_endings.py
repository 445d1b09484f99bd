"""Whether a pod comes in the place of one that has left, by what its Job says. Pure.

A place is held for minutes, because a Job controller takes its time. But a pod that has succeeded is not
replaced, and neither is one whose Job is over: then the place is free for others at once. In doubt a
replacement may still come, of a suspended Job for instance; the deadline of the record ends the wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tessera.scheduler.move_records import MoveRecord

_OVER = frozenset({"Complete", "Failed", "SuccessCriteriaMet", "FailureTarget"})
"""Conditions after which a Job controller makes no more pods."""


def why_none_comes(
    record: MoveRecord, *, pod: Mapping[str, Any] | None, job: Mapping[str, Any] | None
) -> str:
    """Why the victim will not be replaced, or "" while it may be. `pod` and `job` are what bears the names of
    the record in the store now, None: nothing does.
    """
    is_victim = pod is not None and pod["metadata"]["uid"] == record.victim_pod.uid
    if is_victim and pod is not None and (pod.get("status") or {}).get("phase") == "Succeeded":
        return "the pod has succeeded"
    if not record.job_name:
        return ""
    if job is None or job["metadata"]["uid"] != record.job_uid:
        return f"Job {record.job_name} is gone"
    if "deletionTimestamp" in job["metadata"]:
        return f"Job {record.job_name} is being deleted"
    status = job.get("status") or {}
    over = [c["type"] for c in status.get("conditions") or () if c["status"] == "True" and c["type"] in _OVER]
    if over:
        return f"Job {record.job_name} is {over[0]}"
    for field in ("completedIndexes", "failedIndexes"):
        if _names(status.get(field) or "", record.completion_index):
            return f"index {record.completion_index} is among the {field} of Job {record.job_name}"
    return ""


def _names(ranges: str, index: str) -> bool:
    """Whether an index is among the ranges of a Job's status: "1,3-5,7"."""
    if not (index.isascii() and index.isdigit()):
        return False
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        if first and int(first) <= int(index) <= int(last or first):
            return True
    return False
