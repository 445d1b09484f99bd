"""What a search for moves costs, and what the parameters of the ration do, in the online loss system.

Run `python tests/bench/move_search.py`; it prints one JSON object. For every mix and seed the same requests
go through the ideal pool and through the placement engine with moves, at load 1.0. `gap` is the slice
acceptance minus that of the pool, in points; `moves_per_100` counts moves per 100 accepted requests; both
after the first 30 % of the arrivals. `search_milliseconds` is the processor time of one search.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from typing import Any

from tessera.placement.budget import BudgetRule, MoveBudget
from tessera.placement.engine import Engine
from tessera.placement.moves import UNDER_BUDGET, MovePlanner, Victim
from tessera.placement.policies import ValuePolicy, make_policy
from tessera.placement.request import request_for_profile
from tessera.simulate.cluster import Cluster, parse_cluster
from tessera.simulate.lifetimes import lifetimes_of
from tessera.simulate.mixes import NAMED_MIXES, named_mix
from tessera.simulate.online import poisson_workload
from tessera.simulate.pool import pool_decisions
from tessera.simulate.workload import Workload


def run(
    workload: Workload, cluster: Cluster, policy: ValuePolicy, rule: BudgetRule, most_victims: int
) -> dict[str, float]:
    """One run; every accepted request earns its share of the ration."""
    state = cluster.new_state()
    engine, planner, budget = Engine(policy), MovePlanner(policy), MoveBudget(gpus=cluster.gpus, rule=rule)
    requests = [request_for_profile(state, profile) for profile in workload.profiles]
    sizes = [cluster.sizes[profile] for profile in workload.profiles]
    accepted: set[int] = set()
    moved = 0
    spent: list[float] = []
    for event in workload.events:
        if event < 0:
            if ~event in accepted:
                state.release(~event)
            continue
        wanted = workload.wanted[event]
        policy.record(workload.profiles[wanted])
        place = engine.choose(state, workload.profiles[wanted])
        if place is not None:
            state.occupy_at(*place, event)
        else:
            most = budget.affordable(most_victims)
            if not most:
                continue
            started = time.thread_time()
            plan = planner.plan(
                state, requests[wanted], most_victims=most, movable=lambda owner: Victim(), price=UNDER_BUDGET
            )
            spent.append(1000 * (time.thread_time() - started))
            if plan is None:
                continue
            moves = len(plan.moves)
            if not budget.worth(size=sizes[wanted], moves=moves, value_change=plan.value_change):
                continue
            for move in plan.moves:
                state.release(move.owner)
                state.occupy(*move.target, owner=move.owner)
            state.occupy(plan.placement.gpu, plan.placement.index, owner=event)
            budget.spend(moves)
            moved += moves if event >= workload.counted_from else 0
        accepted.add(event)
        budget.accepted()
    counted = range(workload.counted_from, len(workload))
    pool = pool_decisions(workload, cluster)
    offered = sum(sizes[workload.wanted[i]] for i in counted)
    won = sum(sizes[workload.wanted[i]] * ((i in accepted) - pool[i]) for i in counted)
    return {
        "gap": 100 * won / offered,
        "moves_per_100": 100 * moved / sum(i in accepted for i in counted),
        "search_milliseconds_mean": statistics.fmean(spent),
        "search_milliseconds_p99": statistics.quantiles(spent, n=100)[98],
    }


def main() -> None:
    """Print the results with their conditions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=100)
    parser.add_argument("--arrivals", type=int, default=40_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--policy", default="default")
    parser.add_argument("--mix", choices=NAMED_MIXES, nargs="+", default=list(NAMED_MIXES))
    parser.add_argument("--max-victims", type=int, default=2)
    parser.add_argument("--max-moves-per-100", type=float, default=5.0)
    parser.add_argument("--caution", type=float, default=BudgetRule().caution)
    parser.add_argument("--tokens-per-gpu", type=float, default=BudgetRule().tokens_per_gpu)
    options = parser.parse_args()
    rule = BudgetRule(
        moves_per_100=options.max_moves_per_100,
        caution=options.caution,
        tokens_per_gpu=options.tokens_per_gpu,
    )
    cluster = parse_cluster(["H100-80GB"], gpus=options.gpus)
    lifetimes = lifetimes_of("exponential")
    results: dict[str, Any] = {}
    for name in options.mix:
        runs = []
        for seed in range(options.seeds):
            workload = poisson_workload(
                cluster,
                named_mix(name, cluster),
                load=1.0,
                lifetimes=lifetimes,
                arrivals=options.arrivals,
                seed=seed,
            )
            policy = make_policy(options.policy)
            if not isinstance(policy, ValuePolicy):
                parser.error(f"--policy {options.policy}: moves need a policy with values")
            runs.append(run(workload, cluster, policy, rule, options.max_victims))
        results[name] = {key: [round(one[key], 3) for one in runs] for key in runs[0]}
    conditions = {"python": platform.python_version(), "machine": platform.machine(), **vars(options)}
    json.dump({"conditions": conditions, "results": results}, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
