"""Pools: models are found by their names, with what they cost and how many there are."""

from __future__ import annotations

import pytest
from tessera.packing.boards import Pool, parse_pool
from tessera.packing.errors import BadPackingInput


@pytest.mark.parametrize(
    ("text", "model", "limit", "cost"),
    [
        ("H100-80GB", "H100-80GB", None, 1.0),
        ("H100-80GB:limit=10", "H100-80GB", 10, 1.0),
        ("H100-80GB:limit=10,cost=2.5", "H100-80GB", 10, 2.5),
        ("a30:cost=0.5", "A30-24GB", None, 0.5),
    ],
)
def test_pools_are_written_as_a_model_with_settings(
    text: str, model: str, limit: int | None, cost: float
) -> None:
    pool = parse_pool(text)
    assert (pool.name, pool.limit, pool.cost) == (model, limit, cost)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("H10-80GB", "nearest: H100-80GB"),
        ("A100", "may be A100-40GB, A100-80GB"),
        ("", "not in the profile table"),
        ("H100-80GB:limit=0", "at least 1"),
        ("H100-80GB:limit=many", "'many' is no number"),
        ("H100-80GB:cost=-1", "positive"),
        ("H100-80GB:cost=nan", "positive"),
        ("H100-80GB:price=1", "neither limit=N nor cost=C"),
    ],
)
def test_bad_pools_are_refused(text: str, words: str) -> None:
    with pytest.raises(BadPackingInput) as refused:
        parse_pool(text)
    assert words in str(refused.value)


def test_a_pool_needs_a_price(h100: Pool) -> None:
    with pytest.raises(ValueError, match="positive"):
        Pool(h100.board, cost=0)
