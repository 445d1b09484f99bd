"""The event loop: jobs arrive, wait, start and end, in whole milliseconds of virtual time.

At every event the whole queue is tried in its order and whatever fits starts, so a small job may pass a
large one that has to wait (backfill). The same three steps make every event: give back what has ended,
admit what has arrived, serve the queue. Creating a slice takes 250 ms and destroying it 100 ms; the slice
is taken for both.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tessera.simulate.errors import BadSimulationInput
from tessera.simulate.queueing.cluster import QueueCluster
from tessera.simulate.queueing.measures import Integrals, Validity, wait_statistics
from tessera.simulate.queueing.queue import Queue
from tessera.simulate.queueing.reservations import Reservations
from tessera.simulate.queueing.workload import Job


@dataclass(frozen=True, slots=True)
class Costs:
    """What it takes to make and to remove a slice."""

    create_ms: int = 250
    delete_ms: int = 100


@dataclass(frozen=True, slots=True)
class Started:
    """One job that ran: where, from when (slice ready) and until when (slice gone)."""

    job: Job
    gpu: str
    index: int
    start_ms: int
    finish_ms: int

    @property
    def wait_seconds(self) -> float:
        return (self.start_ms - self.job.arrival_ms) / 1000


@dataclass(slots=True)
class QueueSimulation:
    """One run. `run` plays all events and returns the measures; `started` then has every job."""

    cluster: QueueCluster
    jobs: Sequence[Job]
    queue: Queue
    reservations: Reservations
    validity: Validity
    costs: Costs = field(default_factory=Costs)
    started: list[Started] = field(default_factory=list)
    _now: int = 0
    _running: list[tuple[int, int]] = field(default_factory=list)
    _finish: dict[int, int] = field(default_factory=dict)
    _fragmented: set[int] = field(default_factory=set)

    def run(self) -> dict[str, Any]:
        """Play all events. Raises BadSimulationInput when a job can never run."""
        integrals = Integrals(closes_ms=max((job.arrival_ms for job in self.jobs), default=0))
        waiting_room = sorted(self.jobs, key=lambda job: (job.arrival_ms, job.number))
        arrived = 0
        while arrived < len(waiting_room) or self._running or self.queue:
            if arrived == len(waiting_room) and not self._running:
                raise self._stuck()
            self._advance(integrals, self._next(waiting_room, arrived))
            ended = self._end_due()
            fresh = []
            while arrived < len(waiting_room) and waiting_room[arrived].arrival_ms == self._now:
                fresh.append(waiting_room[arrived])
                arrived += 1
            for job in fresh:
                self.cluster.policy.record(job.shape.profile)
                self.queue.add(job)
            self._serve(fresh, ended)
        return self._report(integrals)

    def _next(self, jobs: Sequence[Job], arrived: int) -> int:
        times = [self._running[0][0]] if self._running else []
        if arrived < len(jobs):
            times.append(jobs[arrived].arrival_ms)
        return min(times)

    def _advance(self, integrals: Integrals, until: int) -> None:
        overlap = integrals.overlap_ms(self._now, until)
        if overlap:
            integrals.add(overlap, waiting=bool(self.queue), shares=self.cluster.shares())
        self._now = until

    def _end_due(self) -> bool:
        ended = False
        while self._running and self._running[0][0] == self._now:
            _, number = heapq.heappop(self._running)
            del self._finish[number]
            self.reservations.ended(self.cluster, self.cluster.end(number))
            ended = True
        return ended

    def _serve(self, fresh: Sequence[Job], ended: bool) -> None:
        """Try the queue in its order. Without new room only the new jobs can start."""
        reserved = self.reservations.update(
            self.cluster, self.queue, now_ms=self._now, finish_ms=self._finish
        )
        everyone = ended or reserved or len(fresh) > 1
        for job in self.queue.in_order(self._now) if everyone else fresh:
            if not self.cluster.free_compute:
                break
            if (reserved or self.cluster.fits(job.shape.profile)) and self._start(job):
                self.queue.remove(job)
            elif job.number not in self._fragmented and self.cluster.enough_in_sum(job.shape):
                self._fragmented.add(job.number)

    def _start(self, job: Job) -> bool:
        duration = self.costs.create_ms + job.runtime_ms + self.costs.delete_ms
        lifted = self.reservations.in_the_way_of(job, ends_ms=self._now + duration)
        if lifted:
            with self.reservations.lifted(self.cluster, lifted):
                placement = self.cluster.start(job.number, job.shape)
        else:
            placement = self.cluster.start(job.number, job.shape)
        if placement is None:
            return False
        finish = self._now + duration
        heapq.heappush(self._running, (finish, job.number))
        self._finish[job.number] = finish
        self.started.append(
            Started(job, placement.gpu, placement.index, self._now + self.costs.create_ms, finish)
        )
        return True

    def _stuck(self) -> BadSimulationInput:
        job = next(iter(self.queue.in_order(self._now)))
        return BadSimulationInput(
            f"{len(self.queue)} jobs can never run",
            f"the first needs {job.shape.profile}, which does not fit on an empty cluster",
            "use a mix whose profiles exist on this model",
        )

    def _report(self, integrals: Integrals) -> dict[str, Any]:
        utilisation, backlog = integrals.mean("compute"), integrals.backlog()
        waits = [(s.job.shape.profile, s.job.priority, s.wait_seconds) for s in self.started]
        hours = self._now / 3_600_000
        valid = self.validity.holds(utilisation=utilisation, peak=integrals.peak, backlog=backlog)
        return {
            "makespan_seconds": self._now / 1000,
            "throughput_per_hour": len(self.started) / hours if hours else 0.0,
            **wait_statistics(waits),
            "utilisation_pct": 100 * utilisation,
            "memory_utilisation_pct": 100 * integrals.mean("memory"),
            "fragmentation_pct": 100 * integrals.mean("physical"),
            "stranded_pct": 100 * integrals.mean("stranded"),
            "request_fragmentation": len(self._fragmented),
            "peak_utilisation_pct": 100 * integrals.peak,
            "backlog_pct": 100 * backlog,
            "valid": float(valid),
            "reservations": self.reservations.made,
        }
