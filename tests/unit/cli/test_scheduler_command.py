"""`tessera scheduler` logs as the other processes do."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Iterator

import pytest
from click.testing import CliRunner
from tessera.cli import scheduler as subject
from tessera.placement.queue_order import QueueOrder
from tessera.scheduler.loop import Settings


@pytest.fixture
def root_logger() -> Iterator[None]:
    """The root logger and the garbage collector, put back afterwards."""
    root = logging.getLogger()
    handlers, level, thresholds = list(root.handlers), root.level, gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_the_scheduler_logs_json_where_no_terminal_is(
    root_logger: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(*_: object, **__: object) -> None:
        logging.getLogger("tessera.scheduler.loop").debug("not at this level")
        logging.getLogger("tessera.scheduler.loop").warning("a round failed")

    monkeypatch.setattr(subject, "_serve", serve)
    result = CliRunner().invoke(subject.command, ["--log-level", "info"], catch_exceptions=False)
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    told = [(line["level"], line["process"], line["message"]) for line in lines]
    assert ("warning", "scheduler", "a round failed") in told
    assert "not at this level" not in result.stderr


def test_garbage_is_collected_seldom(root_logger: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    async def serve(*_: object, **__: object) -> None:
        seen.append(gc.get_threshold()[0])

    monkeypatch.setattr(subject, "_serve", serve)
    CliRunner().invoke(subject.command, [], catch_exceptions=False)
    assert seen[0] >= 10_000


def test_the_order_of_the_queue_and_its_age_limit_are_flags(
    root_logger: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[QueueOrder] = []

    async def serve(settings: Settings, **_: object) -> None:
        seen.append(settings.queue_order)

    monkeypatch.setattr(subject, "_serve", serve)
    for flags in ([], ["--queue-order", "smallest-work", "--age-limit", "60"]):
        CliRunner().invoke(subject.command, flags, catch_exceptions=False)
    assert seen == [QueueOrder(), QueueOrder(rule="smallest-work", age_limit_seconds=60.0)]
