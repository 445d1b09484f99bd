"""What a search for moves costs, and what the parameters of the ration do, in the online loss system.

Run `python tests/bench/move_search.py`; it prints one JSON object. The runs are those of `tessera simulate
online` with a ration, at load 1.0 (`gap_to_pool_pct` and `moves_per_100` are its figures); around them stand
parameters of the ration that no command offers, and a clock. `search_milliseconds_…` is the processor time of
one search, over all searches of a run. With `--movable 0.3` only 30 % of the requests may be moved.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import time
from dataclasses import dataclass, field, replace
from typing import Any

from tessera.placement.budget import BudgetRule, MoveBudget
from tessera.placement.moves import MovePlan, MovePlanner
from tessera.placement.policies import Policy, ValuePolicy, make_policy
from tessera.simulate.cluster import parse_cluster
from tessera.simulate.costs import MoveCosts
from tessera.simulate.lifetimes import lifetimes_of
from tessera.simulate.loss_system import run
from tessera.simulate.measures import measure
from tessera.simulate.mixes import NAMED_MIXES, named_mix
from tessera.simulate.mover import MoveRules
from tessera.simulate.online import default_arrivals, poisson_workload
from tessera.simulate.pool import pool_decisions

LOAD = 1.0


class TimedPlanner(MovePlanner):
    """Notes the processor time of each search."""

    def __init__(self, policy: ValuePolicy, milliseconds: list[float]) -> None:
        super().__init__(policy)
        self._milliseconds = milliseconds

    def plan(self, *arguments: Any, **options: Any) -> MovePlan | None:
        """The search of the planner."""
        started = time.thread_time()
        plan = super().plan(*arguments, **options)
        self._milliseconds.append(1000 * (time.thread_time() - started))
        return plan


@dataclass(frozen=True)
class MeasuredRules(MoveRules):
    """The rules of one run, under any parameters of the ration, with the time of its searches."""

    ration: BudgetRule = field(default_factory=BudgetRule)
    milliseconds: list[float] = field(default_factory=list)

    def planner_for(self, policy: Policy) -> MovePlanner:
        """The planner, timed."""
        super().planner_for(policy)  # It refuses a policy without values.
        assert isinstance(policy, ValuePolicy)
        return TimedPlanner(policy, self.milliseconds)

    def budget_for(self, *, gpus: int) -> MoveBudget:
        """The account under these parameters."""
        return MoveBudget(gpus=gpus, rule=self.ration)


def main() -> None:
    """Print the results with their conditions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=100)
    parser.add_argument("--arrivals", type=int, help="default: those of `tessera simulate online`")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--policy", default="default")
    parser.add_argument("--mix", choices=NAMED_MIXES, nargs="+", default=list(NAMED_MIXES))
    parser.add_argument("--movable", type=float, default=1.0, metavar="SHARE")
    parser.add_argument("--max-victims", type=int, default=2)
    parser.add_argument("--max-moves-per-100", type=float, default=5.0)
    parser.add_argument("--caution", type=float, default=BudgetRule().caution)
    parser.add_argument("--saved-requests", type=float, default=BudgetRule().saved_requests_per_gpu)
    options = parser.parse_args()
    if not isinstance(make_policy(options.policy), ValuePolicy):
        parser.error(f"--policy {options.policy}: moves need a policy with values")
    ration = BudgetRule(
        moves_per_100=options.max_moves_per_100,
        caution=options.caution,
        saved_requests_per_gpu=options.saved_requests,
    )
    cluster = parse_cluster(["H100-80GB"], gpus=options.gpus)
    lifetimes = lifetimes_of("exponential")
    results: dict[str, Any] = {}
    for name in options.mix:
        mix = named_mix(name, cluster)
        arrivals = options.arrivals or default_arrivals(cluster, mix, load=LOAD)
        runs = []
        for seed in range(options.seeds):
            workload = poisson_workload(
                cluster, mix, load=LOAD, lifetimes=lifetimes, arrivals=arrivals, seed=seed
            )
            draw = random.Random(f"{seed} movable").random
            workload = replace(workload, movable=[draw() < options.movable for _ in range(arrivals)])
            rules = MeasuredRules(options.max_victims, options.max_moves_per_100, ration=ration)
            outcome = run(
                workload, cluster, make_policy(options.policy, seed=seed), rules=rules, costs=MoveCosts()
            )
            pool = pool_decisions(workload, cluster)
            figures, _ = measure(workload, cluster, outcome, pool=pool, costs=MoveCosts())
            spent = rules.milliseconds
            if len(spent) < 2:
                parser.error(f"{name}, seed {seed}: {arrivals} arrivals do not fill the cluster")
            runs.append(
                {
                    "gap_to_pool_pct": figures["gap_to_pool_pct"],
                    "moves_per_100": figures["moves_per_100"],
                    "searches": len(spent),
                    "search_milliseconds_mean": statistics.fmean(spent),
                    "search_milliseconds_p99": statistics.quantiles(spent, n=100)[98],
                }
            )
        results[name] = {key: [round(one[key], 3) for one in runs] for key in runs[0]}
    conditions = {"python": platform.python_version(), "machine": platform.machine(), **vars(options)}
    json.dump({"conditions": conditions, "results": results}, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
