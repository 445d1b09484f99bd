"""Who has left in the last hour, as it is written on the scheduler's own Lease: a new leader's hour goes on.

Whoever has left must be counted by the next leader too, also after kill -9. A victim is counted when it has
left. While its room is on record the next leader counts it from there, unless it reads here that it was
counted. Numbers are kept by the minute, so that the annotation stays small however much a partition allows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tessera.scheduler.move_records import CLOCK_SKEW_SECONDS, UNREADABLE

MINUTE = 60.0
_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Departures:
    """How many pods left in each minute since the epoch, by partition, and the UIDs of those of them whose
    rooms may still be on record.
    """

    by_minute: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    counted: frozenset[str] = frozenset()


def within_the_hour(by_minute: Mapping[int, int], *, now: float) -> dict[int, int]:
    """Of these minutes, those that count in this hour. A minute counts until all of it is an hour ago. One
    that lies ahead was written by a clock that was wrong.
    """
    first, last = int((now - _HOUR) // MINUTE), int((now + CLOCK_SKEW_SECONDS) // MINUTE)
    return {minute: n for minute, n in by_minute.items() if first <= minute <= last}


def write_departures(departures: Departures) -> str:
    """As an annotation."""
    left = {
        name: {str(minute): n for minute, n in by_minute.items()}
        for name, by_minute in sorted(departures.by_minute.items())
        if by_minute
    }
    return json.dumps({"left": left, "counted": sorted(departures.counted)}, separators=(",", ":"))


def read_departures(text: str) -> Departures:
    """What an annotation says. Only the scheduler may write its Lease; what cannot be read there counts as
    nothing.
    """
    try:
        return _read(json.loads(text)) if text else Departures()
    except UNREADABLE:
        return Departures()


def _read(note: dict[str, Any]) -> Departures:
    left = {
        str(name): {int(minute): max(0, int(n)) for minute, n in by_minute.items()}
        for name, by_minute in note["left"].items()
    }
    return Departures(left, frozenset(str(uid) for uid in note["counted"]))
