"""The geometries of the shipped table of boards: how many layouts they have, and what their engines allow."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tessera.boards import every_profile, geometry_for, geometry_of_model, plain_profiles
from tessera.gpu.profiles import UnknownModel, UnknownProfile, model, models
from tessera.placement.geometry import Geometry, geometry_of

FOUR_SLICES = {"A30-24GB"}
TWELVE_SLICES = {"RTXPRO6000-96GB"}
EIGHT_SLICES = sorted(set(models()) - FOUR_SLICES - TWELVE_SLICES)


def _counts(geometry: Geometry) -> tuple[int, int]:
    """Legal layouts without the empty one, and the maximal ones."""
    layouts = list(geometry.layouts())
    return len(layouts) - 1, sum(geometry.is_maximal(layout) for layout in layouts)


@pytest.mark.parametrize("name", EIGHT_SLICES)
def test_boards_of_eight_slices_have_the_layouts_of_nvidias_tables(name: str) -> None:
    board = model(name)
    assert _counts(geometry_for(name)) == (722, 78)
    double = next(p.name for p in board.profiles if (p.compute_slices, p.memory_slices) == (1, 2))
    single = [profile for profile in plain_profiles(board) if profile != double]
    assert _counts(geometry_for(name, profiles=single)) == (297, 19)
    assert geometry_for(name).counted == ()  # the key is the plain occupancy mask


def test_boards_with_suffixed_profiles() -> None:
    assert _counts(geometry_for("H100-80GB", profiles=every_profile(model("H100-80GB")))) == (2318, 239)
    assert _counts(geometry_for("A30-24GB")) == (25, 5)
    # No public source states a count for this board; this is the number of the rules above.
    assert _counts(geometry_for("RTXPRO6000-96GB", profiles=every_profile(model("RTXPRO6000-96GB")))) == (
        716,
        302,
    )


def test_an_a30_has_one_set_of_media_extensions_for_both_of_its_profiles() -> None:
    """The driver's maxima alone, one of each `+me` profile, would allow eight layouts more: 83, 21 of them
    maximal. But both profiles take the board's only JPEG and optical flow engines.
    """
    board = model("A30-24GB")
    published = geometry_for(board.name, profiles=every_profile(board))
    by_maxima = geometry_of(
        model=board.name,
        memory_slices=published.memory_slices,
        compute_slices=published.compute_slices,
        placements=tuple(
            replace(p, exclusive=(p.profile,) if p.exclusive else ()) for p in published.placements
        ),
    )
    assert _counts(by_maxima) == (83, 21)
    assert _counts(published) == (75, 17)


def test_all_media_engines_at_once_leave_room_only_for_profiles_without() -> None:
    board = model("RTXPRO6000-96GB")
    geometry = geometry_of_model(board, profiles=every_profile(board))
    everything = geometry.index_of("1g.24gb+me.all", 0)
    assert everything is not None
    beside = geometry.occupancy(geometry.with_placed(0, everything)).profiles
    assert beside == {"1g.24gb-me", "2g.48gb-me"}


def test_the_online_experiments_use_the_six_plain_profiles() -> None:
    assert plain_profiles(model("H100-80GB")) == (
        "1g.10gb",
        "1g.20gb",
        "2g.20gb",
        "3g.40gb",
        "4g.40gb",
        "7g.80gb",
    )


def test_unknown_names_tell_the_nearest() -> None:
    with pytest.raises(UnknownModel, match="H100-80GB"):
        geometry_for("H100-80")
    with pytest.raises(UnknownProfile, match=r"2g\.20gb"):
        geometry_for("H100-80GB", profiles=["2g.20"])
