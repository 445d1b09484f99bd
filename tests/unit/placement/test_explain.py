"""Refusals name the profile, the free room, and what would make the request fit."""

from __future__ import annotations

from dataclasses import replace

from tessera.placement.engine import Engine
from tessera.placement.geometry import Geometry, LegalPlacement, geometry_of
from tessera.placement.policies import FirstFit
from tessera.placement.request import Feasible, Unplaceable, request_for_profile
from tessera.placement.state import ClusterState


def _refusal(
    state: ClusterState, profile: str, *, count: int = 1, feasible: Feasible | None = None
) -> Unplaceable:
    answer = Engine(FirstFit()).place(
        state, [request_for_profile(state, profile, count=count)], feasible=feasible
    )
    assert isinstance(answer, Unplaceable)
    return answer


def _two_gpus(geometry: Geometry) -> ClusterState:
    """Two GPUs with 4 free slices each, none of them free for a 4g: the left half is cut up."""
    state = ClusterState()
    for gpu in range(2):
        state.add_gpu(f"gpu-{gpu}", node=f"node-{gpu}", geometry=geometry)
        for profile, start in (("2g.20gb", 0), ("2g.20gb", 4)):
            index = geometry.index_of(profile, start)
            assert index is not None
            state.occupy(f"gpu-{gpu}", index, owner=f"gpu-{gpu}-2g-20gb-{start}")
    return state


def test_no_room_names_the_slice_whose_release_helps(w8: Geometry) -> None:
    refusal = _refusal(_two_gpus(w8), "4g.40gb")
    assert refusal.reason == "NoRoom"
    assert refusal.profile == "4g.40gb"
    assert refusal.free_slices == 8
    assert refusal.largest_room == 2
    assert refusal.fits_in_aggregate
    assert (
        "no GPU has room for 4g.40gb: it needs 4 free memory slices at a legal start, 8 are free on 2 GPUs"
        in str(refusal)
    )
    assert refusal.remedy == "freeing gpu-0-2g-20gb-0 on gpu-0 would make room"


def test_no_room_says_what_else_fits_on_which_gpus_and_how_many_nodes_pass(
    w8: Geometry, w4: Geometry
) -> None:
    state = _two_gpus(w8)
    state.add_gpu("gpu-2", node="node-2", geometry=w8)
    state.add_gpu("gpu-3", node="node-3", geometry=w4)
    of_two_nodes = Feasible(0b1011, {"insufficient cpu": 1})
    message = _refusal(state, "4g.40gb", feasible=of_two_nodes).message
    assert "8 are free on 2 GPUs (2 W8)" in message
    # What the third GPU and the A30 offer is of no use to it.
    assert "; room: 1g.10gb 6, 2g.20gb 2; 3 of 4 nodes pass (insufficient cpu excluded 1)" in message
    assert "7g" not in message


def test_a_message_about_many_profiles_is_cut_with_a_mark(w8: Geometry) -> None:
    state = ClusterState()
    for number in range(5):
        legal = [replace(p, profile=f"{p.profile}+{number}") for p in w8.placements]
        whole = [LegalPlacement("7g.80gb", 0, 8, 7)]
        more = geometry_of(
            model=f"H100-{number}", memory_slices=8, compute_slices=7, placements=tuple(legal + whole)
        )
        state.add_gpu(f"gpu-{number}", node="node", geometry=more)
        state.occupy(f"gpu-{number}", more.placements_of(f"1g.10gb+{number}")[0], owner=number)
    message = _refusal(state, "7g.80gb").message
    assert message.count("+") == 12
    assert ", …; 1 of 1 nodes pass" in message


def test_no_single_release_helps(w8: Geometry) -> None:
    refusal = _refusal(_two_gpus(w8), "7g.80gb")
    assert refusal.remedy == "wait for running work to end, ask for less than 7g.80gb, or add a GPU"


def test_too_few_slices_do_not_fit_in_aggregate(w8: Geometry) -> None:
    refusal = _refusal(_two_gpus(w8), "3g.40gb", count=3)
    assert not refusal.fits_in_aggregate
    assert refusal.profile == "3 x 3g.40gb"


def test_an_unknown_profile_lists_those_that_are_offered(w8: Geometry) -> None:
    refusal = _refusal(_two_gpus(w8), "9g.90gb")
    assert refusal.reason == "UnknownProfile"
    assert str(refusal) == (
        "profile 9g.90gb is not offered by any GPU "
        "(8 memory slices are free on 2 GPUs, the largest placement that still fits has 2); "
        "ask for one of those that are: 1g.10gb, 2g.20gb, 3g.40gb, 4g.40gb, 7g.80gb"
    )


def test_an_unknown_profile_is_told_with_the_room_of_all_gpus_also_where_no_node_passes_the_filters(
    w8: Geometry,
) -> None:
    refusal = _refusal(_two_gpus(w8), "9g.90gb", feasible=Feasible(0, {"insufficient cpu": 2}))
    assert "8 memory slices are free on 2 GPUs" in refusal.message


def test_node_filters_are_named_with_their_counts(w8: Geometry) -> None:
    state = _two_gpus(w8)
    refusal = _refusal(
        state, "1g.10gb", feasible=Feasible(0, {"insufficient cpu": 1, "untolerated taint": 1})
    )
    assert refusal.reason == "NoFeasibleNode"
    assert "insufficient cpu excluded 1, untolerated taint excluded 1" in refusal.message


def test_an_empty_cluster_says_that_no_gpu_is_published() -> None:
    refusal = _refusal(ClusterState(), "1g.10gb")
    assert refusal.reason == "NoGPUs"
    assert "no GPU is published" in refusal.message
    assert "MIGPartition" not in str(refusal)  # GPUs are published with or without one


def test_one_free_slice_on_one_gpu_is_said_in_the_singular(w8: Geometry) -> None:
    state = ClusterState()
    state.add_gpu("gpu-0", node="node-0", geometry=w8)
    for profile, start in (("4g.40gb", 0), ("2g.20gb", 4), ("1g.10gb", 6)):
        index = w8.index_of(profile, start)
        assert index is not None
        state.occupy("gpu-0", index, owner=profile)
    message = _refusal(state, "9g.90gb").message
    assert "(1 memory slice is free on 1 GPU, the largest placement that still fits has 0)" in message
