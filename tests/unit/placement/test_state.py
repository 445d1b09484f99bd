"""The cluster state under any sequence of placing and releasing: no overlap, nothing lost, buckets equal a
recount.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.placement.geometry import Geometry
from tessera.placement.state import AlreadyOccupied, ClusterState, numbers


def _recount(state: ClusterState) -> dict[Geometry, dict[int, int]]:
    counted: dict[Geometry, dict[int, int]] = {}
    for gpu in state.gpus:
        key = gpu.geometry.key_of(gpu.held.values())
        bucket = counted.setdefault(gpu.geometry, {})
        bucket[key] = bucket.get(key, 0) | (1 << gpu.number)
    return counted


def _buckets(state: ClusterState) -> dict[Geometry, dict[int, int]]:
    return {geometry: dict(state.buckets(geometry)) for geometry in state.geometries()}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_buckets_stay_equal_to_a_recount(w8_all: Geometry, w4: Geometry, data: st.DataObject) -> None:
    state = ClusterState()
    for i in range(4):
        state.add_gpu(f"gpu-{i}", node=f"node-{i // 2}", geometry=w8_all if i % 2 else w4)
    for step in range(data.draw(st.integers(1, 40))):
        owners = sorted(map(str, state.owners()))
        if owners and data.draw(st.booleans()):
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
    for owner in list(state.owners()):
        state.release(owner)
    assert all(gpu.key == 0 and not gpu.overlapping for gpu in state.gpus)
    assert _buckets(state) == _recount(state)


@given(st.data())
def test_placing_then_releasing_changes_nothing(w8_double: Geometry, data: st.DataObject) -> None:
    state = ClusterState()
    gpu = state.add_gpu("gpu-0", node="node-0", geometry=w8_double)
    owner = 0
    while (fitting := w8_double.occupancy(gpu.key).fitting) and data.draw(st.booleans()):
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
