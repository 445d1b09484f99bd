"""What a plan of the operator says to the reader of an object, at the time that these tests are made at."""

from __future__ import annotations

from datetime import UTC, datetime

from tessera.controllers.plan import Plan

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def said(plan: Plan, type: str) -> tuple[str, str, str]:
    """Status, reason and message of the condition of that type."""
    assert plan.status is not None
    found = {c["type"]: c for c in plan.status["conditions"]}[type]
    return found["status"], found["reason"], found["message"]
