"""How many placement decisions per second of CPU time, on one core: arrivals with their departures, in the
steady state of an online loss system on an H100 cluster.

Run `python tests/bench/placement_decisions.py`; it prints one JSON object. Requests arrive by a fixed mix
at an offered load of 1.0, live for an exponential time, and are turned away when they fit nowhere. The
cluster is filled first. Then whole blocks of arrivals are timed, everything included that belongs to them:
the departures that are due, learning, the decision and the occupation; only the random numbers are drawn
before. With `--filtered` each decision may use only a random tenth of the nodes, one of 100 such sets that
are made before.
"""

from __future__ import annotations

import argparse
import heapq
import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tessera.placement.engine import Engine
from tessera.placement.geometry import Geometry
from tessera.placement.policies import POLICIES
from tessera.placement.state import ClusterState
from tessera.simulate.models import geometry_for

GPUS_PER_NODE = 8
FILTERS = 100
BLOCKS = 5


@dataclass(frozen=True, slots=True)
class Arrival:
    """When a request comes, what it asks for, how long it stays (in mean lifetimes), and where it may go."""

    time: float
    profile: str
    lifetime: float
    feasible: int | None


class LossSystem:
    """Places arrivals and lets go of those whose time is over."""

    def __init__(self, geometry: Geometry, *, gpus: int, policy: str) -> None:
        self.state = ClusterState()
        for number in range(gpus):
            self.state.add_gpu(f"gpu-{number}", node=f"node-{number // GPUS_PER_NODE}", geometry=geometry)
        self.engine = Engine(POLICIES[policy]())
        self.accepted = 0
        self.arrived = 0
        self._leaving: list[tuple[float, int]] = []

    def serve(self, arrivals: Sequence[Arrival]) -> None:
        """Take the arrivals in turn."""
        state, engine, leaving = self.state, self.engine, self._leaving
        for arrival in arrivals:
            now = arrival.time
            while leaving and leaving[0][0] <= now:
                state.release(heapq.heappop(leaving)[1])
            owner = self.arrived = self.arrived + 1
            engine.policy.record(arrival.profile)
            place = engine.choose(state, arrival.profile, feasible=arrival.feasible)
            if place is not None:
                state.occupy_at(place[0], place[1], owner)
                heapq.heappush(leaving, (now + arrival.lifetime, owner))
                self.accepted += 1


def draw(
    rng: random.Random, *, count: int, after: float, rate: float, profiles: Sequence[str], sets: Sequence[int]
) -> list[Arrival]:
    """The next arrivals; profiles are equally likely."""
    arrivals = []
    for _ in range(count):
        after += rng.expovariate(rate)
        feasible = rng.choice(sets) if sets else None
        arrivals.append(Arrival(after, rng.choice(profiles), rng.expovariate(1.0), feasible))
    return arrivals


def run(*, gpus: int, policy: str, decisions: int, seed: int, filtered: bool) -> dict[str, Any]:
    """Fill a cluster to an offered load of 1.0, then time blocks of `decisions` arrivals."""
    rng = random.Random(seed)
    geometry = geometry_for("H100-80GB")
    system = LossSystem(geometry, gpus=gpus, policy=policy)
    sizes = [geometry.placements[geometry.placements_of(p)[0]].width for p in geometry.profiles]
    rate = gpus * geometry.memory_slices / statistics.mean(sizes)
    nodes = list(system.state.nodes())
    tenth = max(1, len(nodes) // 10)
    sets = [system.state.bits_of_nodes(rng.sample(nodes, tenth)) for _ in range(FILTERS if filtered else 0)]
    now = 0.0

    def arrivals(count: int) -> list[Arrival]:
        nonlocal now
        drawn = draw(rng, count=count, after=now, rate=rate, profiles=geometry.profiles, sets=sets)
        now = drawn[-1].time
        return drawn

    for _ in range(4):
        system.serve(arrivals(int(rate)))
    accepted = system.accepted
    speeds = []
    for _ in range(BLOCKS):
        block = arrivals(decisions)
        started = time.process_time()
        system.serve(block)
        speeds.append(decisions / (time.process_time() - started))
    return {
        "gpus": gpus,
        "policy": policy,
        "filtered": filtered,
        "arrivals_per_block": decisions,
        "accepted_pct": round(100 * (system.accepted - accepted) / (BLOCKS * decisions), 2),
        "layouts": sum(1 for _ in system.state.layouts(geometry)),
        "decisions_per_second": round(statistics.median(speeds)),
        "decisions_per_second_by_block": [round(speed) for speed in speeds],
    }


def main() -> None:
    """Print the results with their conditions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, nargs="+", default=[8_000, 80_000])
    parser.add_argument("--policy", nargs="+", default=["default"])
    parser.add_argument("--decisions", type=int, default=40_000, help="arrivals per timed block")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--filtered", action=argparse.BooleanOptionalAction, default=None)
    options = parser.parse_args()
    unknown = [name for name in options.policy if name not in POLICIES]
    if unknown:
        parser.error(f"policy {unknown[0]!r} does not exist; choose from {', '.join(POLICIES)}")
    results = [
        run(gpus=gpus, policy=policy, decisions=options.decisions, seed=options.seed, filtered=filtered)
        for gpus in options.gpus
        for policy in options.policy
        for filtered in ((False, True) if options.filtered is None else (options.filtered,))
    ]
    conditions = {"python": platform.python_version(), "machine": platform.machine(), "seed": options.seed}
    json.dump({"conditions": conditions, "results": results}, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
