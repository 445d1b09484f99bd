"""The shipped MIG geometry, and names that are not in it."""

from __future__ import annotations

import math

import pytest
from tessera.gpu.profiles import (
    Placement,
    UnknownModel,
    UnknownProfile,
    board,
    boards,
    model,
    model_meant,
    models,
)


@pytest.mark.parametrize(
    ("name", "memory_slices", "compute_slices", "placements"),
    [
        ("H100-80GB", 8, 7, 25),
        ("A100-40GB", 8, 7, 25),
        ("A30-24GB", 4, 4, 13),
        ("RTXPRO6000-96GB", 12, 4, 30),
    ],
)
def test_geometry_follows_from_the_table(
    name: str, memory_slices: int, compute_slices: int, placements: int
) -> None:
    geometry = model(name)
    assert (geometry.memory_slices, geometry.compute_slices) == (memory_slices, compute_slices)
    assert len(geometry.placements()) == placements


def test_every_model_has_a_board_and_every_board_a_model() -> None:
    assert models().keys() == boards().keys()


def test_every_placement_lies_inside_its_gpu() -> None:
    for geometry in models().values():
        for placement in geometry.placements():
            assert placement.mask < 1 << geometry.memory_slices


def test_max_count_is_the_number_of_disjoint_starts_except_for_media_profiles() -> None:
    for geometry in models().values():
        for profile in geometry.profiles:
            expected = 1 if profile.media_extensions else len(profile.starts)
            assert profile.max_count == expected, (geometry.name, profile.name)


def test_ids_and_names_are_unique_per_model() -> None:
    for geometry in models().values():
        assert len({profile.id for profile in geometry.profiles}) == len(geometry.profiles)
        assert len({profile.name for profile in geometry.profiles}) == len(geometry.profiles)


def test_memory_in_a_profile_name_is_about_its_memory() -> None:
    for geometry in models().values():
        for profile in geometry.profiles:
            if profile.memory_mib is not None:
                named = int(profile.name.partition("g.")[2].partition("gb")[0])
                assert math.isclose(profile.memory_mib / 1024, named, rel_tol=0.13, abs_tol=0.8)


def test_placements_overlap_when_they_share_a_slice() -> None:
    h100 = model("H100-80GB")
    three, two = h100.profile("3g.40gb"), h100.profile("2g.20gb")
    assert Placement(three, 4).overlaps(Placement(two, 4))
    assert not Placement(three, 4).overlaps(Placement(two, 2))
    assert Placement(three, 4).mask == 0b1111_0000


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(UnknownModel, match="H100-80GB"):
        model("H100-80")
    with pytest.raises(UnknownModel, match="nearest"):
        board("V100")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("H100-80GB", "H100-80GB"),
        ("h100-80gb", "H100-80GB"),
        ("A30", "A30-24GB"),
        ("a30", "A30-24GB"),
        ("h100-nvl", "H100-NVL-94GB"),
        ("B200", "B200-180GB"),
    ],
)
def test_the_only_model_that_begins_so_is_meant_in_any_case(text: str, name: str) -> None:
    assert model_meant(text) is model(name)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("A100", "it may be A100-40GB, A100-80GB"),
        ("h100", "it may be H100-80GB, H100-NVL-94GB"),
        ("H100-8", "nearest: H100-80GB"),
        ("", "nearest: "),
    ],
)
def test_what_no_single_model_is_meant_by_is_refused(text: str, hint: str) -> None:
    with pytest.raises(UnknownModel, match=f"GPU model '{text}' is not in the profile table; {hint}"):
        model_meant(text)


def test_an_unknown_profile_names_the_nearest_of_that_model() -> None:
    with pytest.raises(UnknownProfile, match=r"2g\.20gb.*") as raised:
        model("H100-80GB").profile("2g.10gb")
    assert "H100-80GB" in str(raised.value)
