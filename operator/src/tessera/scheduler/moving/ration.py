"""How often pods may be moved: one account per MIGPartition, and who is left alone for a while.

The account is that of `placement.budget`: placements earn tokens, a move costs one. It is in memory and
starts empty, so that a restart makes moves rarer. Beside it stands what the partition allows in an hour: who
has left is counted by the minute and noted on the scheduler's Lease, so that it holds across leaders.

A victim is paid for when it has left; while it has not, no other plan of its partition begins, unless it may
not leave: then others begin, and what is promised to it is no more theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass

from tessera.placement.budget import BudgetRule, MoveBudget
from tessera.scheduler.departures import MINUTE, within_the_hour
from tessera.scheduler.reserves import MoveRule

LEFT_ALONE_SECONDS = 600.0
"""For so long a pod that was moved, or that could not be evicted, is no victim again."""


@dataclass(frozen=True, slots=True)
class Ration:
    """What is left for a partition: pods that may leave within this hour, and moves that are earned."""

    partition: str
    left_this_hour: int
    earned: float


class Account:
    """What one partition may still move. Times are seconds since the epoch."""

    def __init__(self, rule: MoveRule, *, gpus: int) -> None:
        self.rule = rule
        self._budget = MoveBudget(gpus=gpus, rule=BudgetRule(moves_per_100=float(rule.per_100)))
        self.promised = 0
        """Victims of plans under way that have still to leave, and will then be paid for."""
        self._left: Counter[int] = Counter()

    def follow(self, rule: MoveRule, *, gpus: int) -> None:
        """The partition's rule or its GPUs may have changed. Another ration begins with an empty account."""
        if rule.per_100 != self.rule.per_100:
            self._budget = MoveBudget(gpus=gpus, rule=BudgetRule(moves_per_100=float(rule.per_100)))
        else:
            self._budget.resize(gpus=gpus)
        self.rule = rule

    def accepted(self) -> None:
        """A slice was placed on the partition's GPUs."""
        self._budget.accepted()

    def movable_now(self, now: float, *, most: int | None = None) -> int:
        """How many victims a plan of moves may have at this moment: `most`, by default as many as may leave
        for one that waits, or less.
        """
        allowed = self.rule.most_victims if most is None else most
        affordable = self._budget.affordable(min(allowed, self._free_this_hour(now)) + self.promised)
        return max(0, affordable - self.promised)

    def preemptable_now(self, now: float) -> int:
        """How many victims a preemption may have at this moment."""
        return min(self.rule.most_victims, self._free_this_hour(now)) if self.rule.preempts else 0

    def _free_this_hour(self, now: float) -> int:
        return max(0, self.left_this_hour(now) - self.promised)

    def left_this_hour(self, now: float) -> int:
        """How many more pods may leave within this hour."""
        return max(0, self.rule.per_hour - sum(self.departures(now).values()))

    def departures(self, now: float) -> Mapping[int, int]:
        """How many left in each minute since the epoch, of those that count in this hour."""
        self._left = Counter(within_the_hour(self._left, now=now))
        return self._left

    def remember(self, departures: Mapping[int, int]) -> None:
        """Who had left already when this account was opened."""
        self._left.update(departures)

    @property
    def earned(self) -> float:
        """Moves that placements have earned and that are not spent yet."""
        return self._budget.tokens

    def worth(self, *, size: int, moves: int, value_change: float) -> bool:
        """Whether a plan of moves pays (see `placement.budget`)."""
        return self._budget.worth(size=size, moves=moves, value_change=value_change)

    def left(self, now: float, *, moved: bool) -> None:
        """A victim has left. What an earlier leader had begun may find the account empty."""
        self._left[int(now // MINUTE)] += 1
        if moved:
            self._budget.spend(self._budget.affordable(1))


class Unlimited(Account):
    """For an explanation: what would be done if the ration allowed it."""

    def movable_now(self, now: float, *, most: int | None = None) -> int:
        """As many as the partition allows at once."""
        allowed = self.rule.most_victims if most is None else most
        return allowed if self.rule.per_100 and self.rule.per_hour else 0

    def preemptable_now(self, now: float) -> int:
        """As many as the partition allows at once."""
        return self.rule.most_victims if self.rule.preempts and self.rule.per_hour else 0

    def worth(self, *, size: int, moves: int, value_change: float) -> bool:
        """The account is taken to be full."""
        return BudgetRule().gain(size=size, moves=moves, value_change=value_change, fullness=1.0) >= 0


class LeftAlone:
    """Whom not to ask, or not before others, each for ten minutes."""

    def __init__(self) -> None:
        self._until: dict[Hashable, float] = {}

    def add(self, who: Hashable, *, now: float) -> None:
        """It has had its trouble."""
        self._until[who] = now + LEFT_ALONE_SECONDS

    def now(self, now: float) -> Collection[Hashable]:
        """Who is to be left alone at this moment."""
        self._until = {who: until for who, until in self._until.items() if until > now}
        return self._until.keys()
