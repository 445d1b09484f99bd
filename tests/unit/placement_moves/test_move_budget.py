"""The ration of moves: never more than it allows, on any prefix, and cautious when it is nearly used up."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.placement.budget import BudgetRule, MoveBudget


@settings(max_examples=30, deadline=None)
@given(
    gpus=st.integers(1, 50),
    per_100=st.floats(0, 60),
    saved_requests=st.floats(2, 80),
    seed=st.integers(0, 2**32),
)
def test_no_prefix_has_more_moves_than_the_ration(
    gpus: int, per_100: float, saved_requests: float, seed: int
) -> None:
    rng = random.Random(seed)
    greed = rng.random()
    wishes = [rng.randrange(1, 4) if rng.random() < greed else 0 for _ in range(400)]
    rule = BudgetRule(moves_per_100=per_100, saved_requests_per_gpu=saved_requests)
    budget = MoveBudget(gpus=gpus, rule=rule)
    history: list[int] = []
    for wished in wishes:
        moves = wished if wished and wished <= budget.affordable(3) else 0
        budget.spend(moves)
        budget.accepted()
        history.append(moves)
    for start in range(0, len(history), 40):
        moves = 0
        for accepted, made in enumerate(history[start:], start=1):
            moves += made
            # What had been saved up before the window may be spent in it, and that is capped.
            saved = 0.0 if start == 0 else saved_requests * gpus * per_100 / 100
            assert moves <= saved + accepted * per_100 / 100 + 1e-6


def test_an_empty_account_buys_nothing() -> None:
    budget = MoveBudget(gpus=10)
    assert budget.affordable(2) == 0
    assert not budget.worth(size=8, moves=1, value_change=0.0)
    with pytest.raises(ValueError, match="cannot be paid"):
        budget.spend(1)
    for _ in range(21):
        budget.accepted()
    assert budget.affordable(2) == 1


def test_an_account_that_is_nearly_empty_buys_large_requests_only() -> None:
    budget = MoveBudget(gpus=100)
    for _ in range(41):
        budget.accepted()
    assert budget.affordable(2) == 2
    assert budget.worth(size=8, moves=1, value_change=0.0)
    assert not budget.worth(size=4, moves=1, value_change=0.0)
    for _ in range(2100):
        budget.accepted()
    assert budget.tokens == 100
    assert budget.worth(size=1, moves=2, value_change=0.0)
    assert not budget.worth(size=1, moves=2, value_change=11.0)


def test_without_a_ration_every_accepted_request_fills_the_account() -> None:
    budget = MoveBudget(gpus=4, rule=BudgetRule(moves_per_100=math.inf))
    budget.accepted()
    assert budget.affordable(3) == 3


def test_a_smaller_cluster_keeps_a_smaller_account() -> None:
    budget = MoveBudget(gpus=10, rule=BudgetRule(moves_per_100=100, saved_requests_per_gpu=1))
    for _ in range(10):
        budget.accepted()
    budget.resize(gpus=3)
    assert budget.tokens == 3


@pytest.mark.parametrize(
    "rule",
    [
        {"moves_per_100": -1.0},
        {"moves_per_100": math.nan},
        {"saved_requests_per_gpu": 0.0},
        {"withheld": 1.0},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(rule: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        BudgetRule(**rule)
