"""Moves in the queue: running jobs are restarted elsewhere so that a waiting one fits.

The planner and its ration are those of the loss system (`tessera.simulate.mover`); here they are asked for
the waiting jobs that have waited for `after_seconds`, in the order of the queue. A moved job loses what it
did since its last checkpoint and the time to start again, and then runs for what is left of its work.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, cast

from tessera.placement.moves import MovePlan
from tessera.placement.policies import Policy
from tessera.simulate.costs import MoveCosts
from tessera.simulate.mover import MoveRules, RationedPlanner
from tessera.simulate.queueing.cluster import QueueCluster
from tessera.simulate.queueing.workload import Job


class RunningJob(Protocol):
    """What the ration and the price of a move ask about a running job."""

    @property
    def start_ms(self) -> int: ...


@dataclass(frozen=True, slots=True)
class MoveRule(MoveRules):
    """How much may be moved, for whom (jobs that have waited for `after_seconds`), and what it costs."""

    after_seconds: float = 0.0
    costs: MoveCosts = field(default_factory=MoveCosts)

    def lost_ms(self, ran_ms: int) -> int:
        """The running time that a job loses when it is moved after so long."""
        return round(1000 * (self.costs.restart + self.costs.since_checkpoint(ran_ms / 1000)))


class Moves:
    """The moves of one run. Raises BadSimulationInput when the policy has no values to plan by."""

    def __init__(self, rule: MoveRule, policy: Policy, *, gpus: int) -> None:
        self.rule = rule
        self.made = 0
        self.gpu_seconds_lost = 0.0
        self._planner: RationedPlanner | None = None
        if rule.most_victims:
            self._planner = RationedPlanner(policy, rule, costs=rule.costs, gpus=gpus)

    def __bool__(self) -> bool:
        return self._planner is not None

    def accepted(self) -> None:
        """A job was started."""
        if self._planner is not None:
            self._planner.accepted()

    def may(self, job: Job, *, now_ms: int) -> bool:
        """Whether a job has waited long enough for moves."""
        return now_ms - job.arrival_ms >= 1000 * self.rule.after_seconds

    def plan(
        self, cluster: QueueCluster, job: Job, running: Mapping[int, RunningJob], *, now_ms: int
    ) -> MovePlan | None:
        """The moves that make room for a job, when there are any that may be made. They are then paid for."""
        if self._planner is None:
            return None

        def ran_for(owner: Hashable) -> float | None:
            # Placeholders of reservations are no jobs, and a job that is not there yet cannot be moved.
            one = running.get(cast(int, owner))
            if one is None or one.start_ms > now_ms:
                return None
            return (now_ms - one.start_ms) / 1000

        plan = self._planner.plan(cluster.state, cluster.requests[job.shape.profile], ran_for=ran_for)
        if plan is not None:
            self.made += len(plan.moves)
            self.gpu_seconds_lost += plan.gpu_seconds
        return plan
