"""Moves in the queue: running jobs are restarted elsewhere so that a waiting one fits.

The planner and its ration are the scheduler's (`tessera.placement.moves`, `tessera.placement.budget`); here
they are asked for the waiting jobs that have waited for `after_seconds`, in the order of the queue. A moved
job loses what it did since its last checkpoint and the time to start again, and then runs for what is left
of its work.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, cast

from tessera.placement.budget import BudgetRule, MoveBudget
from tessera.placement.moves import UNDER_BUDGET, MovePlan, MovePlanner, PlanPrice, Victim, gpu_seconds_lost
from tessera.placement.policies import Policy, ValuePolicy
from tessera.simulate.costs import MoveCosts
from tessera.simulate.errors import BadSimulationInput
from tessera.simulate.queueing.cluster import QueueCluster
from tessera.simulate.queueing.workload import Job


class RunningJob(Protocol):
    """What the ration and the price of a move ask about a running job."""

    @property
    def start_ms(self) -> int: ...


@dataclass(frozen=True, slots=True)
class MoveRule:
    """Which moves are made. `most_victims` 0: none. `moves_per_100` None: without a ration."""

    most_victims: int = 0
    moves_per_100: float | None = None
    after_seconds: float = 0.0
    costs: MoveCosts = field(default_factory=MoveCosts)

    def lost_ms(self, ran_ms: int) -> int:
        """The running time that a job loses when it is moved after so long."""
        every = self.costs.checkpoint_every * 1000
        return round(self.costs.restart * 1000 + (ran_ms % every if every else 0))


class Moves:
    """The moves of one run. Raises BadSimulationInput when the policy has no values to plan by."""

    def __init__(self, rule: MoveRule, policy: Policy, *, gpus: int) -> None:
        self.rule = rule
        self.made = 0
        self.gpu_seconds_lost = 0.0
        self._planner: MovePlanner | None = None
        self._budget: MoveBudget | None = None
        if rule.most_victims:
            if not isinstance(policy, ValuePolicy):
                raise BadSimulationInput(
                    f"--policy {policy.name} with --max-victims {rule.most_victims}",
                    "moves are planned by the values of a policy, and this one has none",
                    "Use default, fgd, fgd-h, table, mfi or mcc.",
                )
            self._planner = MovePlanner(policy)
            if rule.moves_per_100 is not None:
                self._budget = MoveBudget(gpus=gpus, rule=BudgetRule(moves_per_100=rule.moves_per_100))

    def __bool__(self) -> bool:
        return self._planner is not None

    def accepted(self) -> None:
        """A job was started."""
        if self._budget is not None:
            self._budget.accepted()

    def may(self, job: Job, *, now_ms: int) -> bool:
        """Whether a job has waited long enough for moves."""
        return now_ms - job.arrival_ms >= 1000 * self.rule.after_seconds

    def plan(
        self, cluster: QueueCluster, job: Job, running: Mapping[int, RunningJob], *, now_ms: int
    ) -> MovePlan | None:
        """The moves that make room for a job, when there are any that may be made. They are then paid for."""
        most = self.rule.most_victims
        if self._budget is not None:
            most = self._budget.affordable(most)
        if self._planner is None or most < 1:
            return None

        def movable(owner: Hashable) -> Victim | None:
            # Placeholders of reservations are no jobs, and a job that is not there yet cannot be moved.
            one = running.get(cast(int, owner))
            if one is None or one.start_ms > now_ms:
                return None
            return Victim(gpu_seconds=self._gpu_seconds(cluster, cast(int, owner), now_ms - one.start_ms))

        plan = self._planner.plan(
            cluster.state,
            cluster.requests[job.shape.profile],
            most_victims=most,
            movable=movable,
            price=PlanPrice() if self._budget is None else UNDER_BUDGET,
        )
        if plan is None:
            return None
        if self._budget is not None:
            count, size = len(plan.moves), plan.placement.legal.width
            if not self._budget.worth(size=size, moves=count, value_change=plan.value_change):
                return None
            self._budget.spend(count)
        self.made += len(plan.moves)
        self.gpu_seconds_lost += plan.gpu_seconds
        return plan

    def _gpu_seconds(self, cluster: QueueCluster, owner: int, ran_ms: int) -> float:
        held = cluster.state.holds(owner)
        assert held is not None
        gpu, index = held
        return gpu_seconds_lost(
            gpu.geometry,
            gpu.geometry.placements[index],
            since_checkpoint_seconds=self.rule.lost_ms(ran_ms) / 1000 - self.rule.costs.restart,
            restart_seconds=self.rule.costs.restart,
            reslice_seconds=self.rule.costs.create + self.rule.costs.delete,
        )
