"""The legal layouts of a GPU, against counts found by exhaustive search over NVIDIA's tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tessera.placement.geometry import Geometry, IllegalGeometry, LegalPlacement, geometry_of


@pytest.mark.parametrize(
    ("name", "legal", "maximal", "masks"),
    [
        ("w8", 297, 19, 144),  # NVIDIA documents the same 19 maximal layouts
        ("w8_double", 722, 78, 192),
        ("w8_all", 2318, 239, 192),
        ("w4", 83, 21, 16),
    ],
)
def test_legal_and_maximal_layouts_are_those_of_the_hardware(
    request: pytest.FixtureRequest, name: str, legal: int, maximal: int, masks: int
) -> None:
    geometry: Geometry = request.getfixturevalue(name)
    layouts = list(geometry.layouts())
    assert len(layouts) - 1 == legal  # the empty layout is not counted
    assert sum(geometry.is_maximal(layout) for layout in layouts) == maximal
    assert len({geometry.key_of(layout) & ((1 << geometry.memory_slices) - 1) for layout in layouts}) == masks


def test_memory_slices_bound_compute_slices_on_known_models(w8_all: Geometry, w4: Geometry) -> None:
    assert w8_all.counted == ()
    assert w4.counted == ()


def test_compute_is_counted_where_memory_does_not_bound_it() -> None:
    wide = tuple(LegalPlacement("3g.1gb", start, 1, 3) for start in range(4))
    geometry = geometry_of(model="thin", memory_slices=4, compute_slices=7, placements=wide)
    assert geometry.counted == ("compute-slices",)
    key = geometry.with_placed(geometry.with_placed(0, 0), 1)
    assert geometry.occupancy(key).free == 2
    assert geometry.occupancy(key).fitting == ()
    assert geometry.occupancy(geometry.with_released(key, 0)).fitting == (0, 2, 3)


def test_an_amount_that_placements_share_can_run_out_before_the_slices() -> None:
    """A board with `+me.all`: one instance may take all media engines, then only `-me` fits beside it."""
    with_media = tuple(LegalPlacement("1g", start, 1, 1, draws=(("media-engines", 1),)) for start in range(4))
    without = tuple(LegalPlacement("1g-me", start, 1, 1) for start in range(4))
    everything = tuple(
        LegalPlacement("1g+me.all", start, 1, 1, draws=(("media-engines", 4),)) for start in range(4)
    )
    geometry = geometry_of(
        model="media",
        memory_slices=4,
        compute_slices=4,
        placements=with_media + without + everything,
        limits=(("media-engines", 4),),
    )
    assert geometry.counted == ("media-engines",)
    first = geometry.index_of("1g+me.all", 0)
    assert first is not None
    key = geometry.with_placed(0, first)
    assert geometry.occupancy(key).profiles == {"1g-me"}
    assert geometry.occupancy(geometry.with_released(key, first)).profiles == {"1g", "1g-me", "1g+me.all"}
    one = geometry.index_of("1g", 1)
    assert one is not None
    assert geometry.occupancy(geometry.with_placed(0, one)).profiles == {"1g", "1g-me"}
    assert geometry.key_of([first, one]) == key + geometry.with_placed(0, one)


def test_a_draw_without_a_limit_is_refused() -> None:
    placement = LegalPlacement("1g", 0, 1, 1, draws=(("media-engines", 1),))
    with pytest.raises(IllegalGeometry, match="no limit is given for media-engines"):
        geometry_of(model="odd", memory_slices=1, compute_slices=1, placements=(placement,))


def test_media_extensions_exist_once_per_gpu(w8_all: Geometry) -> None:
    first = w8_all.index_of("1g.10gb+me", 0)
    assert first is not None
    occupancy = w8_all.occupancy(w8_all.with_placed(0, first))
    assert "1g.10gb+me" not in occupancy.profiles
    assert "1g.10gb" in occupancy.profiles


def test_a_start_that_does_not_exist_has_no_index(w8: Geometry) -> None:
    assert w8.index_of("2g.20gb", 1) is None
    assert w8.index_of("1g.10gb", 7) is None


@pytest.mark.parametrize(
    "placements",
    [
        (),
        (LegalPlacement("4g", 6, 4, 4),),
        (LegalPlacement("1g", -1, 1, 1),),
        (LegalPlacement("1g", 0, 1, 1), LegalPlacement("1g", 0, 2, 1)),
    ],
)
def test_contradicting_placements_are_refused(placements: tuple[LegalPlacement, ...]) -> None:
    with pytest.raises(IllegalGeometry, match="odd"):
        geometry_of(model="odd", memory_slices=8, compute_slices=7, placements=placements)


@given(st.data())
def test_a_key_says_exactly_what_a_layout_leaves_free(w8_all: Geometry, data: st.DataObject) -> None:
    geometry = w8_all
    layout: list[int] = []
    key = 0
    while (fitting := geometry.occupancy(key).fitting) and bool(data.draw(st.booleans())):
        chosen = data.draw(st.sampled_from(fitting))
        layout.append(chosen)
        key = geometry.with_placed(key, chosen)
    legal = [geometry.placements[i] for i in layout]
    covered = {s for p in legal for s in range(p.start, p.start + p.width)}
    assert len(covered) == sum(p.width for p in legal)
    assert geometry.occupancy(key).free == geometry.memory_slices - len(covered)
    assert geometry.key_of(layout) == key
    for index in layout:
        key = geometry.with_released(key, index)
    assert key == 0
