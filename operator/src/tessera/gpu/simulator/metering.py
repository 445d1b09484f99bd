"""How much power a simulated GPU draws, how warm it gets and how busy its slices were. Pure.

A process that keeps a share of its slice busy draws that share of the slice's part of the power:

    power = idle + (limit - idle) * busy        busy: busy compute slices / all compute slices
    energy = integral of power over time
    temperature approaches 25 + 45 * power / limit degrees, with a time constant

so a GPU whose seven slices are all busy draws its power limit, and energy never falls. `advance` carries a
meter on to a later moment, through the moments at which processes began. These are figures of a model, to
test what reads them; none was measured.

Sources. Limit: `PROVENANCE.md`. Idle: public examples show 9 % of the limit (64 of 700 W,
NVIDIA's DGX manual on power capping), 15 % (46 of 300 W) and 22 % (87 of 400 W; nvidia-smi transcripts in
public issues). Temperature: the same transcripts show 26 to 33 degrees when idle; the 70 degrees at the
limit, the time constant and `ACTIVITY_WHILE_BUSY` are chosen, not taken from a source.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

IDLE_SHARE = 0.12
"""Power of an idle GPU by its limit."""

COOL_C = 25.0
"""Degrees Celsius of a GPU without power: the air that cools it."""

WARMING_C = 45.0
"""Degrees above `COOL_C` at the power limit, in the end."""

TIME_CONSTANT_S = 20.0
"""Seconds until a change of temperature is done to 63 %."""

ACTIVITY_WHILE_BUSY: Mapping[str, float] = {
    "engine": 1.0,
    "multiprocessors": 1.0,
    "occupancy": 0.5,
    "dram_bandwidth": 0.5,
}
"""What a busy slice uses, 0 to 1, of what it could: all multiprocessors, half of their warps, half of the
DRAM bandwidth.
"""


@dataclass(frozen=True, slots=True)
class Load:
    """A live process: what share of its compute slices it keeps busy, and since when (Unix time, seconds).

    `slices` is what it may use, as a share of the whole GPU; `instance` the serial of its GPU instance, 0 for
    none; `place` names what it shares with other processes: together they cannot be busier than 1.
    """

    place: int
    instance: int
    slices: float
    busy: float
    since: float


@dataclass(frozen=True, slots=True)
class Meter:
    """A GPU at one moment.

    `busy_s` are the seconds for which the whole GPU would have been busy with the same work: in all (key 0)
    and of each GPU instance, by its serial.
    """

    at: float
    energy_j: float = 0.0
    temperature_c: float = COOL_C + WARMING_C * IDLE_SHARE
    busy_s: Mapping[int, float] = field(default_factory=dict)


def power_w(limit_w: float, busy: float) -> float:
    """Watts of a GPU that is busy by that share, 0 to 1."""
    return limit_w * (IDLE_SHARE + (1 - IDLE_SHARE) * busy)


def business(loads: Iterable[Load]) -> dict[int, float]:
    """The share of the whole GPU that is busy, in all (key 0) and in each GPU instance, by its serial."""
    places: dict[tuple[int, int, float], float] = {}
    for load in loads:
        place = (load.place, load.instance, load.slices)
        places[place] = min(1.0, places.get(place, 0.0) + load.busy)
    found = {0: 0.0}
    for (_, instance, slices), busy in places.items():
        found[0] = min(1.0, found[0] + busy * slices)
        if instance:
            found[instance] = found.get(instance, 0.0) + busy * slices
    return found


def advance(meter: Meter, *, limit_w: float, loads: Sequence[Load], now: float) -> Meter:
    """The meter at `now`, with these loads since they began; unchanged when the clock stands or goes back."""
    starts = {load.since for load in loads if meter.at < load.since < now}
    for end in sorted({*starts, now}):
        if end > meter.at:
            running = [load for load in loads if load.since <= meter.at]
            meter = _steady(meter, limit_w=limit_w, busy=business(running), until=end)
    return meter


def _steady(meter: Meter, *, limit_w: float, busy: Mapping[int, float], until: float) -> Meter:
    """The meter after a time in which nothing changes."""
    seconds = until - meter.at
    power = power_w(limit_w, busy[0])
    goal = COOL_C + WARMING_C * power / limit_w
    left = math.exp(-seconds / TIME_CONSTANT_S)
    return Meter(
        at=until,
        energy_j=meter.energy_j + power * seconds,
        temperature_c=goal + (meter.temperature_c - goal) * left,
        busy_s={
            key: meter.busy_s.get(key, 0.0) + busy.get(key, 0.0) * seconds for key in {*meter.busy_s, *busy}
        },
    )
