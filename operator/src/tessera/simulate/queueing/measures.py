"""What a run reports: integrals over the measured window, and statistics of the waits.

The cluster's state between two events does not change, so an integral is a sum of products. The window
opens 30 s after the start and closes with the last arrival (MIGBench's definition); makespan and waits
count all jobs. A wait ends when the slice is ready, so it includes the time to create it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

WINDOW_OPENS_MS = 30_000


@dataclass(slots=True)
class Integrals:
    """Time integrals over the window. All shares are of the whole cluster, 0 to 1."""

    closes_ms: int
    opens_ms: int = WINDOW_OPENS_MS
    window_ms: int = 0
    backlog_ms: int = 0
    peak: float = 0.0
    _areas: dict[str, float] = field(default_factory=dict)

    def overlap_ms(self, start_ms: int, end_ms: int) -> int:
        """How much of this interval is in the window."""
        return max(0, min(end_ms, self.closes_ms) - max(start_ms, self.opens_ms))

    def add(self, overlap_ms: int, *, waiting: bool, shares: Mapping[str, float]) -> None:
        """Add an interval of the window with constant shares; `compute` is the one whose peak is kept."""
        self.window_ms += overlap_ms
        self.backlog_ms += overlap_ms if waiting else 0
        self.peak = max(self.peak, shares["compute"])
        for name, share in shares.items():
            self._areas[name] = self._areas.get(name, 0.0) + share * overlap_ms

    def mean(self, name: str) -> float:
        """The time mean of a share; 0 when the window is empty."""
        return self._areas.get(name, 0.0) / self.window_ms if self.window_ms else 0.0

    def backlog(self) -> float:
        """The share of the window in which jobs waited."""
        return self.backlog_ms / self.window_ms if self.window_ms else 0.0


@dataclass(frozen=True, slots=True)
class Validity:
    """What MIGBench demands of a run before it counts as one under high load."""

    saturated: bool

    def holds(self, *, utilisation: float, peak: float, backlog: float) -> bool:
        """Saturated: peak 99 %, backlog 90 %. Offered load: average utilisation 75 %, backlog 85 %."""
        if self.saturated:
            return peak >= 0.99 and backlog >= 0.90
        return utilisation >= 0.75 and backlog >= 0.85

    def __str__(self) -> str:
        if self.saturated:
            return "saturated: peak compute in use >= 99 %, a job waits >= 90 % of the time"
        return "offered load: mean compute in use >= 75 %, a job waits >= 85 % of the time"


def quantile(values: Sequence[float], share: float) -> float:
    """The quantile by linear interpolation between order statistics; 0 of no values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = int(position)
    if low + 1 == len(ordered):
        return float(ordered[low])
    return ordered[low] + (position - low) * (ordered[low + 1] - ordered[low])


def wait_statistics(waits: Sequence[tuple[str, int, float]]) -> dict[str, Any]:
    """Of (profile, priority, seconds): mean, quantiles, and mean and longest by profile."""
    seconds = [wait for _, _, wait in waits]
    by_profile: dict[str, list[float]] = {}
    by_priority: dict[int, list[float]] = {}
    for profile, priority, wait in waits:
        by_profile.setdefault(profile, []).append(wait)
        by_priority.setdefault(priority, []).append(wait)
    statistics: dict[str, Any] = {
        "wait_mean_seconds": _mean(seconds),
        "wait_p50_seconds": quantile(seconds, 0.50),
        "wait_p95_seconds": quantile(seconds, 0.95),
        "wait_p99_seconds": quantile(seconds, 0.99),
        "wait_max_seconds": max(seconds, default=0.0),
        "wait_mean_seconds_by_profile": {name: _mean(of) for name, of in sorted(by_profile.items())},
        "wait_max_seconds_by_profile": {name: max(of) for name, of in sorted(by_profile.items())},
    }
    if len(by_priority) > 1:
        statistics["wait_mean_seconds_by_priority"] = {
            str(priority): _mean(of) for priority, of in sorted(by_priority.items())
        }
    return statistics


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
