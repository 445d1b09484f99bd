"""Keys in, one worker call at a time per key out.

Level-based work needs three promises: a key that is added many times while it waits is worked on once; a
key that is added while it is worked on is worked on again afterwards, never at the same time; a key whose
work fails comes back later and later (exponential back-off with jitter) until it succeeds. Nothing else
decides when work is tried again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from tessera.kube.backoff import Backoff
from tessera.kube.errors import ApiError, Conflict, Unreachable
from tessera.metrics import registry as metrics

K = TypeVar("K", bound=Hashable)

_log = logging.getLogger(__name__)


class WorkQueue(Generic[K]):
    """A queue of keys with `concurrency` workers, for one event loop.

    `worker(key)` does the work. It returns None when done, or the seconds after which to run again. When it
    raises, the key is retried with back-off.
    """

    def __init__(
        self,
        *,
        worker: Callable[[K], Awaitable[float | None]],
        concurrency: int = 1,
        name: str,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._worker = worker
        self._concurrency = concurrency
        self._backoff = backoff or Backoff(first_seconds=0.2, limit_seconds=60.0)
        self._waiting: deque[K] = deque()
        self._dirty: set[K] = set()
        self._clock = clock
        self._running: dict[K, float] = {}
        self._failures: dict[K, int] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._wake = asyncio.Semaphore(0)
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: K) -> None:
        """Have the key worked on soon, once, however often it is added before that."""
        if key in self._dirty:
            return
        self._dirty.add(key)
        self._idle.clear()
        metrics.WORKQUEUE_ADDS_TOTAL.labels(self.name).inc()
        if key not in self._running:
            self._enqueue(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Add the key after that many seconds. Of several such wishes for one key the earliest holds."""
        if seconds <= 0:
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= loop.time() + seconds:
            return
        if timer is not None:
            timer.cancel()
        self._timers[key] = loop.call_later(seconds, self._due, key)

    async def run(self) -> None:
        """Work until cancelled.

        Cancellation reaches the workers at their next await; keys not done are lost.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._concurrency):
                    group.create_task(self._work(), name=f"{self.name} worker {number}")
        finally:
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()

    def longest(self) -> tuple[K, float] | None:
        """The key that has been worked on for longest, and for how many seconds; None while none is."""
        if not self._running:
            return None
        key = min(self._running, key=self._running.__getitem__)
        return key, self._clock() - self._running[key]

    async def wait_idle(self) -> None:
        """Wait until no key waits or runs (keys added for later do not count)."""
        await self._idle.wait()

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _enqueue(self, key: K) -> None:
        self._waiting.append(key)
        metrics.WORKQUEUE_DEPTH.labels(self.name).set(len(self._waiting))
        self._wake.release()

    async def _work(self) -> None:
        while True:
            await self._wake.acquire()
            key = self._waiting.popleft()
            metrics.WORKQUEUE_DEPTH.labels(self.name).set(len(self._waiting))
            self._dirty.discard(key)
            self._running[key] = self._clock()
            try:
                await self._run_once(key)
            finally:
                self._running.pop(key, None)
                if key in self._dirty:
                    self._enqueue(key)
                elif not self._dirty and not self._running:
                    self._idle.set()

    async def _run_once(self, key: K) -> None:
        try:
            again = await self._worker(key)
        except (Conflict, Unreachable) as error:
            # Everyday events: someone else wrote first, or the API server restarts.
            _log.info("%s: %s will be tried again: %s", self.name, key, error)
            self._retry(key)
        except ApiError as error:
            _log.warning("%s: %s will be tried again: %s", self.name, key, error)
            self._retry(key)
        except Exception:
            metrics.UNHANDLED_ERRORS_TOTAL.labels(f"queue {self.name}").inc()
            _log.exception("%s: work on %s failed and will be tried again", self.name, key)
            self._retry(key)
        else:
            self._failures.pop(key, None)
            if again is not None:
                self.add_after(key, again)

    def _retry(self, key: K) -> None:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        metrics.WORKQUEUE_RETRIES_TOTAL.labels(self.name).inc()
        self.add_after(key, self._backoff.delay(failures))
