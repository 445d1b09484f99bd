"""The waiting jobs, in the order in which they are tried.

The rules are those of the scheduler's queue (`tessera.placement.queue_order`). `fifo` tries them as they
came, `priority` by priority and then as they came, `smallest-work` by compute times runtime, and
`smallest-work-aged` the same, only that waiting makes a job smaller until, after the age limit, it goes
before all others.
"""

from __future__ import annotations

import math
from bisect import insort
from typing import Literal

from tessera.placement.queue_order import QueueOrder, Waiting
from tessera.simulate.queueing.workload import Job

Order = Literal["fifo", "smallest-work", "smallest-work-aged", "priority"]


class Queue:
    """The queue of one run. `age_limit_seconds` matters for `smallest-work-aged` only."""

    def __init__(self, order: Order, *, age_limit_seconds: float) -> None:
        self._by_priority = order == "priority"
        self._ages = order == "smallest-work-aged"
        self._rule = QueueOrder(
            rule="smallest-work" if order.startswith("smallest-work") else "age",
            age_limit_seconds=age_limit_seconds if self._ages else math.inf,
        )
        self._ranked: list[tuple[tuple[float, ...], int, Job]] = []

    def __len__(self) -> int:
        return len(self._ranked)

    def add(self, job: Job) -> None:
        """Take a job in."""
        insort(self._ranked, self._entry(job, job.arrival_ms))

    def remove(self, job: Job) -> None:
        """Let a job go."""
        self._ranked = [entry for entry in self._ranked if entry[1] != job.number]

    def in_order(self, now_ms: int) -> list[Job]:
        """The jobs, first to serve first."""
        if self._ages:
            # Only here do ranks change while jobs wait.
            self._ranked = sorted(self._entry(job, now_ms) for _, _, job in self._ranked)
        return [job for _, _, job in self._ranked]

    def _entry(self, job: Job, now_ms: int) -> tuple[tuple[float, ...], int, Job]:
        waiting = Waiting(
            name=job.number,
            since=job.arrival_ms / 1000,
            slices=job.shape.compute_slices,
            priority=job.priority if self._by_priority else 0,
            seconds=job.runtime_ms / 1000,
        )
        return self._rule.rank(waiting, now=now_ms / 1000), job.number, job
