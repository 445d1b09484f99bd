"""Values that follow the mix: what the files promise, how a value is made of them, and where they apply."""

from __future__ import annotations

import math

import pytest
from tessera.boards import every_profile, geometry_for
from tessera.gpu.profiles import models
from tessera.placement.default_policy import LearnedByMix
from tessera.placement.geometry import Geometry, LegalPlacement, geometry_of
from tessera.placement.layouts import EMPTY, layout_table
from tessera.placement.policies_value import FragmentationTenancy
from tessera.placement.values.values import MalformedMixTable, MixTable, shipped_mix_tables

MIG_MODELS = sorted(models())


def small_table() -> MixTable:
    """One profile of one slice and one of two, on a GPU of two slices."""
    return MixTable(
        memory_slices=2,
        compute_slices=2,
        shapes=("1g1", "2g2"),
        values={
            "": (0.0, 0.0, 0.0, 0.0),
            "1g1@0": (1.0, 10.0, 2.0, 20.0),
            "1g1@1": (1.5, 15.0, 2.5, 25.0),
            "1g1@0 1g1@1": (3.0, 30.0, 4.0, 40.0),
            "2g2@0": (5.0, 50.0, 6.0, 60.0),
        },
        provenance={"command": "by hand"},
    )


def small_geometry(*, media: bool = False) -> Geometry:
    shapes: list[tuple[str, int, int, tuple[str, ...]]] = [
        ("one", 0, 1, ()),
        ("one", 1, 1, ()),
        ("two", 0, 2, ()),
    ]
    if media:
        shapes += [("one+me", 0, 1, ("media",)), ("one+me", 1, 1, ("media",))]
    return geometry_of(
        model="small with media" if media else "small",
        memory_slices=2,
        compute_slices=2,
        placements=tuple(
            LegalPlacement(name, start, width, width, only) for name, start, width, only in shapes
        ),
    )


def layout_of(geometry: Geometry, *placements: tuple[str, int]) -> int:
    indices = [geometry.index_of(profile, start) for profile, start in placements]
    assert None not in indices
    return layout_table(geometry).number_of(tuple(i for i in indices if i is not None))


@pytest.mark.parametrize("model", MIG_MODELS)
def test_every_board_of_the_shipped_profile_table_has_learned_values(model: str) -> None:
    geometry = geometry_for(model, profiles=every_profile(models()[model]))
    assert [table.knows(geometry) for table in shipped_mix_tables()].count(True) == 1


@pytest.mark.parametrize(
    ("model", "legal"), [("H100-80GB", 723), ("H200-141GB", 723), ("A30-24GB", 26), ("RTXPRO6000-96GB", 26)]
)
def test_every_legal_layout_of_the_plain_profiles_has_a_finite_value(model: str, legal: int) -> None:
    geometry = geometry_for(model)
    policy = LearnedByMix()
    table = policy.table_of(geometry)
    assert table is not None
    layouts = [layout_table(geometry).number_of(tuple(held)) for held in geometry.layouts()]
    weights = dict.fromkeys(geometry.profiles, 1 / len(geometry.profiles))
    values = [table.value(geometry, layout, weights) for layout in layouts]
    assert len(values) == legal
    assert all(value is not None and math.isfinite(value) for value in values)
    assert values[layouts.index(EMPTY)] == 0


def test_boards_of_one_class_have_the_same_values() -> None:
    h100, a100 = geometry_for("H100-80GB"), geometry_for("A100-40GB")
    policy = LearnedByMix()
    for held in list(h100.layouts())[::37]:
        ours = layout_table(h100).number_of(tuple(held))
        theirs = layout_of(
            a100, *((_twin(h100, a100, index), h100.placements[index].start) for index in held)
        )
        assert policy.value(h100, ours) == pytest.approx(policy.value(a100, theirs), abs=1e-9)


def _twin(mine: Geometry, other: Geometry, index: int) -> str:
    shape = mine.placements[index].shape
    return next(p.profile for p in other.placements if p.shape == shape)


def test_shipped_tables_say_how_they_were_made() -> None:
    for table in shipped_mix_tables():
        assert table.provenance["command"].startswith("tools/value_table/train.py")
        assert {"date", "versions", "iteration", "search", "gap_to_pool_pct"} <= set(table.provenance)


def test_a_value_is_the_mean_under_the_shares_of_requests_and_of_slices() -> None:
    geometry = small_geometry()
    value = small_table().value(geometry, layout_of(geometry, ("one", 0)), {"one": 0.5, "two": 0.5})
    # Half of the requests are for one slice, which is a third of the slices asked for.
    assert value == pytest.approx(0.5 * 1 + 0.5 * 10 + 1 / 3 * 2 + 2 / 3 * 20)


def test_a_profile_shut_out_by_an_engine_finds_no_use_in_the_free_slices() -> None:
    geometry = small_geometry(media=True)
    table = small_table()
    weights = {"one": 0.0, "two": 0.0, "one+me": 1.0}
    plain = table.value(geometry, layout_of(geometry, ("one", 0)), weights)
    shut_out = table.value(geometry, layout_of(geometry, ("one+me", 0)), weights)
    assert plain is not None
    assert shut_out == pytest.approx(plain + 1)


def test_a_table_does_not_know_placements_of_another_class() -> None:
    assert small_table().knows(small_geometry())
    assert not small_table().knows(geometry_for("A30-24GB"))
    wider = geometry_of(
        model="wider", memory_slices=2, compute_slices=2, placements=(LegalPlacement("odd", 0, 2, 1),)
    )
    assert not small_table().knows(wider)


def test_an_unknown_geometry_is_valued_as_by_fgd_h() -> None:
    geometry = small_geometry()
    ours, plain = LearnedByMix(tables=()), FragmentationTenancy()
    layout = layout_of(geometry, ("one", 1))
    assert ours.value(geometry, layout) == plain.value(geometry, layout)


def test_values_follow_the_arrivals() -> None:
    geometry = small_geometry()
    policy = LearnedByMix(tables=(small_table(),))
    layout = layout_of(geometry, ("one", 0))
    before = policy.value(geometry, layout)
    for _ in range(500):
        policy.record("two")
    assert policy.version > 0
    # Nearly all requests, and nearly all slices asked for, are of the second shape now.
    assert before < 25 < policy.value(geometry, layout) < 30


def test_a_file_is_read_as_it_was_written() -> None:
    assert MixTable.loads(small_table().dumps()) == small_table()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "not a table"),
        ('{"memory_slices": 2}', "compute_slices"),
        (
            '{"memory_slices": 1, "compute_slices": 1, "shapes": ["1g1"], "provenance": {}, '
            '"values": {"": [0]}}',
            "layout '' has 1 values",
        ),
    ],
)
def test_a_malformed_file_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(MalformedMixTable, match=reason):
        MixTable.loads(text)
