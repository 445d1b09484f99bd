"""The work queue: once per key while it waits, never twice at the same time, back-off after errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from background import in_background
from tessera.kube.backoff import Backoff
from tessera.kube.errors import Conflict
from tessera.kube.workqueue import WorkQueue

SOON = Backoff(first_seconds=0.001, limit_seconds=0.01)


@asynccontextmanager
async def running(
    worker: Callable[[str], Awaitable[float | None]], *, concurrency: int = 4, backoff: Backoff = SOON
) -> AsyncIterator[WorkQueue[str]]:
    queue: WorkQueue[str] = WorkQueue(worker=worker, concurrency=concurrency, name="test", backoff=backoff)
    async with in_background(queue.run()), asyncio.timeout(5):
        yield queue


async def test_a_key_added_many_times_while_it_waits_is_worked_on_once() -> None:
    seen: list[str] = []

    async def worker(key: str) -> None:
        seen.append(key)

    async with running(worker) as queue:
        for key in ("a", "b", "a", "a", "b"):
            queue.add(key)
        await queue.wait_idle()
    assert seen == ["a", "b"]


async def test_a_key_added_while_it_runs_runs_again_afterwards_and_never_twice_at_once() -> None:
    running_now: set[str] = set()
    runs = 0
    started, gate = asyncio.Event(), asyncio.Event()

    async def worker(key: str) -> None:
        nonlocal runs
        assert key not in running_now
        running_now.add(key)
        runs += 1
        started.set()
        await gate.wait()
        running_now.discard(key)

    async with running(worker) as queue:
        queue.add("a")
        await started.wait()
        queue.add("a")
        queue.add("a")
        gate.set()
        await queue.wait_idle()
    assert runs == 2


async def test_other_keys_run_beside_a_slow_one() -> None:
    gate, other = asyncio.Event(), asyncio.Event()

    async def worker(key: str) -> None:
        if key == "slow":
            await gate.wait()
        else:
            other.set()

    async with running(worker) as queue:
        queue.add("slow")
        queue.add("fast")
        await other.wait()
        gate.set()


async def test_a_failed_key_is_tried_again_until_it_succeeds(caplog: pytest.LogCaptureFixture) -> None:
    tries = 0
    done = asyncio.Event()

    async def worker(key: str) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise Conflict(409, "Conflict", "changed meanwhile")
        if tries == 2:
            raise RuntimeError("a defect")
        done.set()

    with caplog.at_level(logging.INFO):
        async with running(worker) as queue:
            queue.add("a")
            await done.wait()
    assert tries == 3
    traces = [record for record in caplog.records if record.exc_info]
    assert len(traces) == 1, "a conflict is everyday and has no traceback, a defect has one"


async def test_the_worker_can_ask_to_run_again() -> None:
    runs = 0
    done = asyncio.Event()

    async def worker(key: str) -> float | None:
        nonlocal runs
        runs += 1
        if runs == 3:
            done.set()
            return None
        return 0.001

    async with running(worker) as queue:
        queue.add("a")
        await done.wait()
    assert runs == 3


async def test_of_two_later_times_the_earlier_holds() -> None:
    done = asyncio.Event()

    async def worker(key: str) -> None:
        done.set()

    async with running(worker) as queue:
        queue.add_after("a", 3600)
        queue.add_after("a", 0.001)
        queue.add_after("a", 3600)
        await done.wait()


def test_backoff_grows_to_its_limit() -> None:
    backoff = Backoff(first_seconds=1, limit_seconds=8)
    for attempt, longest in enumerate([1, 2, 4, 8, 8]):
        delays = [backoff.delay(attempt) for _ in range(200)]
        assert min(delays) >= longest / 2
        assert max(delays) <= longest
        assert max(delays) - min(delays) > longest / 5, "jitter"
    assert backoff.delay(100_000) <= 8
