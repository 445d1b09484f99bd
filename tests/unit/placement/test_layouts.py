"""Layouts as numbers: the same set of placements is the same number, by whatever way it is reached."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.placement.geometry import Geometry, LegalPlacement, geometry_of
from tessera.placement.layouts import EMPTY, DoesNotFit, layout_table


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_the_order_of_placing_does_not_matter_and_releasing_goes_back(w8_all: Geometry, seed: int) -> None:
    rng = random.Random(seed)
    table = layout_table(w8_all)
    layout, way = EMPTY, [EMPTY]
    chosen: list[int] = []
    while (fitting := table.fitting(layout)) and rng.random() < 0.8:
        chosen.append(rng.choice(fitting))
        layout = table.after_placed(layout, chosen[-1])
        way.append(layout)
    assert table.number_of(tuple(rng.sample(chosen, len(chosen)))) == layout
    assert table.tenants[layout] == len(chosen)
    assert table.keys[layout] == w8_all.key_of(chosen)
    assert not table.overlapping[layout]
    for index, before in zip(reversed(chosen), reversed(way[:-1]), strict=True):
        layout = table.after_released(layout, index)
        assert layout == before


def test_every_legal_layout_has_one_number(w8_double: Geometry) -> None:
    table = layout_table(w8_double)
    numbered = {table.number_of(tuple(layout)) for layout in w8_double.layouts()}
    assert len(numbered) == 723
    assert len({table.shape(layout) for layout in numbered}) == 723
    assert len({table.keys[layout] for layout in numbered}) == 192


def test_a_placement_that_does_not_fit_is_refused_unless_it_is_forced(w8: Geometry) -> None:
    table = layout_table(w8)
    half, whole = w8.index_of("3g.40gb", 4), w8.index_of("7g.80gb", 0)
    assert half is not None and whole is not None
    layout = table.after_placed(EMPTY, half)
    with pytest.raises(DoesNotFit, match=r"7g\.80gb at 0 does not fit beside 3g\.40gb@4 on a W8"):
        table.after_placed(layout, whole)
    both = table.after_forced(layout, whole)
    assert table.overlapping[both]
    assert table.fitting(both) == ()
    assert table.after_released(both, whole) == layout
    with pytest.raises(ValueError):
        table.after_released(layout, whole)


def test_layouts_are_named_by_profiles_and_by_what_they_cover(w8: Geometry) -> None:
    table = layout_table(w8)
    indices = [w8.index_of(*p) for p in (("1g.10gb", 4), ("3g.40gb", 0))]
    layout = table.number_of(tuple(i for i in indices if i is not None))
    assert table.text(layout) == "3g.40gb@0 1g.10gb@4"
    assert table.shape(layout) == "3g4@0 1g1@4"
    assert table.text(EMPTY) == table.shape(EMPTY) == ""


def test_a_gpu_that_is_not_cut_is_free_or_taken() -> None:
    geometry = geometry_of(
        model="H100-80GB", memory_slices=8, compute_slices=7, placements=(LegalPlacement("gpu", 0, 8, 7),)
    )
    table = layout_table(geometry)
    assert table.fitting(EMPTY) == (0,)
    assert table.fitting(table.after_placed(EMPTY, 0)) == ()
