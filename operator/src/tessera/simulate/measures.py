"""Counts the figures of a run from its decisions. All but the speed can be counted again from the log.

Acceptance is taken over the counted requests (after the warm-up). Quantities of the cluster are integrated
over time, from the first counted arrival to the last decision.

- slice acceptance: memory slices of accepted requests / memory slices asked for;
- fragmentation: per GPU (free - longest free run) / free, 0 for a full one, averaged over GPUs and time;
- utilisation: taken memory slices / all, averaged over time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tessera.placement.geometry import Occupancy
from tessera.simulate.cluster import Cluster
from tessera.simulate.costs import MoveCosts
from tessera.simulate.loss_system import Outcome, Place
from tessera.simulate.workload import Workload

_POINTS = 150
"""Points of the series over time."""


@dataclass
class Series:
    """The cluster over time, for a picture: each point is the mean (in %) since the point before; `seconds`
    is when its stretch ends.
    """

    seconds: list[float] = field(default_factory=list)
    utilisation_pct: list[float] = field(default_factory=list)
    fragmentation_pct: list[float] = field(default_factory=list)


def acceptance(workload: Workload, cluster: Cluster, accepted: Sequence[bool]) -> dict[str, Any]:
    """Acceptance by count, by slices and by profile (of those that were asked for); None when nothing was."""
    arrived = [0] * len(workload.profiles)
    taken = [0] * len(workload.profiles)
    for request in range(workload.counted_from, len(workload)):
        arrived[workload.wanted[request]] += 1
        taken[workload.wanted[request]] += accepted[request]
    sizes = [cluster.sizes[profile] for profile in workload.profiles]
    by_profile = {
        profile: _percent(t, a) for profile, t, a in zip(workload.profiles, taken, arrived, strict=True) if a
    }
    return {
        "slice_acceptance_pct": _percent(_dot(taken, sizes), _dot(arrived, sizes)),
        "acceptance_pct": _percent(sum(taken), sum(arrived)),
        "per_profile_acceptance_pct": by_profile,
    }


def measure(
    workload: Workload,
    cluster: Cluster,
    outcome: Outcome,
    *,
    pool: Sequence[bool],
    repacking: Sequence[bool] | None = None,
    costs: MoveCosts,
) -> tuple[dict[str, Any], Series]:
    """The figures of one run, and the cluster over time. `pool` are the decisions of the ideal pool,
    `repacking` those of free repacking (None: they are not known).
    """
    figures = acceptance(workload, cluster, [place is not None for place in outcome.placed])
    ideal = acceptance(workload, cluster, pool)["slice_acceptance_pct"]
    repacked = None
    if repacking is not None:
        repacked = acceptance(workload, cluster, repacking)["slice_acceptance_pct"]
    walk = _Walk(workload, cluster, outcome, costs)
    walk.through()
    counted = range(workload.counted_from, len(workload))
    accepted = sum(outcome.placed[request] is not None for request in counted)
    moves = sum(
        len(made.get(request, ()))
        for request in counted
        for made in (outcome.relocations, outcome.compactions)
    )
    gap = None if ideal is None else figures["slice_acceptance_pct"] - ideal
    bound = None if ideal is None or repacked is None else repacked - ideal
    return {
        "slice_acceptance_pct": figures["slice_acceptance_pct"],
        "ideal_pool_pct": ideal,
        "gap_to_pool_pct": gap,
        "ideal_repacking_pct": repacked,
        "repacking_gap_to_pool_pct": bound,
        "acceptance_pct": figures["acceptance_pct"],
        "per_profile_acceptance_pct": figures["per_profile_acceptance_pct"],
        "min_profile_acceptance_pct": min(figures["per_profile_acceptance_pct"].values(), default=None),
        "moves_per_100": 100 * moves / accepted if accepted else 0.0,
        "gpu_seconds_lost": walk.seconds_lost,
        "fragmentation_pct": walk.mean_fragmentation_pct(),
        "utilisation_pct": walk.mean_utilisation_pct(),
        "decisions_per_second": outcome.decisions_per_second,
    }, walk.series


@dataclass(slots=True)
class _Sums:
    """Integrals over a stretch of time: of taken memory slices, and of fragmentation summed over GPUs."""

    seconds: float = 0.0
    used: float = 0.0
    fragmented: float = 0.0

    def mean_used(self) -> float:
        return self.used / self.seconds

    def mean_fragmented(self) -> float:
        # Differences of sums may leave a trace below zero where nothing is fragmented.
        return max(0.0, self.fragmented / self.seconds)


class _Walk:
    """Goes through the decisions in time and keeps the sums over all GPUs up to date."""

    def __init__(self, workload: Workload, cluster: Cluster, outcome: Outcome, costs: MoveCosts) -> None:
        self._workload, self._outcome, self._costs = workload, outcome, costs
        self._geometries = cluster.geometry_by_gpu()
        self._slices = cluster.memory_slices
        self._keys = [0] * cluster.gpus
        self._where: dict[int, Place] = {}
        self._since: dict[int, float] = {}
        self._used = 0
        self._fragmented = 0.0
        self._counted = _Sums()
        self._stretch = _Sums()
        self.seconds_lost = 0.0
        self.series = Series()

    def through(self) -> None:
        """All events."""
        workload = self._workload
        split = workload.first_counted_event()
        every = max(1, len(workload.events) // _POINTS)
        due = every
        before = None
        for position, event in enumerate(workload.events):
            if event < 0 and ~event not in self._where:
                continue  # it was rejected: nothing leaves
            now = workload.time_of(event)
            if before is not None:
                self._pass(now - before, counted=position > split)
            before = now
            if event < 0:
                self._leave(~event)
            else:
                self._decide(event, now, counted=position >= split)
            if position >= due:
                due += every
                self._add_point(now)

    def _pass(self, seconds: float, *, counted: bool) -> None:
        """Time passes in which nothing changes."""
        for sums in (self._stretch, self._counted) if counted else (self._stretch,):
            sums.seconds += seconds
            sums.used += self._used * seconds
            sums.fragmented += self._fragmented * seconds

    def _decide(self, request: int, now: float, *, counted: bool) -> None:
        for move in self._outcome.compactions.get(request, ()):
            self._interrupt(move.victim, now, counted=counted)
            self._take(move.victim, move.place, now)
        place = self._outcome.placed[request]
        if place is None:
            return
        moves = self._outcome.relocations.get(request, ())
        for move in moves:
            self._interrupt(move.victim, now, counted=counted)
        self._take(request, place, now)
        for move in moves:
            self._take(move.victim, move.place, now)

    def _interrupt(self, victim: int, now: float, *, counted: bool) -> None:
        if counted:
            self.seconds_lost += self._cost(victim, now)
        self._leave(victim)

    def _cost(self, victim: int, now: float) -> float:
        gpu, index = self._where[victim]
        geometry = self._geometries[gpu]
        ran_for = now - self._since[victim]
        return self._costs.gpu_seconds(geometry, geometry.placements[index], ran_for=ran_for)

    def _take(self, request: int, place: Place, now: float) -> None:
        gpu, index = place
        self._where[request] = place
        self._since[request] = now
        self._change(gpu, self._geometries[gpu].with_placed(self._keys[gpu], index))

    def _leave(self, request: int) -> None:
        gpu, index = self._where.pop(request)
        self._change(gpu, self._geometries[gpu].with_released(self._keys[gpu], index))

    def _change(self, gpu: int, key: int) -> None:
        geometry = self._geometries[gpu]
        before, after = geometry.occupancy(self._keys[gpu]), geometry.occupancy(key)
        self._keys[gpu] = key
        self._used += before.free - after.free
        self._fragmented += fragmentation(after)
        self._fragmented -= fragmentation(before)

    def _add_point(self, now: float) -> None:
        if self._stretch.seconds:
            self.series.seconds.append(now)
            self.series.utilisation_pct.append(100 * self._stretch.mean_used() / self._slices)
            self.series.fragmentation_pct.append(100 * self._stretch.mean_fragmented() / len(self._keys))
            self._stretch = _Sums()

    def mean_utilisation_pct(self) -> float | None:
        """Taken memory slices, averaged over the counted time; None when that has no length."""
        return 100 * self._counted.mean_used() / self._slices if self._counted.seconds else None

    def mean_fragmentation_pct(self) -> float | None:
        """Physical fragmentation, averaged over GPUs and the counted time."""
        return 100 * self._counted.mean_fragmented() / len(self._keys) if self._counted.seconds else None


def fragmentation(room: Occupancy) -> float:
    """Share of the free slices of a GPU that are not in its longest free run; 0 when nothing is free."""
    return (room.free - room.longest_run) / room.free if room.free else 0.0


def _percent(part: float, whole: float) -> float | None:
    return 100 * part / whole if whole else None


def _dot(counts: Sequence[int], sizes: Sequence[int]) -> int:
    return sum(count * size for count, size in zip(counts, sizes, strict=True))
