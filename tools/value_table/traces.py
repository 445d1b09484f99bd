"""Random workloads of the loss system: Poisson arrivals, random lifetimes, nothing waits.

A trace is drawn once and shared by all policies (common random numbers), with its events already in order
of time: the departure of a request that was rejected is skipped when its turn comes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Weights = tuple[float, ...]

MIXES: dict[str, Weights] = {
    "uniform": (1 / 6,) * 6,
    "skew-small": (0.30, 0.25, 0.20, 0.10, 0.10, 0.05),
    "skew-big": (0.05, 0.10, 0.10, 0.20, 0.25, 0.30),
    "bimodal": (0.30, 0.15, 0.05, 0.05, 0.15, 0.30),
}


def named_mixes(profiles: int) -> dict[str, Weights]:
    """The four mixes for a class with this many profiles: their weights are read as a line through six
    points."""
    places = np.linspace(0, 5, profiles)
    lines = {name: np.interp(places, np.arange(6), weights) for name, weights in MIXES.items()}
    return {name: tuple(float(x) for x in line / line.sum()) for name, line in lines.items()}


@dataclass(frozen=True)
class Workload:
    """What is drawn: shares of the profiles, offered load (requested slices over slices), number of GPUs
    and arrivals,
    and the lifetimes: exponential, or lognormal with this sigma; their mean is 1.
    """

    weights: Weights
    load: float = 1.0
    gpus: int = 100
    arrivals: int = 40_000
    sigma: float | None = None
    warm_up: float = 0.3
    """Share of the arrivals that is not counted."""


class Trace(NamedTuple):
    """`events` holds i for the arrival and ~i for the departure of request i."""

    events: NDArray[np.int32]
    profile: NDArray[np.int32]
    gpus: int
    first_counted: int


def draw(workload: Workload, *, size: NDArray[np.int64], slices: int, seed: int) -> Trace:
    """The trace of a seed."""
    random = np.random.default_rng(seed)
    weights = np.array(workload.weights)
    weights = weights / weights.sum()
    count = workload.arrivals
    rate = workload.load * workload.gpus * slices / float(weights @ size)
    profile = random.choice(len(weights), size=count, p=weights).astype(np.int32)
    arrival = np.cumsum(random.exponential(1 / rate, size=count))
    if workload.sigma is None:
        lifetime = random.exponential(1.0, size=count)
    else:
        lifetime = np.exp(workload.sigma * random.standard_normal(count) - workload.sigma**2 / 2)
    times = np.concatenate([arrival, arrival + lifetime])
    numbers = np.concatenate([np.arange(count), ~np.arange(count)]).astype(np.int32)
    keep = times <= arrival[-1]
    order = np.argsort(times[keep], kind="stable")
    return Trace(numbers[keep][order], profile, workload.gpus, math.floor(workload.warm_up * count))
