"""How many placement decisions per second of CPU time: arrivals and departures on an H100 cluster near its
capacity.

Run `python tests/bench/placement_decisions.py`; it prints one JSON object. The load is that of an online loss
system: requests arrive by a fixed mix, live for an exponential time, and are turned away when they fit
nowhere; the cluster is filled first and only decisions after that are timed. "filtered" adds node filters:
each decision may use only a random tenth of the nodes.
"""

from __future__ import annotations

import argparse
import heapq
import json
import platform
import random
import sys
import time
from typing import Any

from tessera.placement.engine import Engine
from tessera.placement.geometry import Geometry, LegalPlacement, geometry_of
from tessera.placement.policies import POLICIES
from tessera.placement.request import Feasible, Unplaceable, request_for_profile
from tessera.placement.state import ClusterState

# NVIDIA's table for H100-80GB: profile -> (starts, memory slices, compute slices).
H100 = {
    "1g.10gb": ((0, 1, 2, 3, 4, 5, 6), 1, 1),
    "1g.20gb": ((0, 2, 4, 6), 2, 1),
    "2g.20gb": ((0, 2, 4), 2, 2),
    "3g.40gb": ((0, 4), 4, 3),
    "4g.40gb": ((0,), 4, 4),
    "7g.80gb": ((0,), 8, 7),
}
MEAN_SLICES = sum(width for _, width, _ in H100.values()) / len(H100)
GPUS_PER_NODE = 8


def h100() -> Geometry:
    """The geometry of the table above."""
    return geometry_of(
        model="H100-80GB",
        memory_slices=8,
        compute_slices=7,
        placements=tuple(
            LegalPlacement(profile, start, width, compute)
            for profile, (starts, width, compute) in H100.items()
            for start in starts
        ),
    )


def run(*, gpus: int, policy: str, decisions: int, seed: int, filtered: bool) -> dict[str, Any]:
    """Fill a cluster to an offered load of 1.0, then time `decisions` arrivals."""
    rng = random.Random(seed)
    state = ClusterState()
    geometry = h100()
    for number in range(gpus):
        state.add_gpu(f"gpu-{number}", node=f"node-{number // GPUS_PER_NODE}", geometry=geometry)
    nodes = list(state.nodes())
    engine = Engine(POLICIES[policy]())
    requests = {profile: request_for_profile(state, profile) for profile in H100}
    rate = gpus * 8 / MEAN_SLICES
    leaving: list[tuple[float, int]] = []
    now = 0.0
    spent: list[float] = []
    placed = 0
    warm_up = int(4 * rate)
    for arrival in range(warm_up + decisions):
        now += rng.expovariate(rate)
        while leaving and leaving[0][0] <= now:
            state.release(heapq.heappop(leaving)[1])
        profile = rng.choice(list(H100))
        engine.policy.record(profile)
        feasible = None
        if filtered:
            feasible = Feasible(state.bits_of_nodes(rng.sample(nodes, max(1, len(nodes) // 10))))
        started = time.process_time()
        answer = engine.place(state, [requests[profile]], feasible=feasible)
        if arrival >= warm_up:
            spent.append(time.process_time() - started)
            placed += not isinstance(answer, Unplaceable)
        if not isinstance(answer, Unplaceable):
            state.occupy(answer[0].gpu, answer[0].index, owner=arrival)
            heapq.heappush(leaving, (now + rng.expovariate(1.0), arrival))
    spent.sort()
    return {
        "gpus": gpus,
        "policy": policy,
        "filtered": filtered,
        "decisions": decisions,
        "accepted_percent": round(100 * placed / decisions, 2),
        "buckets": len(state.buckets(geometry)),
        "decisions_per_second": round(decisions / sum(spent)),
        "p50_microseconds": round(1e6 * spent[len(spent) // 2], 1),
        "p99_microseconds": round(1e6 * spent[int(len(spent) * 0.99)], 1),
    }


def main() -> None:
    """Print the results with their conditions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--policy", choices=sorted(POLICIES), default="fgd")
    parser.add_argument("--decisions", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    results = [
        run(
            gpus=gpus,
            policy=options.policy,
            decisions=options.decisions,
            seed=options.seed,
            filtered=filtered,
        )
        for gpus in options.gpus
        for filtered in (False, True)
    ]
    conditions = {"python": platform.python_version(), "machine": platform.machine(), "seed": options.seed}
    json.dump({"conditions": conditions, "results": results}, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
