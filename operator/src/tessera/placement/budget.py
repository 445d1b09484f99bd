"""How many moves the cluster may make, and whether a plan is worth its moves now.

Moving an instance stops its pod, so moves are rationed by accepted requests: each accepted request earns
`moves_per_100 / 100` tokens, a move costs one, and no plan may cost more than there is. The account starts
empty and never goes below zero, so on any prefix of the history there are at most `moves_per_100` moves per
100 accepted requests. It holds at most `tokens_per_gpu` tokens per GPU, so that a long quiet time does not
buy a storm. A stretch of history that begins with savings may spend them beside its own ration; a small part
of the ration is withheld to make up for that.

An almost empty account should buy room for large requests only, a full one anything useful. A plan of k moves
for a request of `size` memory slices is therefore carried out when

    size - caution * k * (1 - tokens / most_tokens) - value_price * dV >= 0

where dV is the growth of the policy's value V (what the plan costs later requests, in slices). How much
the results depend on the parameters is in docs/moves.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BudgetRule:
    """The parameters of the ration.

    moves_per_100: tokens earned by 100 accepted requests; `math.inf` for no ration.
    tokens_per_gpu: what the account holds at most, for each GPU of the cluster.
    withheld: the share of the ration that is never earned.
    caution: slices that one move must bring when the account is empty.
    value_price: slices that one unit of V is worth.
    """

    moves_per_100: float = 5.0
    tokens_per_gpu: float = 1.0
    withheld: float = 0.02
    caution: float = 6.0
    value_price: float = 0.1

    def __post_init__(self) -> None:
        if math.isnan(self.moves_per_100) or self.moves_per_100 < 0:
            raise ValueError(f"moves per 100 accepted requests must be 0 or more, not {self.moves_per_100}")
        if not self.tokens_per_gpu > 0:
            raise ValueError(f"the account needs more than 0 tokens per GPU, not {self.tokens_per_gpu}")
        if not 0 <= self.withheld < 1:
            raise ValueError(f"the share that is withheld is from 0 to below 1, not {self.withheld}")


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
        self._most_tokens = self.rule.tokens_per_gpu * gpus
        self.tokens = min(self.tokens, self._most_tokens)

    def accepted(self) -> None:
        """A request was placed, with or without moves: earn its share."""
        self.tokens = min(self._most_tokens, self.tokens + self._earned)

    def affordable(self, most_victims: int) -> int:
        """How many victims a plan may have now: `most_victims`, or less when the account is low."""
        # Twenty times a twentieth is a whole token, whatever the sum in floating point says.
        return min(most_victims, math.floor(self.tokens + 1e-9))

    def worth(self, *, size: int, moves: int, value_change: float) -> bool:
        """Whether a plan pays: `size` memory slices placed by `moves` moves that change the sum of V by
        `value_change`.
        """
        if moves > self.affordable(moves):
            return False
        empty = 1 - self.tokens / self._most_tokens if self._most_tokens else 1.0
        rule = self.rule
        return size - rule.caution * moves * empty - rule.value_price * value_change >= 0

    def spend(self, moves: int) -> None:
        """Pay for moves that were carried out. Raises ValueError when the account does not cover them."""
        if moves < 0 or moves > self.affordable(moves):
            raise ValueError(f"{moves} moves cannot be paid from an account of {self.tokens:.2f} tokens")
        self.tokens = max(0.0, self.tokens - moves)
