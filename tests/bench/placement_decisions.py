"""How many placement decisions per second of CPU time, on one core: arrivals with their departures, in the
steady state of an online loss system on an H100 cluster.

Run `python tests/bench/placement_decisions.py`; it prints one JSON object. Requests arrive by a uniform
mix at an offered load of 1.0, live for an exponential time, and are turned away when they fit nowhere.
The cluster is filled first. Then blocks of arrivals are timed, with everything that belongs to them:
learning, the decision, the occupation, and the departures that are due. The times of arrivals and
departures are drawn and ordered before, as in `tessera simulate online`. With `--filtered` each
decision may use only a random tenth of the nodes, one of 100 such sets that are made before.

On a machine that others use too, caches and cores are shared and even CPU time grows; the best block
says what the code can do, the median what it did.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from tessera.boards import geometry_for
from tessera.placement.engine import Engine
from tessera.placement.geometry import Geometry
from tessera.placement.policies import POLICIES
from tessera.placement.state import ClusterState
from tessera.simulate.workload import ordered_events

GPUS_PER_NODE = 8
FILTERS = 100
BLOCKS = 20
WARM_UP_LIFETIMES = 4


class LossSystem:
    """Places requests when they arrive and lets go of them when they leave."""

    def __init__(self, geometry: Geometry, *, gpus: int, policy: str) -> None:
        self.state = ClusterState()
        for number in range(gpus):
            self.state.add_gpu(f"gpu-{number}", node=f"node-{number // GPUS_PER_NODE}", geometry=geometry)
        self.engine = Engine(POLICIES[policy]())
        self.accepted: set[int] = set()

    def serve(self, events: Sequence[int], wanted: Sequence[str], sets: Sequence[int]) -> None:
        """Take the events in turn: i is the arrival of request i, ~i its departure."""
        state, accepted = self.state, self.accepted
        record, choose = self.engine.policy.record, self.engine.choose
        for event in events:
            if event >= 0:
                profile = wanted[event]
                record(profile)
                place = choose(state, profile, feasible=sets[event % FILTERS] if sets else None)
                if place is not None:
                    state.occupy_at(place[0], place[1], event)
                    accepted.add(event)
            elif ~event in accepted:
                state.release(~event)


def run(*, gpus: int, policy: str, decisions: int, seed: int, filtered: bool) -> dict[str, Any]:
    """Fill a cluster to an offered load of 1.0, then time blocks of `decisions` arrivals in all."""
    rng = random.Random(seed)
    geometry = geometry_for("H100-80GB")
    system = LossSystem(geometry, gpus=gpus, policy=policy)
    sizes = [geometry.placements[geometry.placements_of(p)[0]].width for p in geometry.profiles]
    population = gpus * geometry.memory_slices / statistics.mean(sizes)
    nodes = list(system.state.nodes())
    tenth = max(1, len(nodes) // 10)
    sets = [system.state.bits_of_nodes(rng.sample(nodes, tenth)) for _ in range(FILTERS if filtered else 0)]
    warm_up = int(WARM_UP_LIFETIMES * population)
    total = warm_up + decisions
    arrived = list(accumulate(rng.expovariate(population) for _ in range(total)))
    left = [at + rng.expovariate(1.0) for at in arrived]
    wanted = rng.choices(geometry.profiles, k=total)
    events = ordered_events(arrived, left)
    first = events.index(warm_up)
    system.serve(events[:first], wanted, sets)
    before = len(system.accepted)
    speeds = []
    size = (len(events) - first) // BLOCKS
    for begin in range(first, first + BLOCKS * size, size):
        block = events[begin : begin + size]
        arrivals = sum(event >= 0 for event in block)
        started = time.process_time()
        system.serve(block, wanted, sets)
        speeds.append(arrivals / (time.process_time() - started))
    return {
        "gpus": gpus,
        "policy": policy,
        "filtered": filtered,
        "arrivals": decisions,
        "blocks": BLOCKS,
        "accepted_pct": round(100 * (len(system.accepted) - before) / decisions, 2),
        "layouts": sum(1 for _ in system.state.layouts(geometry)),
        "decisions_per_second_best": round(max(speeds)),
        "decisions_per_second_median": round(statistics.median(speeds)),
        "decisions_per_second_worst": round(min(speeds)),
    }


def main() -> None:
    """Print the results with their conditions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, nargs="+", default=[8_000, 80_000])
    parser.add_argument("--policy", nargs="+", default=["default"])
    parser.add_argument("--decisions", type=int, default=40_000, help="arrivals that are timed")
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
