"""Pools: the geometry is the cluster's own, and models are found by their names."""

from __future__ import annotations

import pytest
from tessera.agent.devices import Owner, slices_for
from tessera.gpu.driver import GPU
from tessera.gpu.profiles import models
from tessera.packing.boards import Pool, geometry_of_board, parse_pool
from tessera.packing.errors import BadPackingInput
from tessera.scheduler.inventory import InventoryReader


@pytest.mark.parametrize("name", sorted(models()))
def test_geometry_is_what_the_scheduler_reads_from_a_node(name: str) -> None:
    gpu = GPU(
        index=0,
        uuid="GPU-1f3c9a2e-0000-0000-0000-000000000000",
        product=name,
        memory_mib=1,
        architecture="any",
        mig_current=True,
        mig_pending=True,
        model=models()[name],
        instances=(),
    )
    slices = slices_for(Owner("node-a", "uid"), [gpu], generation=1)
    for number, obj in enumerate(slices):
        obj["metadata"] |= {"uid": f"slice-{number}", "resourceVersion": "1"}
    (read,) = InventoryReader().read(slices).gpus
    planned = geometry_of_board(models()[name])
    assert planned.placements == read.geometry.placements
    for index in range(len(planned.placements)):
        key = planned.with_placed(0, index)
        assert planned.occupancy(key).fitting == read.geometry.occupancy(key).fitting


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
