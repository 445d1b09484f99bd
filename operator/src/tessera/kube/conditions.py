"""Conditions: what an object says about itself.

A condition's `lastTransitionTime` moves only when its status flips, so that it tells since when the thing
is so. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

Status = Literal["True", "False", "Unknown"]

# The API server's limit for a message.
MESSAGE_LIMIT = 32768


def set_condition(
    conditions: Iterable[Mapping[str, Any]] | None,
    *,
    type: str,
    status: Status | bool,
    reason: str,
    message: str,
    generation: int | None = None,
    now: datetime | None = None,
) -> list[dict[str, Any]]:
    """The conditions with this one set, in their old order, a new one last. The input is left as it is.

    `generation` is the spec's generation that was judged; `now` must be timezone-aware.
    """
    word = status if isinstance(status, str) else ("True" if status else "False")
    kept = [dict(condition) for condition in conditions or ()]
    before = find_condition(kept, type)
    flipped = before is None or before.get("status") != word
    wanted: dict[str, Any] = {
        "type": type,
        "status": word,
        "reason": str(reason),
        "message": message[:MESSAGE_LIMIT],
        "lastTransitionTime": timestamp(now)
        if flipped or before is None
        else before.get("lastTransitionTime"),
    }
    if generation is not None:
        wanted["observedGeneration"] = generation
    if before is None:
        return [*kept, wanted]
    return [wanted if condition.get("type") == type else condition for condition in kept]


def find_condition(conditions: Iterable[Mapping[str, Any]] | None, type: str) -> Mapping[str, Any] | None:
    """The condition of that type, None when there is none."""
    return next((condition for condition in conditions or () if condition.get("type") == type), None)


def is_true(conditions: Iterable[Mapping[str, Any]] | None, type: str) -> bool:
    """Whether the condition of that type is there and True."""
    condition = find_condition(conditions, type)
    return condition is not None and condition.get("status") == "True"


def timestamp(now: datetime | None = None) -> str:
    """RFC 3339 in UTC with whole seconds, as `metav1.Time` wants it."""
    return (now or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_timestamp(now: datetime | None = None) -> str:
    """RFC 3339 in UTC with microseconds, as `metav1.MicroTime` (Leases, Events) wants it."""
    return (now or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
