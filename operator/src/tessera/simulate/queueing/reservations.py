"""Reservations in the queue: a large job that has waited too long keeps others out of the place that drains
first.

The choice of the place and the placeholders that close it are the scheduler's
(`tessera.placement.reservation`). Here they are held up to date as running jobs end. Two rules:

- at most `at_once` reservations, for the longest waiting jobs of the profiles that may reserve;
- with `backfill`, a job that will have ended before the reserved place is ready may still run in it, since
  it delays nobody (EASY backfilling, Lifka, "The ANL/IBM SP Scheduling System", 1995; it needs to know how
  long jobs run).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tessera.placement.reservation import ExpectedEnd, choose_reservation, closing_placements
from tessera.simulate.queueing.cluster import QueueCluster
from tessera.simulate.queueing.queue import Queue
from tessera.simulate.queueing.workload import Job


@dataclass(frozen=True, slots=True)
class ReservationRule:
    """Who may reserve. `after_seconds` None: nobody."""

    after_seconds: float | None = None
    profiles: frozenset[str] = frozenset()
    at_once: int = 1
    backfill: bool = False


@dataclass(slots=True)
class _Held:
    gpu: str
    index: int
    ready_ms: int
    owners: list[tuple[str, int, int]]


class Reservations:
    """The reservations of one run."""

    def __init__(self, rule: ReservationRule) -> None:
        self.rule = rule
        self.made = 0
        self._held: dict[int, _Held] = {}
        self._lifted: set[int] = set()

    def update(self, cluster: QueueCluster, queue: Queue, *, now_ms: int, ends_ms: ExpectedEnd) -> bool:
        """Make the reservations that are due; says whether there is any."""
        if self.rule.after_seconds is None:
            return False
        if len(self._held) < self.rule.at_once:
            due = [job for job in queue.in_order(now_ms) if self._is_due(job, now_ms)]
            for job in sorted(due, key=lambda job: job.arrival_ms)[: self.rule.at_once - len(self._held)]:
                self._reserve(cluster, job, now_ms=now_ms, ends_ms=ends_ms)
        return bool(self._held)

    def _is_due(self, job: Job, now_ms: int) -> bool:
        assert self.rule.after_seconds is not None
        waited = (now_ms - job.arrival_ms) / 1000
        return (
            waited >= self.rule.after_seconds
            and job.shape.profile in self.rule.profiles
            and job.number not in self._held
        )

    def _reserve(self, cluster: QueueCluster, job: Job, *, now_ms: int, ends_ms: ExpectedEnd) -> None:
        found = choose_reservation(
            cluster.state,
            cluster.requests[job.shape.profile],
            expected_end=ends_ms,
            now=now_ms,
        )
        if found is None:
            return
        self.made += 1
        held = self._held[job.number] = _Held(found.gpu, found.index, int(found.ready_at), [])
        self._close(cluster, job.number, held)

    def ended(self, cluster: QueueCluster, gpu: str) -> None:
        """A job on this GPU has ended: close what became free of a reserved place."""
        for number, held in self._held.items():
            if held.gpu == gpu and number not in self._lifted:
                self._open(cluster, held)
                self._close(cluster, number, held)

    def in_the_way_of(self, job: Job, *, ends_ms: int) -> list[int]:
        """The reservations (by the number of their job) whose room this job may use: its own, and those that
        will not be needed before it has ended.
        """
        return [
            number
            for number, held in self._held.items()
            if number == job.number or (self.rule.backfill and ends_ms <= held.ready_ms)
        ]

    def of(self, job: Job) -> list[int]:
        """The reservation of this job, as `lifted` takes it; empty when it has none."""
        return [job.number] if job.number in self._held else []

    def drains(self, cluster: QueueCluster, gpu: str, index: int, *, but_for: int) -> bool:
        """Whether what runs there stands on a place that another job than `but_for` has reserved."""
        return any(
            held.gpu == gpu and number != but_for and cluster.geometry.overlap(held.index, index)
            for number, held in self._held.items()
        )

    @contextmanager
    def lifted(self, cluster: QueueCluster, numbers: Sequence[int]) -> Iterator[None]:
        """While this is open, these reservations close nothing. One whose job has started meanwhile ends."""
        for number in numbers:
            self._open(cluster, self._held[number])
        self._lifted.update(numbers)
        yield
        self._lifted.difference_update(numbers)
        for number in numbers:
            if cluster.state.holds(number) is not None:
                del self._held[number]
            else:
                self._close(cluster, number, self._held[number])

    def _open(self, cluster: QueueCluster, held: _Held) -> None:
        for owner in held.owners:
            cluster.state.release(owner)
        if held.owners:
            cluster.room_was_opened()
        held.owners.clear()

    def _close(self, cluster: QueueCluster, number: int, held: _Held) -> None:
        gpu = cluster.state.gpu(held.gpu)
        assert gpu is not None
        for at, index in enumerate(closing_placements(gpu.geometry, gpu.held.values(), held.index)):
            owner = ("reserved", number, at)
            cluster.state.occupy(held.gpu, index, owner=owner)
            held.owners.append(owner)
