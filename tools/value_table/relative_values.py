"""What a layout is worth under a policy, measured: the relative values of the loss system, by least squares.

The cluster is a Markov chain (lifetimes are exponential), and its relative value h(state) says how many
slices more will be lost, in the long run, when it starts in this state rather than in a typical one. h is
looked for in the form

    h(state) = sum over GPUs of V(layout) + terms of the whole cluster

so that V(after) - V(before) is what a placement costs. For each state that a simulation visits,
everything else in Poisson's equation, loss rate - mean loss rate + (expected change of h per unit of
time) = 0, is known exactly: the rates of arrivals and departures, where the policy would place each
profile, what is rejected. So the only noise is that of the states visited; the equation is fitted by the
method of temporal differences (LSTD, Bradtke and Barto 1996, with expected instead of sampled steps).

The terms of the whole cluster (powers of the free room, the number of instances of each profile) are the
same after every placement of a request, hence no policy depends on them. They are there so that V need
not explain how full the cluster is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from layouts import LayoutTables
from numba import njit
from numpy.typing import NDArray
from simulator import GPU_BITS, NOWHERE, Ranking
from traces import Trace

Floats = NDArray[np.float64]


def cluster_terms(tables: LayoutTables) -> int:
    """How many terms of the whole cluster there are."""
    return 3 + tables.profiles


@dataclass(frozen=True)
class Equations:
    """left @ h = right, for h = (V of each layout, cluster terms), from `states` states of one workload."""

    left: Floats
    right: Floats
    states: int


@njit(cache=True)
def _room(free):  # type: ignore[no-untyped-def]
    """The terms of the free room, given in slices per GPU."""
    return free * free, free * free * free, np.exp(-4 * free)


@njit(cache=True)
def _decide(ranks, index, placed, layout, profile_of, p, stray):  # type: ignore[no-untyped-def]
    """The GPU and the placement that the policy takes, or, with chance `stray`, some other that fits."""
    best = NOWHERE
    for g in range(len(layout)):
        found = ranks[layout[g]] + np.int32(g)
        if found < best:
            best = found
    if best == NOWHERE:
        return -1, -1
    gpu = best & ((1 << GPU_BITS) - 1)
    if np.random.random() < stray:
        for _ in range(60):
            g = np.random.randint(len(layout))
            a = np.random.randint(len(profile_of))
            if profile_of[a] == p and placed[layout[g], a] >= 0:
                return g, a
    return gpu, index[layout[gpu]]


@njit(cache=True)
def _expected_change(cells, count, free, instances, ranking, tables, rates, change):  # type: ignore[no-untyped-def]
    """Adds the expected change of every term per unit of time to `change`; returns the loss rate.

    `cells` are the layouts that GPUs have, `free` the free slices per GPU.
    """
    rank, _, after = ranking
    _, removed, _, size, gpus = tables
    layouts = len(count)
    now = _room(free)
    loss = 0.0
    for p in range(len(size)):
        best, chosen = NOWHERE, -1
        for at in cells:
            if rank[p, at] < best:
                best, chosen = rank[p, at], at
        with_one_less = _room(free + size[p] / gpus)
        for u in range(3):
            change[layouts + u] += instances[p] * (with_one_less[u] - now[u])
        change[layouts + 3 + p] -= instances[p] / 10
        if chosen < 0:
            loss += rates[p] * size[p]
            continue
        change[chosen] -= rates[p]
        change[after[p, chosen]] += rates[p]
        with_one_more = _room(free - size[p] / gpus)
        for u in range(3):
            change[layouts + u] += rates[p] * (with_one_more[u] - now[u])
        change[layouts + 3 + p] += rates[p] / 10
    for at in cells:
        for a in range(removed.shape[1]):
            if removed[at, a] >= 0:
                change[at] -= count[at]
                change[removed[at, a]] += count[at]
    return loss


@njit(cache=True)
def _visit(ranking, tables, trace, rates, every, stray, seed, sums):  # type: ignore[no-untyped-def]
    """Runs the trace and adds every `every`-th counted state to the sums."""
    np.random.seed(seed)
    rank, index, _ = ranking
    placed, removed, profile_of, size, gpus = tables
    events, profile, _, first_counted = trace
    products, with_loss, terms_sum, change_sum, totals = sums
    layouts, profiles = len(placed), len(size)
    layout = np.zeros(gpus, dtype=np.int32)
    count = np.zeros(layouts)
    count[0] = gpus
    instances = np.zeros(profiles)
    where = np.full(len(profile), -1, dtype=np.int32)
    which = np.zeros(len(profile), dtype=np.int32)
    terms = np.zeros(layouts + 3 + profiles)
    change = np.zeros(layouts + 3 + profiles)
    used = 0.0
    for event in events:
        if event < 0:
            g = where[~event]
            if g >= 0:
                count[layout[g]] -= 1
                layout[g] = removed[layout[g], which[~event]]
                count[layout[g]] += 1
                used -= size[profile[~event]]
                instances[profile[~event]] -= 1
            continue
        if event >= first_counted and event % every == 0:
            free = totals[2] - used / gpus
            cells = np.flatnonzero(count)
            terms[:layouts] = count
            terms[layouts : layouts + 3] = _room(free)
            terms[layouts + 3 :] = instances / 10
            change[:] = 0
            loss = _expected_change(cells, count, free, instances, ranking, tables, rates, change)
            moving = np.flatnonzero(change)
            for i in np.flatnonzero(terms):
                with_loss[i] += terms[i] * loss
                terms_sum[i] += terms[i]
                for j in moving:
                    products[i, j] += terms[i] * change[j]
            change_sum += change
            totals[0] += 1
            totals[1] += loss
        p = profile[event]
        g, a = _decide(rank[p], index[p], placed, layout, profile_of, p, stray)
        if g >= 0:
            where[event], which[event] = g, a
            count[layout[g]] -= 1
            layout[g] = placed[layout[g], a]
            count[layout[g]] += 1
            used += size[p]
            instances[p] += 1


def equations(
    decisions: Ranking, tables: LayoutTables, trace: Trace, rates: Floats, *, stray: float, seed: int
) -> Equations:
    """The equations of one workload under a policy. `rates` are arrivals per mean lifetime by profile;
    `stray` is
    the chance that a request is placed anywhere it fits, so that the simulation also sees what the policy
    avoids.
    """
    n = len(tables.layouts) + cluster_terms(tables)
    products, with_loss, terms_sum, change_sum = np.zeros((n, n)), np.zeros(n), np.zeros(n), np.zeros(n)
    totals = np.array([0.0, 0.0, tables.slices])
    arrays = (tables.placed, tables.removed, tables.profile_of, tables.size, trace.gpus)
    sums = (products, with_loss, terms_sum, change_sum, totals)
    _visit(tuple(decisions), arrays, tuple(trace), rates, 6, stray, seed, sums)
    states, loss = totals[0], totals[1]
    return Equations(
        left=np.outer(terms_sum, change_sum) / states - products,
        right=with_loss - terms_sum * loss / states,
        states=int(states),
    )
