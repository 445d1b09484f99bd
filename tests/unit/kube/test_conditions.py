"""Conditions: the transition time moves only when the status flips."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from tessera.kube.conditions import find_condition, is_true, micro_timestamp, set_condition, timestamp

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)


def ready(conditions: list[dict[str, Any]], status: str, reason: str, now: datetime) -> list[dict[str, Any]]:
    return set_condition(
        conditions,
        type="Ready",
        status=status == "True",
        reason=reason,
        message=f"because of {reason}",
        generation=3,
        now=now,
    )


def test_a_new_condition_has_every_field() -> None:
    assert ready([], "True", "Published", NOON) == [
        {
            "type": "Ready",
            "status": "True",
            "reason": "Published",
            "message": "because of Published",
            "lastTransitionTime": "2026-01-01T12:00:00Z",
            "observedGeneration": 3,
        }
    ]


def test_another_reason_for_the_same_status_keeps_the_transition_time() -> None:
    conditions = ready(ready([], "False", "NoGPUs", NOON), "False", "NVMLError", LATER)
    assert [(item["reason"], item["lastTransitionTime"]) for item in conditions] == [
        ("NVMLError", "2026-01-01T12:00:00Z")
    ]


def test_a_flip_moves_the_transition_time() -> None:
    conditions = ready(ready([], "False", "NoGPUs", NOON), "True", "Published", LATER)
    assert conditions[0]["lastTransitionTime"] == "2026-01-01T13:00:00Z"


def test_others_keep_their_place_and_the_input_its_content() -> None:
    before = [{"type": "Placed", "status": "True"}, *ready([], "False", "NoGPUs", NOON), {"type": "Running"}]
    copy = [dict(item) for item in before]
    after = ready(before, "True", "Published", LATER)
    assert before == copy
    assert [item["type"] for item in after] == ["Placed", "Ready", "Running"]


def test_finding() -> None:
    conditions = ready([], "True", "Published", NOON)
    assert is_true(conditions, "Ready")
    assert not is_true(conditions, "Placed")
    assert find_condition(None, "Ready") is None


def test_times_are_in_utc() -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=5)))
    assert timestamp(elsewhere) == "2026-01-01T12:00:00Z"
    assert micro_timestamp(elsewhere) == "2026-01-01T12:00:00.000000Z"
