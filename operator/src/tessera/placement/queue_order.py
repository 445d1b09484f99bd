"""In which order waiting requests are served.

Priority always comes first. Within a priority there are two rules. `age` is first come, first served.
`smallest-work` serves the request with the least work (memory slices times expected seconds) first, which
shortens the mean wait, but would let a large request wait for ever. So waiting makes it smaller: after half
of the age limit a request counts with half of its work. From the age limit on it is *aged*: aged requests go
before all others of their priority, oldest first. Under both rules an aged request may also hold a
reservation (`reservation.py`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

QueueRule = Literal["age", "smallest-work"]


@dataclass(frozen=True, slots=True)
class Waiting:
    """One waiting request. `since` is when it came, in seconds of the caller's clock; `seconds` is how long
    it is expected to run, or None.
    """

    name: Hashable
    since: float
    slices: int
    priority: int = 0
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class QueueOrder:
    """The order of the queue. `age_limit_seconds` is the wait after which a request is aged."""

    rule: QueueRule = "age"
    age_limit_seconds: float = 300.0
    unknown_seconds: float = 3600.0
    """The expected run of a request that does not say it, or what is expected to be left of one."""

    def __post_init__(self) -> None:
        if self.rule not in get_args(QueueRule):
            raise ValueError(f"unknown queue rule {self.rule}; use {' or '.join(get_args(QueueRule))}")
        if not self.age_limit_seconds > 0:
            raise ValueError(f"the age limit must be more than 0 s, not {self.age_limit_seconds}")

    def aged(self, waiting: Waiting, *, now: float) -> bool:
        """Whether it has waited for the age limit."""
        return now - waiting.since >= self.age_limit_seconds

    def rank(self, waiting: Waiting, *, now: float) -> tuple[float, ...]:
        """Lowest is served first."""
        if self.rule == "age":
            return (-waiting.priority, waiting.since)
        if self.aged(waiting, now=now):
            return (-waiting.priority, 0.0, waiting.since, 0.0)
        seconds = self.unknown_seconds if waiting.seconds is None else waiting.seconds
        left = 1.0 - max(0.0, now - waiting.since) / self.age_limit_seconds
        return (-waiting.priority, 1.0, waiting.slices * seconds * left, waiting.since)

    def sorted(self, waiting: Iterable[Waiting], *, now: float) -> list[Waiting]:
        """The queue in the order in which it is served; equal ranks keep the order in which they came in."""
        return sorted(waiting, key=lambda one: self.rank(one, now=now))
