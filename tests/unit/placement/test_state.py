"""The cluster state under any sequence of placing and releasing: no overlap, nothing lost, buckets equal a
recount.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.placement.geometry import Geometry
from tessera.placement.gpu_sets import numbers
from tessera.placement.layouts import EMPTY
from tessera.placement.state import AlreadyOccupied, ClusterState


def _recount(state: ClusterState) -> dict[tuple[Geometry, tuple[int, ...]], list[int]]:
    """The GPUs by what they hold, counted anew."""
    counted: dict[tuple[Geometry, tuple[int, ...]], list[int]] = {}
    for gpu in state.gpus:
        counted.setdefault((gpu.geometry, tuple(sorted(gpu.held.values()))), []).append(gpu.number)
    return counted


def _buckets(state: ClusterState) -> dict[tuple[Geometry, tuple[int, ...]], list[int]]:
    """The same as the state keeps it; every layout that is said to be present must have a GPU."""
    kept: dict[tuple[Geometry, tuple[int, ...]], list[int]] = {}
    for geometry, pool in state.pools.items():
        layouts = dict(state.layouts(geometry))
        assert pool.present == sum(1 << layout for layout in layouts)
        for layout, bucket in layouts.items():
            kept[geometry, pool.table.indices[layout]] = list(bucket)
            assert all(state.gpus[number].layout == layout for number in bucket)
    return kept


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_buckets_stay_equal_to_a_recount(w8_all: Geometry, w4: Geometry, data: st.DataObject) -> None:
    state = ClusterState()
    for i in range(4):
        state.add_gpu(f"gpu-{i}", node=f"node-{i // 2}", geometry=w8_all if i % 2 else w4)
    for step in range(data.draw(st.integers(1, 40))):
        owners = sorted(map(str, state.owners()))
        if owners and bool(data.draw(st.booleans())):
            state.release(data.draw(st.sampled_from(owners)))
        else:
            gpu = data.draw(st.sampled_from(state.gpus))
            index = data.draw(st.integers(0, len(gpu.geometry.placements) - 1))
            fits = gpu.geometry.fits(gpu.key, index)
            force = data.draw(st.booleans())
            if fits or force:
                state.occupy(gpu.name, index, owner=f"claim-{step}", force=force)
            else:
                with pytest.raises(AlreadyOccupied, match=gpu.name):
                    state.occupy(gpu.name, index, owner=f"claim-{step}")
        assert _buckets(state) == _recount(state)
        for key, bits in state.buckets(w8_all).items():
            assert {gpu.number for gpu in state.gpus if gpu.geometry is w8_all and gpu.key == key} == set(
                numbers(bits)
            )
    for owner in list(state.owners()):
        state.release(owner)
    assert all(gpu.layout == EMPTY and not gpu.overlapping for gpu in state.gpus)
    assert _buckets(state) == _recount(state)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_placing_then_releasing_changes_nothing(w8_double: Geometry, data: st.DataObject) -> None:
    state = ClusterState()
    gpu = state.add_gpu("gpu-0", node="node-0", geometry=w8_double)
    owner = 0
    while (fitting := w8_double.occupancy(gpu.key).fitting) and bool(data.draw(st.booleans())):
        before = gpu.key, _buckets(state)
        index = data.draw(st.sampled_from(fitting))
        state.occupy("gpu-0", index, owner="probe")
        state.release("probe")
        assert (gpu.key, _buckets(state)) == before
        state.occupy("gpu-0", index, owner=owner)
        owner += 1


def test_the_room_of_two_overlapping_claims_stays_closed_until_both_are_gone(w8: Geometry) -> None:
    state = ClusterState()
    gpu = state.add_gpu("gpu-0", node="node-0", geometry=w8)
    whole, small = w8.index_of("7g.80gb", 0), w8.index_of("1g.10gb", 3)
    assert whole is not None and small is not None
    state.occupy("gpu-0", whole, owner="a")
    state.occupy("gpu-0", small, owner="b", force=True)
    assert gpu.overlapping
    state.release("a")
    assert not gpu.overlapping
    assert w8.occupancy(gpu.key).free == 7
    state.release("b")
    assert gpu.key == 0


def test_an_owner_holds_one_placement_at_a_time(w8: Geometry) -> None:
    state = ClusterState()
    state.add_gpu("gpu-0", node="node-0", geometry=w8)
    state.occupy("gpu-0", 0, owner="a")
    with pytest.raises(ValueError, match="already holds a placement on gpu-0"):
        state.occupy("gpu-0", 1, owner="a")


def test_gpu_sets_name_the_gpus_of_nodes(w8: Geometry) -> None:
    state = ClusterState()
    for i in range(6):
        state.add_gpu(f"gpu-{i}", node=f"node-{i % 3}", geometry=w8)
    assert list(numbers(state.bits_of_nodes(["node-1", "unknown"]))) == [1, 4]
    assert list(numbers(state.all_bits())) == [0, 1, 2, 3, 4, 5]
