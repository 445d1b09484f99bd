"""The event loop: jobs arrive, wait, start and end, in whole milliseconds of virtual time.

At every event the whole queue is tried in its order and whatever fits starts, so a small job may pass a
large one that has to wait (backfill). The same three steps make every event: give back what has ended,
admit what has arrived, serve the queue. Creating a slice and destroying it take time (`MoveCosts`: 250 and
100 ms); the slice is taken for both.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from tessera.placement.moves import MovePlan
from tessera.simulate.errors import BadSimulationInput
from tessera.simulate.queueing.cluster import QueueCluster
from tessera.simulate.queueing.measures import Integrals, Validity, wait_statistics
from tessera.simulate.queueing.moving import Moves
from tessera.simulate.queueing.queue import Queue
from tessera.simulate.queueing.reservations import Reservations
from tessera.simulate.queueing.workload import Job


@dataclass(frozen=True, slots=True)
class Stay:
    """A job on a slice: from when (slice taken, slice ready) and until when (slice gone). A moved job has
    several stays; all but its last were cut short.
    """

    job: Job
    gpu: str
    index: int
    taken_ms: int
    start_ms: int
    finish_ms: int


@dataclass(slots=True)
class QueueSimulation:
    """One run. `run` plays all events and returns the measures; `stays` then has what ran where."""

    cluster: QueueCluster
    jobs: Sequence[Job]
    queue: Queue
    reservations: Reservations
    moves: Moves
    validity: Validity
    stays: list[Stay] = field(default_factory=list)
    _create_ms: int = field(init=False)
    _delete_ms: int = field(init=False)
    _now: int = 0
    _ends: list[tuple[int, int]] = field(default_factory=list)
    _running: dict[int, Stay] = field(default_factory=dict)
    _waits: dict[int, float] = field(default_factory=dict)
    _fragmented: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        costs = self.moves.rule.costs
        self._create_ms, self._delete_ms = round(1000 * costs.create), round(1000 * costs.delete)

    def run(self) -> dict[str, Any]:
        """Play all events. Raises BadSimulationInput when a job can never run."""
        integrals = Integrals(closes_ms=max((job.arrival_ms for job in self.jobs), default=0))
        arrivals = sorted(self.jobs, key=lambda job: (job.arrival_ms, job.number))
        arrived = 0
        while arrived < len(arrivals) or self._running or self.queue:
            if arrived == len(arrivals) and not self._running:
                raise self._stuck()
            self._advance(integrals, self._next(arrivals, arrived))
            ended = self._end_due()
            fresh = []
            while arrived < len(arrivals) and arrivals[arrived].arrival_ms == self._now:
                fresh.append(arrivals[arrived])
                arrived += 1
            for job in fresh:
                self.cluster.policy.record(job.shape.profile)
                self.queue.add(job)
            self._serve(fresh, ended)
        return self._report(integrals)

    def _next(self, arrivals: Sequence[Job], arrived: int) -> int:
        times = [self._ends[0][0]] if self._ends else []
        if arrived < len(arrivals):
            times.append(arrivals[arrived].arrival_ms)
        return min(times)

    def _advance(self, integrals: Integrals, until: int) -> None:
        overlap = integrals.overlap_ms(self._now, until)
        if overlap:
            integrals.add(overlap, waiting=bool(self.queue), shares=self.cluster.shares())
        self._now = until

    def _end_due(self) -> bool:
        ended = False
        while self._ends and self._ends[0][0] == self._now:
            _, number = heapq.heappop(self._ends)
            stay = self._running.get(number)
            # A job that was moved ends later than was first expected.
            if stay is not None and stay.finish_ms == self._now:
                self.stays.append(self._running.pop(number))
                self.reservations.ended(self.cluster, self.cluster.end(number))
                ended = True
        return ended

    def _serve(self, fresh: Sequence[Job], ended: bool) -> None:
        """Try the queue in its order. Without new room, reservations or moves only new jobs can start."""
        reserved = self.reservations.update(
            self.cluster, self.queue, now_ms=self._now, ends_ms=self._expected_end
        )
        everyone = ended or reserved or len(fresh) > 1 or bool(self.moves)
        hopeless: set[str] = set()
        waiting = self.queue.in_order(self._now) if everyone else fresh
        if not reserved:
            waiting = self._with_a_chance(waiting)
        for job in waiting:
            if not self.cluster.free_compute:
                break
            if (reserved or self.cluster.fits(job.shape.profile)) and self._start(job):
                self.queue.remove(job)
                continue
            if not self.cluster.enough_in_sum(job.shape):
                continue
            self._fragmented.add(job.number)
            if self.moves and job.shape.profile not in hopeless and self.moves.may(job, now_ms=self._now):
                if self._make_room(job):
                    self.queue.remove(job)
                elif not self.reservations.of(job):
                    hopeless.add(job.shape.profile)

    def _with_a_chance(self, waiting: Sequence[Job]) -> list[Job]:
        """Without the jobs for which nothing can happen in this pass: room only becomes less in it. Only for
        speed: most of a long queue waits for profiles that have no room.
        """
        shapes = {job.shape.profile: job.shape for job in waiting}
        fits = {name for name in shapes if self.cluster.fits(name)}
        enough = {name for name, shape in shapes.items() if self.cluster.enough_in_sum(shape)}
        if self.moves:
            return [job for job in waiting if job.shape.profile in enough]
        return [
            job
            for job in waiting
            if job.shape.profile in fits
            or (job.shape.profile in enough and job.number not in self._fragmented)
        ]

    def _expected_end(self, owner: object) -> float | None:
        stay = self._running.get(cast(int, owner))
        return None if stay is None else float(stay.finish_ms)

    def _start(self, job: Job) -> bool:
        duration = self._create_ms + job.runtime_ms + self._delete_ms
        lifted = self.reservations.in_the_way_of(job, ends_ms=self._now + duration)
        if lifted:
            with self.reservations.lifted(self.cluster, lifted):
                placement = self.cluster.start(job.number, job.shape)
        else:
            placement = self.cluster.start(job.number, job.shape)
        if placement is None:
            return False
        self._enter(job, placement.gpu, placement.index, after_ms=0, runs_ms=job.runtime_ms)
        self._first_start(job)
        return True

    def _enter(self, job: Job, gpu: str, index: int, *, after_ms: int, runs_ms: int) -> None:
        """A job has taken a slice, which can be created after `after_ms`."""
        start = self._now + after_ms + self._create_ms
        finish = start + runs_ms + self._delete_ms
        self._running[job.number] = Stay(job, gpu, index, self._now, start, finish)
        heapq.heappush(self._ends, (finish, job.number))

    def _first_start(self, job: Job) -> None:
        self._waits[job.number] = (self._running[job.number].start_ms - job.arrival_ms) / 1000
        self.moves.accepted()

    def _make_room(self, job: Job) -> bool:
        """Start a job by moves. Only the job that reserved a place may move what drains from it."""
        own = self.reservations.of(job)
        with self.reservations.lifted(self.cluster, own):
            movable = {
                number: stay
                for number, stay in self._running.items()
                if not self.reservations.drains(self.cluster, stay.gpu, stay.index, but_for=job.number)
            }
            plan = self.moves.plan(self.cluster, job, movable, now_ms=self._now)
            if plan is not None:
                self._move(job, plan)
        return plan is not None

    def _move(self, job: Job, plan: MovePlan) -> None:
        """Stop the victims, place the job, place the victims again with what is left of their work."""
        victims = [(self._running.pop(cast(int, move.owner)), move) for move in plan.moves]
        for stay, _ in victims:
            self.stays.append(replace(stay, finish_ms=self._now))
            self.cluster.end(stay.job.number)
        placed = [(job, plan.placement.gpu, plan.placement.index, job.runtime_ms)]
        for stay, move in victims:
            left = stay.finish_ms - self._delete_ms - self._now
            left += self.moves.rule.lost_ms(self._now - stay.start_ms)
            placed.append((stay.job, *move.target, left))
        for one, gpu, index, runs_ms in placed:
            self.cluster.occupy(one.number, one.shape, gpu, index)
            self._enter(one, gpu, index, after_ms=self._delete_ms, runs_ms=runs_ms)
        self._first_start(job)
        # Not before: closing a reserved place again could take the room that the plan is about.
        for gpu in {stay.gpu for stay, _ in victims}:
            self.reservations.ended(self.cluster, gpu)

    def _stuck(self) -> BadSimulationInput:
        job = self.queue.in_order(self._now)[0]
        return BadSimulationInput(
            f"{len(self.queue)} jobs can never run",
            f"the first needs {job.shape.profile}, which does not fit on an empty cluster",
            "use a mix whose profiles exist on this model",
        )

    def _report(self, integrals: Integrals) -> dict[str, Any]:
        utilisation, backlog = integrals.mean("compute"), integrals.backlog()
        # The last stay of a job comes last in the list.
        done = {stay.job.number: stay for stay in self.stays}.values()
        waits = [(job.shape.profile, job.priority, self._waits[job.number]) for job in self.jobs]
        turnaround = sum(stay.finish_ms - stay.job.arrival_ms for stay in done) / 1000
        hours = self._now / 3_600_000
        valid = self.validity.holds(utilisation=utilisation, peak=integrals.peak, backlog=backlog)
        return {
            "makespan_seconds": self._now / 1000,
            "throughput_per_hour": len(self.jobs) / hours if hours else 0.0,
            **wait_statistics(waits),
            "turnaround_mean_seconds": turnaround / len(self.jobs) if self.jobs else 0.0,
            "utilisation_pct": 100 * utilisation,
            "memory_utilisation_pct": 100 * integrals.mean("memory"),
            "fragmentation_pct": 100 * integrals.mean("physical"),
            "stranded_pct": 100 * integrals.mean("stranded"),
            "request_fragmentation": len(self._fragmented),
            "peak_utilisation_pct": 100 * integrals.peak,
            "backlog_pct": 100 * backlog,
            "valid": float(valid),
            "reservations": self.reservations.made,
            "moves": self.moves.made,
            "gpu_seconds_lost": self.moves.gpu_seconds_lost,
        }
