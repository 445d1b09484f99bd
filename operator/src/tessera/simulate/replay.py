"""A recorded or hand-made workload, read from a CSV file of events.

Columns `time,id,op,profile,movable`: `op` is `arrive` or `depart`; a departure needs no profile. Times are
seconds, in ascending order; events at one time happen in the order of the lines. An id arrives once. A
request that was rejected has a departure too; it is then nothing. `movable` is `true` or `false` and may be
left out: like a pod, a request is movable only when it says so.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path

from tessera.simulate.cluster import Cluster
from tessera.simulate.errors import BadSimulationInput
from tessera.simulate.input_file import text_of
from tessera.simulate.workload import Workload

_REQUIRED = ("time", "id", "op", "profile")
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False, "": False}


def read_events(path: Path, cluster: Cluster) -> Workload:
    """The workload of an events file. Raises BadSimulationInput with the line that is wrong."""
    text = text_of(path, kind="events file")
    rows = csv.DictReader(text.splitlines())
    missing = [column for column in _REQUIRED if column not in (rows.fieldnames or ())]
    if missing:
        raise BadSimulationInput(
            f"events file {path}",
            f"column {missing[0]} is missing" if text.strip() else "it is empty",
            "The first line is time,id,op,profile,movable.",
        )
    reader = _Reader(cluster)
    for row in rows:
        reader.read(row, where=f"events file {path}, line {rows.line_num}")
    if not reader.arrivals:
        raise BadSimulationInput(f"events file {path} has no arrival", remedy="Add lines with op arrive.")
    return reader.workload()


class _Reader:
    """Collects the requests line by line, and refuses what cannot be."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._profiles: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        self._now = -math.inf
        self.arrivals: list[float] = []
        self._departures: list[float] = []
        self._wanted: list[int] = []
        self._movable: list[bool] = []
        self._events: list[int] = []

    def read(self, row: Mapping[str, str | None], *, where: str) -> None:
        """One line."""
        cells = {name: (row.get(name) or "").strip() for name in (*_REQUIRED, "movable")}
        now = self._time(cells["time"], where=where)
        name, op = cells["id"], cells["op"]
        if not name:
            raise BadSimulationInput(where, "the id is empty", "Name every request.")
        if op == "arrive":
            self._arrive(name, cells, now, where=where)
        elif op == "depart":
            self._depart(name, now, where=where)
        else:
            raise BadSimulationInput(where, f"op {op!r} is unknown", "It is arrive or depart.")

    def _time(self, cell: str, *, where: str) -> float:
        try:
            now = float(cell)
        except ValueError:
            now = math.nan
        if not math.isfinite(now):
            raise BadSimulationInput(where, f"time {cell!r} is no number of seconds")
        if now < self._now:
            raise BadSimulationInput(
                where, f"time {now:g} lies before {self._now:g} of the line above", "Sort the events by time."
            )
        self._now = now
        return now

    def _arrive(self, name: str, cells: Mapping[str, str], now: float, *, where: str) -> None:
        if name in self._numbers:
            raise BadSimulationInput(
                where, f"id {name!r} has arrived before", "Give every request its own id."
            )
        self._cluster.check_profile(cells["profile"], where=where)
        movable = _TRUTH.get(cells["movable"].lower())
        if movable is None:
            raise BadSimulationInput(where, f"movable {cells['movable']!r} is neither true nor false")
        self._numbers[name] = len(self.arrivals)
        self._events.append(len(self.arrivals))
        self.arrivals.append(now)
        self._departures.append(math.inf)
        self._wanted.append(self._profiles.setdefault(cells["profile"], len(self._profiles)))
        self._movable.append(movable)

    def _depart(self, name: str, now: float, *, where: str) -> None:
        number = self._numbers.get(name)
        if number is None:
            raise BadSimulationInput(where, f"id {name!r} departs without having arrived")
        if self._departures[number] != math.inf:
            raise BadSimulationInput(where, f"id {name!r} has departed before")
        self._departures[number] = now
        self._events.append(~number)

    def workload(self) -> Workload:
        """All that was read; its profiles in the order of size."""
        profiles = tuple(profile for profile in self._cluster.sizes if profile in self._profiles)
        renumbered = {self._profiles[profile]: number for number, profile in enumerate(profiles)}
        return Workload(
            profiles=profiles,
            arrivals=self.arrivals,
            departures=self._departures,
            wanted=[renumbered[number] for number in self._wanted],
            events=self._events,
            ids=list(self._numbers),
            movable=self._movable,
        )
