"""A reserved place: the one that wastes least, closed for others, and free once its instances have ended."""

from __future__ import annotations

import math
from collections.abc import Hashable

from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.placement.geometry import Geometry
from tessera.placement.request import Feasible, request_for_profile
from tessera.placement.reservation import choose_reservation
from unit.placement_moves.small_clusters import cluster, fill_at_random


def test_the_gpu_that_is_free_soonest_is_chosen(h100: Geometry) -> None:
    state = cluster(h100, h100, h100)
    ends: dict[Hashable, float] = {}
    for number, end in enumerate((500.0, 100.0, 300.0)):
        state.occupy(f"gpu-{number}", h100.index_of("3g.40gb", 4) or 0, owner=number)
        ends[number] = end
    found = choose_reservation(
        state, request_for_profile(state, "7g.80gb"), expected_end=ends.__getitem__, now=0.0
    )
    assert found is not None
    assert (found.gpu, found.ready_at, found.draining) == ("gpu-1", 100.0, (1,))
    # Eight slices wait for 100 s, and four of them stand idle meanwhile.
    assert found.wasted_slice_seconds == 8 * 100 + 4 * 100


def test_of_two_places_that_are_ready_at_once_the_fuller_one_wastes_less(h100: Geometry) -> None:
    state = cluster(h100, h100)
    state.occupy("gpu-0", h100.index_of("1g.10gb", 0) or 0, owner="a")
    state.occupy("gpu-1", h100.index_of("7g.80gb", 0) or 0, owner="b")
    found = choose_reservation(
        state, request_for_profile(state, "7g.80gb"), expected_end=lambda owner: 50.0, now=0.0
    )
    assert found is not None and found.gpu == "gpu-1"


def test_an_instance_without_an_end_is_never_waited_for(h100: Geometry) -> None:
    state = cluster(h100, h100)
    for number in range(2):
        state.occupy(f"gpu-{number}", h100.index_of("1g.10gb", 0) or 0, owner=number)
    request = request_for_profile(state, "7g.80gb")
    ends = {0: None, 1: 1e9}
    found = choose_reservation(state, request, expected_end=lambda owner: ends[int(str(owner))], now=0.0)
    assert found is not None and found.gpu == "gpu-1"
    assert choose_reservation(state, request, expected_end=lambda owner: None, now=0.0) is None
    only_gpu_0 = Feasible(gpus=0b01)
    half = request_for_profile(state, "3g.40gb")
    found = choose_reservation(state, half, expected_end=lambda owner: None, now=0.0, feasible=only_gpu_0)
    assert found is not None and (found.gpu, h100.placements[found.index].start) == ("gpu-0", 4)


def test_of_ends_that_nobody_knows_few_are_waited_for_rather_than_many(h100: Geometry) -> None:
    state = cluster(h100, h100, h100)
    for start in range(4):
        state.occupy("gpu-0", h100.index_of("1g.10gb", start) or 0, owner=start)
    state.occupy("gpu-1", h100.index_of("1g.10gb", 0) or 0, owner="alone")
    state.occupy("gpu-2", h100.index_of("1g.10gb", 0) or 0, owner="for ever")
    found = choose_reservation(
        state,
        request_for_profile(state, "7g.80gb"),
        expected_end=lambda owner: math.inf if owner == "for ever" else None,
        now=0.0,
        mean_seconds=60.0,
    )
    assert found is not None and (found.gpu, found.ready_at) == ("gpu-1", 60.0)
    assert found.wasted_slice_seconds == 8 * 60 + 7 * 60
    found = choose_reservation(
        state,
        request_for_profile(state, "7g.80gb"),
        expected_end=lambda owner: None,
        now=0.0,
        feasible=Feasible(gpus=0b001),
        mean_seconds=60.0,
    )
    # The last of four ends after 60 s x (1 + 1/2 + 1/3 + 1/4).
    assert found is not None and round(found.ready_at, 6) == 125.0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), data=st.data())
def test_a_reserved_place_is_closed_and_becomes_free(
    h100: Geometry, a30: Geometry, seed: int, data: st.DataObject
) -> None:
    state = cluster(h100, a30, h100)
    fill_at_random(state, seed=seed, leave=0.5)
    profile = data.draw(st.sampled_from((*h100.profiles, *a30.profiles)))
    held = list(state.owners())
    found = choose_reservation(
        state,
        request_for_profile(state, profile),
        expected_end=lambda owner: float(int(str(owner)) % 1000),
        now=500.0,
    )
    assert found is not None
    gpu = state.gpu(found.gpu)
    assert gpu is not None
    for number, index in enumerate(found.placeholders):
        state.occupy(gpu.name, index, owner=("placeholder", number))
    assert not any(gpu.geometry.overlap(i, found.index) for i in gpu.table.fitting(gpu.layout))
    assert set(held) <= set(state.owners())
    for owner in found.draining:
        state.release(owner)
        assert (int(str(owner)) % 1000) <= found.ready_at
    for number in range(len(found.placeholders)):
        state.release(("placeholder", number))
    state.occupy(gpu.name, found.index, owner="request")
