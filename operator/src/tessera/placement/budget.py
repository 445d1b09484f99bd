"""How many moves the cluster may make, and whether a plan is worth its moves now.

Moving an instance stops its pod, so moves are rationed by accepted requests: each accepted request earns
`moves_per_100 / 100` tokens, a move costs one, and no plan may cost more than there is. The account starts
empty and never goes below zero, so on any prefix of the history there are at most `moves_per_100` moves per
100 accepted requests. It holds at most what `saved_requests_per_gpu` accepted requests per GPU earn, so that
a long quiet time does not buy a storm. A stretch of history that begins with savings may spend them beside
its own ration; a small part of the ration is withheld to make up for that.

An almost empty account should buy room for large requests only, a full one anything useful, and the smaller
the ration, the more each move must bring. A plan of k moves for a request of `size` memory slices is
therefore carried out when

    size - caution / moves_per_100 * k * (1 - tokens / most_tokens) - value_price * dV >= 0

where dV is the growth of the policy's value V (what the plan costs later requests, in slices). What other
parameters do is printed by tests/bench/move_search.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BudgetRule:
    """The parameters of the ration.

    moves_per_100: tokens earned by 100 accepted requests; `math.inf` for no ration.
    saved_requests_per_gpu: the account holds at most the ration of so many accepted requests, for each GPU.
    withheld: the share of the ration that is never earned.
    caution: slices that the ration of 100 accepted requests must bring when the account is empty, so one move
        `caution / moves_per_100`.
    value_price: slices that one unit of V is worth.
    """

    moves_per_100: float = 5.0
    saved_requests_per_gpu: float = 20.0
    withheld: float = 0.02
    caution: float = 30.0
    value_price: float = 0.3

    def __post_init__(self) -> None:
        if math.isnan(self.moves_per_100) or self.moves_per_100 < 0:
            raise ValueError(f"moves per 100 accepted requests must be 0 or more, not {self.moves_per_100}")
        if not self.saved_requests_per_gpu > 0:
            raise ValueError(
                f"the account holds the ration of more than 0 requests, not of {self.saved_requests_per_gpu}"
            )
        if not 0 <= self.withheld < 1:
            raise ValueError(f"the share that is withheld is from 0 to below 1, not {self.withheld}")

    def gain(self, *, size: int, moves: int, value_change: float, fullness: float) -> float:
        """What a plan brings beyond its price, in memory slices (the formula above), when the account is
        `fullness` (0 to 1) full.
        """
        caution = (
            self.caution / self.moves_per_100 * moves * (1 - fullness) if moves and fullness < 1 else 0.0
        )
        return size - caution - self.value_price * value_change


class MoveBudget:
    """The account of moves of one cluster (or of one partition of it)."""

    def __init__(self, *, gpus: int, rule: BudgetRule | None = None) -> None:
        self.rule = rule or BudgetRule()
        self.tokens = 0.0
        self._earned = self.rule.moves_per_100 * (1 - self.rule.withheld) / 100
        self._most_tokens = 0.0
        self.resize(gpus=gpus)

    def resize(self, *, gpus: int) -> None:
        """The number of GPUs has changed. What is above the new limit of the account is lost."""
        if gpus < 0:
            raise ValueError(f"a cluster has 0 GPUs or more, not {gpus}")
        self._most_tokens = self.rule.saved_requests_per_gpu * gpus * self.rule.moves_per_100 / 100
        self.tokens = min(self.tokens, self._most_tokens)

    def accepted(self) -> None:
        """A request was placed, with or without moves: earn its share."""
        self.tokens = min(self._most_tokens, self.tokens + self._earned)

    def affordable(self, most_victims: int) -> int:
        """How many victims a plan may have now: `most_victims`, or less when the account is low."""
        # Twenty times a twentieth is a whole token, whatever the sum in floating point says.
        return math.floor(min(most_victims, self.tokens + 1e-9))

    def worth(self, *, size: int, moves: int, value_change: float) -> bool:
        """Whether a plan pays: `size` memory slices placed by `moves` moves that change the sum of V by
        `value_change`.
        """
        if moves > self.affordable(moves):
            return False
        fullness = self.tokens / self._most_tokens if self.tokens < self._most_tokens else 1.0
        gain = self.rule.gain(size=size, moves=moves, value_change=value_change, fullness=fullness)
        return gain >= 0

    def spend(self, moves: int) -> None:
        """Pay for moves that were carried out. Raises ValueError when the account does not cover them."""
        if moves < 0 or moves > self.affordable(moves):
            raise ValueError(f"{moves} moves cannot be paid from an account of {self.tokens:.2f} tokens")
        self.tokens = max(0.0, self.tokens - moves)
