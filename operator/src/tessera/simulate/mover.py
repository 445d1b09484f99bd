"""Makes room by moves in a simulation, within the rules: the planner and the ration of `tessera.placement`.

Without a ration the plan with the fewest victims is carried out whenever there is one. With a ration each
accepted request earns a part of a move, and a plan must be worth what it costs (`tessera.placement.budget`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import cast

from tessera.placement.budget import BudgetRule, MoveBudget
from tessera.placement.compaction import pays, plan_compaction
from tessera.placement.moves import UNDER_BUDGET, Movable, Move, MovePlan, MovePlanner, PlanPrice, Victim
from tessera.placement.policies import POLICIES, Policy, ValuePolicy, make_policy
from tessera.placement.request import Request
from tessera.placement.state import ClusterState
from tessera.simulate.cluster import Cluster
from tessera.simulate.costs import MoveCosts
from tessera.simulate.errors import BadSimulationInput
from tessera.simulate.repacking import fewest_gpus_of
from tessera.simulate.workload import Workload


@dataclass(frozen=True, slots=True)
class MoveRules:
    """How much may be moved: at most `most_victims` instances for one request (0: none), and at most
    `moves_per_100` for 100 accepted requests (None: without a ration). `compact_every` so many seconds GPUs
    are emptied from what the ration has to spare (None: never).
    """

    most_victims: int = 0
    moves_per_100: float | None = None
    compact_every: float | None = None

    def __post_init__(self) -> None:
        if self.compact_every is not None and (
            self.moves_per_100 is None or not 0 < self.compact_every < math.inf
        ):
            raise BadSimulationInput(
                f"--compact-every {self.compact_every:g}",
                "GPUs are emptied from the ration of moves, every so many seconds (more than 0)",
                "Give --max-moves-per-100 too.",
            )
        if self.moves_per_100 is not None and not 0 <= self.moves_per_100 < math.inf:
            raise BadSimulationInput(
                f"--max-moves-per-100 {self.moves_per_100:g}",
                "a ration is a number, 0 or more",
                "Leave it out for no ration.",
            )

    def check(self, policy: Policy) -> None:
        """Raises BadSimulationInput when moves are allowed and this policy cannot plan them."""
        if self.allow_moves:
            self.planner_for(policy)

    @property
    def allow_moves(self) -> bool:
        """Whether anything may be moved."""
        return bool(self.most_victims or self.compact_every)

    def planner_for(self, policy: Policy) -> MovePlanner:
        """What plans moves by this policy. Raises BadSimulationInput when it has no values to plan by."""
        if not isinstance(policy, ValuePolicy):
            victims = f"--max-victims {self.most_victims}"
            asked = victims if self.most_victims else f"--compact-every {self.compact_every:g}"
            able = [name for name in POLICIES if isinstance(make_policy(name), ValuePolicy)]
            raise BadSimulationInput(
                f"--policy {policy.name} with {asked}",
                "moves are planned by the values of a policy, and this one has none",
                f"Use default, {', '.join(able)}.",
            )
        return MovePlanner(policy)

    def budget_for(self, *, gpus: int) -> MoveBudget | None:
        """The account of the ration, on so many GPUs; None without a ration."""
        if self.moves_per_100 is None:
            return None
        return MoveBudget(gpus=gpus, rule=BudgetRule(moves_per_100=self.moves_per_100))


RanFor = Callable[[Hashable], float | None]
"""For how many seconds what runs there has run since it was (re)started; None: it may not be moved."""


class RationedPlanner:
    """Plans moves within the rules, and keeps the account of the ration.

    Raises BadSimulationInput for a policy that cannot plan moves.
    """

    def __init__(self, policy: Policy, rules: MoveRules, *, costs: MoveCosts, gpus: int) -> None:
        self._most_victims = rules.most_victims
        self._costs = costs
        self._planner = rules.planner_for(policy)
        assert isinstance(policy, ValuePolicy), "the planner refuses all others"
        self._values = policy
        self._budget = rules.budget_for(gpus=gpus)
        self._price = PlanPrice() if self._budget is None else UNDER_BUDGET

    def accepted(self) -> None:
        """A request was accepted."""
        if self._budget is not None:
            self._budget.accepted()

    def plan(self, state: ClusterState, wanted: Request, *, ran_for: RanFor) -> MovePlan | None:
        """The moves that make room for a request, in their order, when there are any that may be carried out.
        Once returned, they are paid for.
        """
        most = self._most_victims
        if self._budget is not None:
            most = self._budget.affordable(most)
        if most < 1:
            return None

        movable = self._movable(state, ran_for)
        plan = self._planner.plan(state, wanted, most_victims=most, movable=movable, price=self._price)
        if plan is not None and self._budget is not None:
            moves, size = len(plan.moves), plan.placement.legal.width
            if not self._budget.worth(size=size, moves=moves, value_change=plan.value_change):
                return None
            self._budget.spend(moves)
        return plan

    def compaction(self, state: ClusterState, *, ran_for: RanFor) -> tuple[Move, ...]:
        """The moves that empty GPUs now, in their order, as far as they pay and the ration has them to spare.
        Once returned, they are paid for.
        """
        budget = self._budget
        if budget is None:
            return ()
        plan = plan_compaction(
            state,
            self._values,
            most_moves=budget.affordable(len(state.gpus)),
            movable=self._movable(state, ran_for),
            fewest_gpus=fewest_gpus_of(state),
            worth=lambda step: pays(step, budget, price=self._price),
        )
        budget.spend(len(plan.moves))
        return plan.moves

    def _movable(self, state: ClusterState, ran_for: RanFor) -> Movable:
        def movable(owner: Hashable) -> Victim | None:
            seconds = ran_for(owner)
            return None if seconds is None else self._victim(state, owner, seconds)

        return movable

    def _victim(self, state: ClusterState, owner: Hashable, ran_for: float) -> Victim:
        held = state.holds(owner)
        if held is None:
            raise AssertionError(f"{owner} is asked about and holds nothing")
        geometry = held[0].geometry
        placement = geometry.placements[held[1]]
        return Victim(gpu_seconds=self._costs.gpu_seconds(geometry, placement, ran_for=ran_for))


class Mover:
    """Makes room in a loss system, and knows the time since each request was (re)started.

    Raises BadSimulationInput for a policy that cannot plan moves.
    """

    def __init__(
        self, policy: Policy, rules: MoveRules, *, workload: Workload, cluster: Cluster, costs: MoveCosts
    ) -> None:
        self._workload = workload
        self._planner = RationedPlanner(policy, rules, costs=costs, gpus=cluster.gpus)
        self._restarted: dict[int, float] = {}
        self._every = rules.compact_every or math.inf
        self._due = self._every

    def accepted(self) -> None:
        """A request was accepted."""
        self._planner.accepted()

    def plan(self, state: ClusterState, request: int, wanted: Request) -> MovePlan | None:
        """The moves that make room for a request, as `RationedPlanner.plan` finds them."""
        now = self._workload.arrivals[request]
        plan = self._planner.plan(state, wanted, ran_for=self._ran_for(now))
        if plan is not None:
            self._note(plan.moves, now)
        return plan

    def compaction(self, state: ClusterState, request: int) -> tuple[Move, ...]:
        """The moves that empty GPUs before a request is decided, when it is time for that."""
        now = self._workload.arrivals[request]
        if now < self._due:
            return ()
        self._due = now + self._every
        moves = self._planner.compaction(state, ran_for=self._ran_for(now))
        self._note(moves, now)
        return moves

    def _ran_for(self, now: float) -> RanFor:
        movable, arrivals = self._workload.movable, self._workload.arrivals

        def ran_for(owner: Hashable) -> float | None:
            number = cast(int, owner)
            if movable is not None and not movable[number]:
                return None
            return now - self._restarted.get(number, arrivals[number])

        return ran_for

    def _note(self, moves: Iterable[Move], now: float) -> None:
        for move in moves:
            self._restarted[cast(int, move.owner)] = now
