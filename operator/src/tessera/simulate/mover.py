"""Makes room by moves in a simulation, within the rules: the planner and the budget of the real scheduler.

Without a ration the plan with the fewest victims is carried out whenever there is one. With a ration each
accepted request earns a part of a move, and a plan must be worth what it costs (`tessera.placement.budget`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import cast

from tessera.placement.budget import BudgetRule, MoveBudget
from tessera.placement.moves import UNDER_BUDGET, MovePlan, MovePlanner, PlanPrice, Victim
from tessera.placement.policies import POLICIES, Policy, ValuePolicy, make_policy
from tessera.placement.request import Request
from tessera.placement.state import ClusterState
from tessera.simulate.cluster import Cluster
from tessera.simulate.costs import MoveCosts
from tessera.simulate.errors import BadSimulationInput
from tessera.simulate.workload import Workload


@dataclass(frozen=True, slots=True)
class MoveRules:
    """How much may be moved: at most `most_victims` instances for one request (0: none), and at most
    `moves_per_100` for 100 accepted requests (None: without a ration).
    """

    most_victims: int = 0
    moves_per_100: float | None = None

    def __post_init__(self) -> None:
        if self.moves_per_100 is not None and not 0 <= self.moves_per_100 < math.inf:
            raise BadSimulationInput(
                f"--max-moves-per-100 {self.moves_per_100:g}",
                "a ration is a number, 0 or more",
                "Leave it out for no ration.",
            )

    def check(self, policy: Policy) -> None:
        """Raises BadSimulationInput when moves are allowed and this policy cannot plan them."""
        if self.most_victims:
            self.planner_for(policy)

    def planner_for(self, policy: Policy) -> MovePlanner:
        """What plans moves by this policy. Raises BadSimulationInput when it has no values to plan by."""
        if not isinstance(policy, ValuePolicy):
            able = [name for name in POLICIES if isinstance(make_policy(name), ValuePolicy)]
            raise BadSimulationInput(
                f"--policy {policy.name} with --max-victims {self.most_victims}",
                "moves are planned by the values of a policy, and this one has none",
                f"Use default, {', '.join(able)}.",
            )
        return MovePlanner(policy)


class Mover:
    """Plans moves, and keeps the account of them and of the time since each request was (re)started.

    Raises BadSimulationInput for a policy that cannot plan moves.
    """

    def __init__(
        self, policy: Policy, rules: MoveRules, *, workload: Workload, cluster: Cluster, costs: MoveCosts
    ) -> None:
        self._rules = rules
        self._workload = workload
        self._costs = costs
        self._planner = rules.planner_for(policy)
        self._restarted: dict[int, float] = {}
        self._budget: MoveBudget | None = None
        self._price = PlanPrice()
        if rules.moves_per_100 is not None:
            self._budget = MoveBudget(gpus=cluster.gpus, rule=BudgetRule(moves_per_100=rules.moves_per_100))
            self._price = UNDER_BUDGET

    def accepted(self) -> None:
        """A request was accepted."""
        if self._budget is not None:
            self._budget.accepted()

    def plan(self, state: ClusterState, request: int, wanted: Request) -> MovePlan | None:
        """The moves that make room for a request, in their order, when there are any that may be carried out.
        Once returned, they are paid for.
        """
        most = self._rules.most_victims
        if self._budget is not None:
            most = self._budget.affordable(most)
        if most < 1:
            return None
        now = self._workload.arrivals[request]

        def movable(owner: Hashable) -> Victim | None:
            return self._victim(state, cast(int, owner), now)

        plan = self._planner.plan(state, wanted, most_victims=most, movable=movable, price=self._price)
        if plan is None:
            return None
        moves, size = len(plan.moves), plan.placement.legal.width
        if self._budget is not None:
            if not self._budget.worth(size=size, moves=moves, value_change=plan.value_change):
                return None
            self._budget.spend(moves)
        for move in plan.moves:
            self._restarted[cast(int, move.owner)] = now
        return plan

    def _victim(self, state: ClusterState, owner: int, now: float) -> Victim | None:
        movable = self._workload.movable
        if movable is not None and not movable[owner]:
            return None
        held = state.holds(owner)
        if held is None:
            raise AssertionError(f"request {owner} is asked about and holds nothing")
        geometry, placement = held[0].geometry, held[0].geometry.placements[held[1]]
        started = self._restarted.get(owner, self._workload.arrivals[owner])
        return Victim(gpu_seconds=self._costs.gpu_seconds(geometry, placement, ran_for=now - started))
