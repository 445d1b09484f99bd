"""Keeping a large request from starving: the room that will be free for it soonest is closed for others.

On a busy cluster small requests take every slice that becomes free, and eight neighbouring slices never come
together by themselves. So a request that has waited for the age limit (`queue_order.py`) may *reserve* one
legal place: the instances that are there run to their end, and what becomes free is not given to others.

Which place is one minimum over every (GPU, start) of the request. The price of a place is what it wastes, in
slice-seconds: the slices of the request times the seconds until the last instance in the way has ended, plus
the seconds that each of its slices stands idle until then. So a place that is free soon wins, and among
places that are free at the same time the one whose instances end together. Of instances whose end nobody
knows each is taken to run on for the same mean time, independently of the others and of how long it has run:
the last of k ends after that time x (1 + 1/2 + ... + 1/k) (the mean of the greatest of k exponential times).
So a place with few of them is preferred.

The reserved room is closed by *placeholders*: legal placements, beside the running instances, after which
nothing more fits that overlaps the reserved place. They are ordinary entries of the cluster state, so no
other part of the engine has to know about reservations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass

from tessera.placement.geometry import Geometry
from tessera.placement.gpu_sets import numbers
from tessera.placement.layouts import layout_table
from tessera.placement.request import Feasible, Request
from tessera.placement.state import ClusterState, Gpu

ExpectedEnd = Callable[[Hashable], float | None]
"""When an owner is expected to end, in seconds of the caller's clock; None: not known, infinity: never."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """The place that is kept for a request.

    `ready_at` is when the last of `draining` is expected to end; `wasted_slice_seconds` is the price by
    which the place was chosen. `placeholders` are placement indices to occupy until then.
    """

    request: str
    alternative: str
    gpu: str
    index: int
    ready_at: float
    draining: tuple[Hashable, ...]
    placeholders: tuple[int, ...]
    wasted_slice_seconds: float


def choose_reservation(
    state: ClusterState,
    request: Request,
    *,
    expected_end: ExpectedEnd,
    now: float,
    feasible: Feasible | None = None,
    mean_seconds: float = math.inf,
) -> Reservation | None:
    """The place of one slice of the request that wastes least until it is free, or None when every place has
    an instance that never ends. Earlier alternatives of the request win over later ones; those that ask for
    several slices are left out.

    `mean_seconds` is how long an instance without a known end is expected to run on; by default for ever.

    Ties go to the place that is ready first, then to the lowest GPU and start. GPUs that hold overlapping
    instances (an error that somebody must resolve) are left out.
    """
    allowed = state.all_bits() if feasible is None else feasible.gpus
    for alternative in request.alternatives:
        best: tuple[tuple[float, float, int, int], Gpu, int] | None = None
        for offer in alternative.offers if alternative.count == 1 else ():
            for number in numbers(allowed & offer.gpus_in(state)):
                gpu = state.gpus[number]
                if gpu.overlapping:
                    continue
                ends = [(index, expected_end(owner)) for owner, index in gpu.held.items()]
                for index in offer.placements:
                    waste = _waste(offer.geometry, index, ends=ends, now=now, mean_seconds=mean_seconds)
                    if waste is None:
                        continue
                    rank = (*waste, number, offer.geometry.placements[index].start)
                    if best is None or rank < best[0]:
                        best = (rank, gpu, index)
        if best is not None:
            (wasted, ready_at, _, _), gpu, index = best
            return Reservation(
                request=request.name,
                alternative=alternative.name,
                gpu=gpu.name,
                index=index,
                ready_at=ready_at,
                draining=tuple(o for o, held in gpu.held.items() if gpu.geometry.overlap(held, index)),
                placeholders=closing_placements(gpu.geometry, gpu.held.values(), index),
                wasted_slice_seconds=wasted,
            )
    return None


def closing_placements(geometry: Geometry, held: Collection[int], index: int) -> tuple[int, ...]:
    """Placements to occupy beside those that are held, so that nothing more fits that overlaps `index`.

    Prefers those that take least outside the reserved place (slices, then resources of which a GPU has one),
    then the widest, so that few placeholders are needed.
    """
    wanted = geometry.placements[index]
    inside = range(wanted.start, wanted.start + wanted.width)
    table = layout_table(geometry)
    layout = table.number_of(tuple(held))

    def outside(other: int) -> tuple[int, int, int, int]:
        placement = geometry.placements[other]
        slices = range(placement.start, placement.start + placement.width)
        foreign = sum(name not in wanted.exclusive for name in placement.exclusive)
        shared = len(placement.exclusive) - foreign
        return (sum(s not in inside for s in slices), foreign, -shared, -placement.width)

    chosen: list[int] = []
    while open_ := [i for i in table.fitting(layout) if geometry.overlap(i, index)]:
        best = min(open_, key=outside)
        chosen.append(best)
        layout = table.after_placed(layout, best)
    return tuple(chosen)


def _waste(
    geometry: Geometry,
    index: int,
    *,
    ends: Sequence[tuple[int, float | None]],
    now: float,
    mean_seconds: float,
) -> tuple[float, float] | None:
    """(slice-seconds wasted, when it is ready), or None when an instance in the way never ends."""
    wanted = geometry.placements[index]
    free_from = [now] * geometry.memory_slices
    ready_at = last_unknown = now
    unknown = 0
    for held, known in ends:
        if not geometry.overlap(held, index):
            continue
        end = now + mean_seconds if known is None else known
        if end == math.inf:
            return None
        if known is None:
            unknown += 1
            last_unknown += mean_seconds / unknown
        placement = geometry.placements[held]
        ready_at = max(ready_at, end, last_unknown)
        for at in range(placement.start, placement.start + placement.width):
            free_from[at] = max(now, end)
    idle = sum(ready_at - free_from[at] for at in range(wanted.start, wanted.start + wanted.width))
    return (wanted.width * (ready_at - now) + idle, ready_at)
