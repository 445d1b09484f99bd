"""Conditions of one object, judged together: what is set, and which changes of it are news.

A reconcile function says every condition every time. `judge` keeps ``lastTransitionTime`` where nothing
flipped and drops conditions that are no longer said; `news_of` turns the difference to the status before into
events, so that an event tells a change and a status that stays the same is quiet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from tessera.api.reasons import Reason
from tessera.controllers.plan import News
from tessera.kube.conditions import find_condition, set_condition

Status = Literal["True", "False", "Unknown"]


@dataclass(frozen=True)
class Verdict:
    """One condition as a reconcile function judges it."""

    type: str
    status: Status
    reason: Reason
    message: str


def judge(
    before: Sequence[Mapping[str, Any]] | None,
    verdicts: Iterable[Verdict],
    *,
    generation: int | None,
    now: datetime,
) -> list[dict[str, Any]]:
    """The conditions list that says exactly `verdicts`."""
    said = list(verdicts)
    types = {verdict.type for verdict in said}
    conditions: list[dict[str, Any]] = [dict(c) for c in before or () if c.get("type") in types]
    for verdict in said:
        conditions = set_condition(
            conditions,
            type=verdict.type,
            status=verdict.status,
            reason=verdict.reason,
            message=verdict.message,
            generation=generation,
            now=now,
        )
    order = {verdict.type: index for index, verdict in enumerate(said)}
    return sorted(conditions, key=lambda condition: order[condition["type"]])


def news_of(
    before: Sequence[Mapping[str, Any]] | None, verdicts: Iterable[Verdict], *, told: Mapping[Reason, str]
) -> tuple[News, ...]:
    """Events for conditions whose status or reason changed to one of `told` (reason -> Normal or Warning)."""
    found: list[News] = []
    for verdict in verdicts:
        kind = told.get(verdict.reason)
        old = find_condition(before, verdict.type)
        same = old is not None and old.get("status") == verdict.status and old.get("reason") == verdict.reason
        if kind is None or same or any(item.reason == verdict.reason for item in found):
            continue
        found.append(
            News(
                type="Warning" if kind == "Warning" else "Normal",
                reason=verdict.reason,
                message=verdict.message,
            )
        )
    return tuple(found)
