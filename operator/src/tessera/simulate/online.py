"""The workload of an online loss system: Poisson arrivals at an offered load, and lifetimes of their own.

Load 1.0 means that the requested memory slices, if all were accepted, would on average just fill the cluster:
the arrival rate is load x slices of the cluster / (mean size x mean lifetime). What does not fit at once is
lost; there is no queue. Times, profiles and lifetimes come from three streams of random numbers, so that two
loads or two mixes share what they can.
"""

from __future__ import annotations

import math
import random
from itertools import accumulate

from tessera.simulate.cluster import Cluster
from tessera.simulate.errors import BadSimulationInput
from tessera.simulate.lifetimes import Lifetimes
from tessera.simulate.mixes import Mix
from tessera.simulate.workload import Workload, ordered_events

WARM_UP = 0.3
"""The share of arrivals that only fill the cluster."""

_LEAST_ARRIVALS = 40_000
_LIFETIMES_COVERED = 10


def population(cluster: Cluster, mix: Mix, *, load: float) -> float:
    """Requests that would be in the cluster on average if all were accepted."""
    return load * cluster.memory_slices / mix.mean_size(cluster)


def default_arrivals(cluster: Cluster, mix: Mix, *, load: float) -> int:
    """40,000, or ten lifetimes of arrivals where that is more: three of them warm the cluster up."""
    return max(_LEAST_ARRIVALS, math.ceil(_LIFETIMES_COVERED * population(cluster, mix, load=load)))


def check_load(load: float) -> None:
    """Raises BadSimulationInput for what is no offered load."""
    if not (math.isfinite(load) and load > 0):
        raise BadSimulationInput(
            f"--load {load:g}", "the offered load must be above 0", "1.0 fills the cluster."
        )


def poisson_workload(
    cluster: Cluster, mix: Mix, *, load: float, lifetimes: Lifetimes, arrivals: int, seed: int
) -> Workload:
    """The workload of one seed. Raises BadSimulationInput for a load or a number of arrivals that is not
    above 0.
    """
    check_load(load)
    if arrivals < 1:
        raise BadSimulationInput(f"--arrivals {arrivals}", "at least one request must arrive")
    profiles = tuple(mix.shares)
    gap = lifetimes.mean_seconds / population(cluster, mix, load=load)
    times = random.Random(f"{seed} arrivals")
    log, uniform = math.log, times.random
    arrived = list(accumulate([-gap * log(1.0 - uniform()) for _ in range(arrivals)]))
    wanted = random.Random(f"{seed} profiles").choices(
        range(len(profiles)), weights=list(mix.shares.values()), k=arrivals
    )
    stays = lifetimes.draw(random.Random(f"{seed} lifetimes"), arrivals)
    left = [start + stay for start, stay in zip(arrived, stays, strict=True)]
    return Workload(
        profiles=profiles,
        arrivals=arrived,
        departures=left,
        wanted=wanted,
        events=ordered_events(arrived, left),
        counted_from=int(WARM_UP * arrivals),
    )
