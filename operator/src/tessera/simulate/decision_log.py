"""The log of a run: one JSON object per line for every decision, in the order of time.

`{"t": seconds, "id": ..., "op": "place|reject|move|release", "gpu": number, "profile": ..., "start": slice}`.

- `id` numbers the requests of `online` by arrival, from 0; in `replay` it is the id of the events file.
- `gpu` and `start` are null for `reject`; `leaves` is there when the request would have left (null: never),
  which the ideal pool needs to be counted again. A `release` names the place that becomes free. GPUs are
  numbered from 0 in the order of `config.cluster` of the report.
- A `move` takes its `id` from where it is to the place named. The moves that make room for a request come
  directly before its `place`, at the same `t`, and each goes to room that is free by then. So do those that
  empty GPUs; they come at the time of an arrival, before what is decided of it.
- When the file holds several runs, each line also has their `mix`, `load`, `policy` and `seed`.

Requests before `config.counted_from` are the warm-up: they are logged, and not counted in the figures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from tessera.simulate.cluster import Cluster
from tessera.simulate.loss_system import Outcome, Place
from tessera.simulate.workload import Workload


def write_log(
    file: TextIO,
    workload: Workload,
    cluster: Cluster,
    outcome: Outcome,
    *,
    run: Mapping[str, Any] | None = None,
) -> None:
    """Write the decisions of one run; `run` is added to every line."""
    for line in log_lines(workload, cluster, outcome):
        file.write(json.dumps({**line, **(run or {})}, separators=(",", ":")) + "\n")


def log_lines(workload: Workload, cluster: Cluster, outcome: Outcome) -> Iterator[dict[str, Any]]:
    """The lines of one run."""
    geometries = cluster.geometry_by_gpu()
    where: dict[int, Place] = {}

    def line(event: int, request: int, op: str, place: Place | None) -> dict[str, Any]:
        return {
            "t": workload.time_of(event),
            "id": request if workload.ids is None else workload.ids[request],
            "op": op,
            "gpu": None if place is None else place[0],
            "profile": workload.profiles[workload.wanted[request]],
            "start": None if place is None else geometries[place[0]].placements[place[1]].start,
        }

    for event in workload.events:
        if event < 0:
            place = where.pop(~event, None)
            if place is not None:
                yield line(event, ~event, "release", place)
            continue
        for move in outcome.compactions.get(event, ()):
            where[move.victim] = move.place
            yield line(event, move.victim, "move", move.place)
        place = outcome.placed[event]
        if place is None:
            leaves = workload.departures[event]
            yield line(event, event, "reject", None) | {"leaves": leaves if math.isfinite(leaves) else None}
            continue
        for move in outcome.relocations.get(event, ()):
            where[move.victim] = move.place
            yield line(event, move.victim, "move", move.place)
        where[event] = place
        yield line(event, event, "place", place)
