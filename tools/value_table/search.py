"""Search without gradients for some tens of numbers under noise: CMA-ES (Hansen, "The CMA Evolution
Strategy: A Tutorial", arXiv 1604.00772, with the default constants given there).

Candidates are drawn from a normal distribution, which moves toward the better half and learns its scale
and directions. Only the order of the candidates counts, so that one objective may be measured on new
random workloads in each round, as long as all candidates of a round share them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def minimise(
    objective: Callable[[Floats, int], Floats],
    start: Floats,
    *,
    step: float,
    rounds: int,
    population: int,
    seed: int,
    report: Callable[[int, Floats], None] | None = None,
) -> Floats:
    """The mean of the distribution, averaged over the last third of the rounds.

    `objective(candidates, round)` gives one number per row of candidates; lower is better.
    """
    random = np.random.default_rng(seed)
    n = len(start)
    parents = population // 2
    weights = math.log(parents + 0.5) - np.log(np.arange(1, parents + 1))
    weights /= weights.sum()
    effective = 1.0 / float(weights @ weights)
    rate_sigma = (effective + 2) / (n + effective + 5)
    damping = 1 + 2 * max(0.0, math.sqrt((effective - 1) / (n + 1)) - 1) + rate_sigma
    rate_path = (4 + effective / n) / (n + 4 + 2 * effective / n)
    rate_one = 2 / ((n + 1.3) ** 2 + effective)
    rate_mu = min(1 - rate_one, 2 * (effective - 2 + 1 / effective) / ((n + 2) ** 2 + effective))
    length = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))

    mean, sigma, covariance = start.astype(np.float64), step, np.eye(n)
    path, path_sigma = np.zeros(n), np.zeros(n)
    total, summed = np.zeros(n), 0
    for turn in range(rounds):
        spread, axes = np.linalg.eigh(covariance)
        spread = np.sqrt(np.maximum(spread, 1e-20))
        normal = random.standard_normal((population, n))
        moves = normal * spread @ axes.T
        scores = objective(mean + sigma * moves, turn)
        best = moves[np.argsort(scores, kind="stable")[:parents]]
        move = weights @ best
        mean = mean + sigma * move
        white = axes @ ((axes.T @ move) / spread)
        path_sigma = (1 - rate_sigma) * path_sigma + math.sqrt(
            rate_sigma * (2 - rate_sigma) * effective
        ) * white
        norm = float(np.linalg.norm(path_sigma))
        stall = norm / math.sqrt(1 - (1 - rate_sigma) ** (2 * (turn + 1))) < (1.4 + 2 / (n + 1)) * length
        path = (1 - rate_path) * path + stall * math.sqrt(rate_path * (2 - rate_path) * effective) * move
        covariance = (
            (1 - rate_one - rate_mu) * covariance
            + rate_one * (np.outer(path, path) + (not stall) * rate_path * (2 - rate_path) * covariance)
            + rate_mu * (best.T * weights) @ best
        )
        sigma *= math.exp(rate_sigma / damping * (norm / length - 1))
        if turn >= rounds - rounds // 3:
            total += mean
            summed += 1
        if report is not None:
            report(turn, mean)
    return total / summed if summed else mean
