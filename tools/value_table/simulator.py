"""The loss system under a value table, compiled: some tens of nanoseconds per decision at 100 GPUs.

A policy is a number per layout; a request goes to the placement with the least growth V(after) -
V(before), ties to the lowest GPU, then to the lowest start. For each profile the layouts are ranked once,
so that a decision is one minimum over the GPUs of a small integer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from layouts import LayoutTables
from numba import njit
from numpy.typing import NDArray
from traces import Trace

TIE = 1e-9
NOWHERE = np.int32(2**30)
GPU_BITS = 14
"""A rank and a GPU number share an integer; at most 16,384 GPUs and 2**16 ranks."""


class Ranking(NamedTuple):
    """[P, L]: the place of a layout among all for a profile (shifted by the GPU bits), the placement that
    is best there, and the layout that it leads to.
    """

    rank: NDArray[np.int32]
    choice: NDArray[np.int32]
    after: NDArray[np.int32]


@njit(cache=True)
def _rank(values, placed, profile_of, profiles):  # type: ignore[no-untyped-def]
    count, placements = placed.shape
    rank = np.full((profiles, count), NOWHERE, dtype=np.int32)
    index = np.zeros((profiles, count), dtype=np.int32)
    after = np.zeros((profiles, count), dtype=np.int32)
    growth = np.empty(count)
    for p in range(profiles):
        growth[:] = np.inf
        for at in range(count):
            for a in range(placements):
                to = placed[at, a]
                if profile_of[a] == p and to >= 0:
                    grown = values[to] - values[at]
                    if grown < growth[at] - TIE:
                        growth[at] = grown
                        index[p, at] = a
                        after[p, at] = to
        order = np.argsort(growth)
        place = 0
        last = growth[order[0]]
        for position in range(count):
            at = order[position]
            if growth[at] == np.inf:
                break
            if growth[at] > last + TIE:
                place += 1
                last = growth[at]
            rank[p, at] = place << GPU_BITS
    return rank, index, after


def ranking(values: NDArray[np.float64], tables: LayoutTables) -> Ranking:
    """The decisions of a value table."""
    return Ranking(*_rank(values, tables.placed, tables.profile_of, tables.profiles))


@njit(cache=True)
def _run(rank, index, after, removed, events, profile, gpus, first_counted):  # type: ignore[no-untyped-def]
    layout = np.zeros(gpus, dtype=np.int32)
    where = np.full(len(profile), -1, dtype=np.int32)
    which = np.zeros(len(profile), dtype=np.int8)
    accepted = np.zeros(len(rank), dtype=np.int64)
    for event in events:
        if event < 0:
            g = where[~event]
            if g >= 0:
                layout[g] = removed[layout[g], which[~event]]
            continue
        p = profile[event]
        best = NOWHERE
        ranks = rank[p]
        for g in range(gpus):
            found = ranks[layout[g]] + np.int32(g)
            if found < best:
                best = found
        if best < NOWHERE:
            g = best & ((1 << GPU_BITS) - 1)
            which[event] = index[p, layout[g]]
            where[event] = g
            layout[g] = after[p, layout[g]]
            if event >= first_counted:
                accepted[p] += 1
    return accepted


@njit(cache=True)
def _pool(events, profile, size, slices, first_counted):  # type: ignore[no-untyped-def]
    taken = np.zeros(len(profile), dtype=np.bool_)
    accepted = np.zeros(len(size), dtype=np.int64)
    used = 0
    for event in events:
        if event < 0:
            if taken[~event]:
                used -= size[profile[~event]]
            continue
        p = profile[event]
        if used + size[p] <= slices:
            used += size[p]
            taken[event] = True
            if event >= first_counted:
                accepted[p] += 1
    return accepted


def accepted(decisions: Ranking, tables: LayoutTables, trace: Trace) -> NDArray[np.int64]:
    """[P] requests accepted after the warm-up."""
    found: NDArray[np.int64] = _run(*decisions, tables.removed, *trace)
    return found


def accepted_by_pool(tables: LayoutTables, trace: Trace) -> NDArray[np.int64]:
    """[P] requests that one pool of slices without any geometry would accept: the bound to compare with."""
    slices = trace.gpus * tables.slices
    found: NDArray[np.int64] = _pool(trace.events, trace.profile, tables.size, slices, trace.first_counted)
    return found


def slice_share(counts: NDArray[np.int64], tables: LayoutTables, trace: Trace) -> float:
    """Slice acceptance in percent."""
    counted = trace.profile[trace.first_counted :]
    return 100.0 * float(counts @ tables.size) / float(tables.size[counted].sum())
