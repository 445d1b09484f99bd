"""What could not be prepared stands in the node's status until it is prepared, released or forgotten."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tessera.agent.checkpoint import Ledger
from tessera.agent.claims import ClaimKey, PrepareFailure, PrepareFailures
from tessera.agent.gpunode import View, status_for
from tessera.api.gpu_node import PREPARE_FAILURES_LIMIT, GPUNodeStatus

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def key(name: str) -> ClaimKey:
    return ClaimKey(namespace="default", name=name, uid=f"uid-{name}")


def names(failures: PrepareFailures, *, after: timedelta = timedelta()) -> list[str]:
    return [failure.claim.name for failure in failures.current(now=NOW + after)]


def status(*failures: PrepareFailure) -> dict[str, Any]:
    view = View(inventory=None, ledger=Ledger(), prepare_failures=failures)
    return status_for(view, generation=1, before=None, now=NOW)


def test_a_further_try_keeps_the_first_time_and_changes_no_written_word() -> None:
    failures = PrepareFailures()
    failures.add(key("a"), "in use", now=NOW)
    failures.add(key("b"), "lost", now=NOW + timedelta(seconds=1))
    first = status(*failures.current(now=NOW))
    failures.add(key("a"), "in use", now=NOW + timedelta(seconds=30))
    assert status(*failures.current(now=NOW)) == first
    assert first["prepareFailures"][0] == {
        "claim": {"namespace": "default", "name": "a", "uid": "uid-a"},
        "message": "in use",
        "since": "2026-01-02T03:04:05Z",
    }
    GPUNodeStatus.model_validate(first)
    failures.add(key("a"), "GPU is lost", now=NOW + timedelta(seconds=60))
    assert status(*failures.current(now=NOW))["prepareFailures"][0]["message"] == "GPU is lost"


def test_a_claim_that_is_prepared_or_released_is_no_longer_named() -> None:
    failures = PrepareFailures()
    failures.add(key("a"), "in use", now=NOW)
    failures.remove(key("a"))
    failures.remove(key("never failed"))
    assert names(failures) == []
    assert "prepareFailures" not in status(*failures.current(now=NOW))


def test_what_the_kubelet_does_not_try_any_more_is_forgotten() -> None:
    failures = PrepareFailures()
    failures.add(key("gone"), "in use", now=NOW)
    failures.add(key("tried"), "in use", now=NOW)
    failures.add(key("tried"), "in use", now=NOW + timedelta(minutes=5))
    assert names(failures, after=timedelta(minutes=9)) == ["gone", "tried"]
    assert names(failures, after=timedelta(minutes=11)) == ["tried"]


def test_the_list_is_bounded_and_keeps_the_latest() -> None:
    failures = PrepareFailures()
    for number in range(PREPARE_FAILURES_LIMIT + 1):
        failures.add(key(f"c{number:02}"), "in use", now=NOW + timedelta(seconds=number))
    assert names(failures) == [f"c{number:02}" for number in range(1, PREPARE_FAILURES_LIMIT + 1)]


@pytest.mark.parametrize("length", [10, 5000])
def test_a_message_fits_the_schema(length: int) -> None:
    failure = PrepareFailure(key("a"), "x" * length, NOW, NOW)
    GPUNodeStatus.model_validate(status(failure, replace(failure, claim=key("b"))))
