"""Relative values for all mixes at once: policy iteration with values that are linear in the shares of
the requests.

For one mix, `relative_values` gives equations for a number per layout. With V = sum over profiles of
share x value(profile, layout), the equations of many random mixes become equations for the [P, L] values,
and their sum is solved once, held near the values at hand by a ridge. The policy then goes a part of the
way to the solution, and measures again under its own decisions. (All the way is too far: layouts that the
old policy hardly visits are known badly, and the new one would seek them out.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from layouts import LayoutTables
from numba import njit
from numpy.typing import NDArray
from relative_values import cluster_terms, equations
from simulator import ranking
from traces import Workload, draw

Floats = NDArray[np.float64]
DrawMix = Callable[[np.random.Generator], tuple[float, ...]]


@dataclass(frozen=True)
class Iteration:
    """Settings of the policy iteration. `ridge` weighs a squared change of a value against a thousandth
    of the
    states; `stray` is the chance of a placement against the policy, while states are collected.
    """

    rounds: int = 8
    workloads: int = 120
    arrivals: int = 20_000
    ridge: float = 0.6
    step: float = 0.2
    stray: float = 0.03


@njit(cache=True)
def _add_weighted(total, one, weights):  # type: ignore[no-untyped-def]
    """total += outer(weights, weights) (x) one, block by block."""
    n, count = len(one), len(weights)
    for p in range(count):
        for q in range(count):
            factor = weights[p] * weights[q]
            for i in range(n):
                for j in range(n):
                    total[p * n + i, q * n + j] += factor * one[i, j]


def iterate(
    start: Floats,
    tables: LayoutTables,
    settings: Iteration,
    *,
    draw_mix: DrawMix,
    random: np.random.Generator,
    report: Callable[[int, Floats], None],
) -> Floats:
    """[P, L] values: the mean over the second half of the rounds, which start from `start` [P, L]."""
    values, total, summed = start, np.zeros_like(start), 0
    for turn in range(settings.rounds):
        values = values + settings.step * (_solve(values, tables, settings, draw_mix, random) - values)
        report(turn, values)
        if turn >= settings.rounds // 2:
            total, summed = total + values, summed + 1
    return total / summed


def _solve(
    values: Floats, tables: LayoutTables, settings: Iteration, draw_mix: DrawMix, random: np.random.Generator
) -> Floats:
    profiles, layouts = values.shape
    extra = cluster_terms(tables)
    n = layouts + extra
    left, right, states = np.zeros((profiles * n, profiles * n)), np.zeros((profiles, n)), 0
    for _ in range(settings.workloads):
        weights = np.array(draw_mix(random))
        workload = Workload(tuple(weights), arrivals=settings.arrivals, warm_up=0.075)
        seed = int(random.integers(10**6, 10**9))
        trace = draw(workload, size=tables.size, slices=tables.slices, seed=seed)
        rates = workload.gpus * tables.slices / float(weights @ tables.size) * weights
        one = equations(
            ranking(weights @ values, tables), tables, trace, rates, stray=settings.stray, seed=seed
        )
        _add_weighted(left, one.left, weights)
        right += np.outer(weights, one.right)
        states += one.states
    held = np.zeros((profiles, n))
    held[:, :layouts] = settings.ridge * states / 1000
    held[:, layouts:] = 1e-6 * states
    now = np.concatenate([values, np.zeros((profiles, extra))], axis=1)
    left[np.diag_indices(profiles * n)] += held.ravel()
    solved: Floats = np.linalg.solve(left, (right + held * now).ravel()).reshape(profiles, n)
    return solved[:, :layouts]
