"""The configurations of a GPU: their number, and that each comes with a legal layout."""

from __future__ import annotations

from collections import Counter

import pytest
from tessera.gpu.profiles import models
from tessera.packing.boards import Pool
from tessera.packing.configurations import catalogue
from tessera.packing.plan import Tile, check_layout

PLAIN = ("1g.10gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb")


def test_number_of_configurations_without_double_memory(h100: Pool) -> None:
    """Published check values of the geometry: 38 multisets, 12 of them maximal."""
    found = catalogue(h100.geometry, PLAIN)
    assert len(found.layouts) == 38
    assert len(found.maximal) == 12


def test_number_of_configurations_with_double_memory(h100: Pool) -> None:
    """Published check values of the geometry: 78 multisets, 28 of them maximal."""
    found = catalogue(h100.geometry, (*PLAIN, "1g.20gb"))
    assert len(found.layouts) == 78
    assert len(found.maximal) == 28


@pytest.mark.parametrize("name", sorted(models()))
def test_every_configuration_has_a_legal_layout_with_its_counts(name: str) -> None:
    board = models()[name]
    geometry = Pool(board).geometry
    found = catalogue(geometry, geometry.profiles)
    for counts, layout in found.layouts.items():
        placements = [geometry.placements[i] for i in layout]
        held = Counter(p.profile for p in placements)
        assert tuple(held[profile] for profile in found.profiles) == counts
        check_layout(board, [Tile(p.start, p.profile) for p in placements])


def test_a_layout_keeps_the_free_room_together(h100: Pool) -> None:
    found = catalogue(h100.geometry, ("1g.10gb",))
    (index,) = found.layouts[(1,)]
    left = h100.geometry.occupancy(h100.geometry.key_of([index]))
    assert left.longest_run == 7


def test_one_media_extension_per_gpu(a30: Pool) -> None:
    profiles = ("1g.6gb+me", "2g.12gb+me")
    assert set(catalogue(a30.geometry, profiles).layouts) == {(0, 0), (1, 0), (0, 1)}


def test_all_media_engines_leave_none_for_others(rtx: Pool) -> None:
    found = catalogue(rtx.geometry, ("1g.24gb", "1g.24gb+me.all", "1g.24gb-me"))
    assert (1, 1, 0) not in found.layouts
    assert (0, 1, 3) in found.maximal
