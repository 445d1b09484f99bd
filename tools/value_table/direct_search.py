"""The last step of the training: how much of each part, found by trying policies on new workloads.

Relative values are measured under one policy, and are linear in the shares only by assumption. So what
they propose is taken apart, by profile, together with parts that follow from the geometry alone, and the
weights of the parts are searched directly for what counts: slices accepted, over the named mixes and
random ones. The parts of V:

    request share of p x (FGD+H + a(p) x learned change(p) + b(p) x F(p)),  slice share of p x c(p) x F(p),
    d x H(n),  e x [any tenant],  f x n²/20

with F(p) the free slices that profile p cannot use, n the number of tenants, H(n) = 1 + … + 1/n. The
slice share of a profile is its part of the slices asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import terms
from layouts import LayoutTables
from numpy.typing import NDArray
from search import minimise
from simulator import accepted, ranking, slice_share
from traces import Weights, Workload, draw

Floats = NDArray[np.float64]
DrawMix = Callable[[np.random.Generator], tuple[float, ...]]


@dataclass(frozen=True)
class Values:
    """[P, L] values by share of the requests, and by share of the slices asked for."""

    by_requests: Floats
    by_slices: Floats

    def under(self, weights: Weights, tables: LayoutTables) -> Floats:
        """[L] V for these shares of the requests."""
        shares = np.array(weights) / sum(weights)
        slices = shares * tables.size
        found: Floats = shares @ self.by_requests + slices / slices.sum() @ self.by_slices
        return found


@dataclass(frozen=True)
class Search:
    """Settings. In each round all candidates see the named mixes (counted one and a half times) and
    `random_mixes`
    others.
    """

    rounds: int = 120
    population: int = 14
    random_mixes: int = 6
    arrivals: int = 12_000
    step: float = 0.15


def composed(weights: Floats, learned: Floats, tables: LayoutTables) -> Values:
    """The values with these weights of the parts: a(p), b(p), c(p), d, e, f."""
    p = tables.profiles
    unusable, count = terms.unusable(tables), terms.tenants(tables)
    start = terms.fgd_h(tables)
    plain = weights[3 * p] * terms.harmonic(tables)
    plain = plain + weights[3 * p + 1] * (count > 0) + weights[3 * p + 2] * count**2 / 20
    by_requests = start + weights[:p, None] * (learned - start) + weights[p : 2 * p, None] * unusable + plain
    return Values(by_requests, weights[2 * p : 3 * p, None] * unusable)


def search(
    learned: Floats,
    tables: LayoutTables,
    settings: Search,
    *,
    named: tuple[Weights, ...],
    draw_mix: DrawMix,
    seed: int,
    report: Callable[[int, Values], None],
) -> Values:
    """The values whose weights of the parts accept most. Starts from the learned values as they are."""
    random = np.random.default_rng(seed)

    def objective(candidates: Floats, turn: int) -> Floats:
        mixes = [*named, *(draw_mix(random) for _ in range(settings.random_mixes))]
        lost = np.zeros(len(candidates))
        for at, mix in enumerate(mixes):
            workload = Workload(mix, arrivals=settings.arrivals, warm_up=0.15)
            number = int(random.integers(10**6, 10**9))
            trace = draw(workload, size=tables.size, slices=tables.slices, seed=number)
            for i, candidate in enumerate(candidates):
                decisions = ranking(composed(candidate, learned, tables).under(mix, tables), tables)
                share = slice_share(accepted(decisions, tables, trace), tables, trace)
                lost[i] -= share * (1.5 if at < len(named) else 1.0)
        return lost

    def tell(turn: int, mean: Floats) -> None:
        report(turn, composed(mean, learned, tables))

    p = tables.profiles
    start = np.zeros(3 * p + 3)
    start[:p] = 1.0
    best = minimise(
        objective,
        start,
        step=settings.step,
        rounds=settings.rounds,
        population=settings.population,
        seed=seed,
        report=tell,
    )
    return composed(best, learned, tables)
