"""A workload: requests with their arrival, their departure and their profile, fixed before any policy sees
them.

Because departures do not depend on what a policy does, the whole order of events can be written down
beforehand. Every policy is given the same one, so that their differences are not noise (common random
numbers). A request that was rejected has a departure too; it is then nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """Request i asks for profile `profiles[wanted[i]]` at `arrivals[i]` and leaves at `departures[i]`
    (seconds; infinite: never).

    `events` is the order in which things happen: i is the arrival of request i, ~i (negative) its departure.
    Requests before `counted_from` only warm the cluster up and are not counted. `ids` are names for the log
    (None: the numbers). `movable` says which requests may be moved (None: all).
    """

    profiles: tuple[str, ...]
    arrivals: Sequence[float]
    departures: Sequence[float]
    wanted: Sequence[int]
    events: Sequence[int]
    counted_from: int = 0
    ids: Sequence[str] | None = None
    movable: Sequence[bool] | None = None

    def __len__(self) -> int:
        return len(self.arrivals)

    def time_of(self, event: int) -> float:
        """When an event happens, in seconds."""
        return self.arrivals[event] if event >= 0 else self.departures[~event]

    def first_counted_event(self) -> int:
        """The position in `events` of the first counted arrival."""
        return self.events.index(self.counted_from) if self.counted_from < len(self) else len(self.events)


def ordered_events(arrivals: Sequence[float], departures: Sequence[float]) -> list[int]:
    """All events up to the last arrival by time; at equal times departures first. `arrivals` is ascending."""
    end = arrivals[-1]
    leaving = sorted((i for i in range(len(arrivals)) if departures[i] <= end), key=departures.__getitem__)
    events: list[int] = []
    position = 0
    for request, now in enumerate(arrivals):
        # A lifetime below the resolution of the clock ends at the arrival's own time, but not before it.
        while (
            position < len(leaving) and departures[leaving[position]] <= now and leaving[position] < request
        ):
            events.append(~leaving[position])
            position += 1
        events.append(request)
    return events
