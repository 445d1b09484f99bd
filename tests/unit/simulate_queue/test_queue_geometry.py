"""The two geometries, and fragmentation on both, against hand-made layouts."""

import pytest
from tessera.gpu.profiles import model
from tessera.placement.geometry import Geometry
from tessera.simulate.queueing.geometry import Fragmentation, queue_geometry
from tessera.simulate.queueing.workload import mix_of

H100 = model("H100-80GB")
SIX = mix_of(
    H100,
    {"1g.10gb": 35.0, "1g.20gb": 10.0, "2g.20gb": 25.0, "3g.40gb": 15.0, "4g.40gb": 10.0, "7g.80gb": 5.0},
)
MEMORY = queue_geometry(H100, SIX, "memory")
SLOTS = queue_geometry(H100, SIX, "gpc-slots")


def index_of(geometry: Geometry, profile: str, start: int) -> int:
    index = geometry.index_of(profile, start)
    assert index is not None
    return index


def key_of(geometry: Geometry, *placed: tuple[str, int]) -> int:
    key = 0
    for profile, start in placed:
        index = index_of(geometry, profile, start)
        assert geometry.fits(key, index), f"{profile} at {start} does not fit"
        key = geometry.with_placed(key, index)
    return key


def test_a_3g_and_a_1g_behind_it_go_together_only_in_migbenchs_geometry() -> None:
    assert SLOTS.fits(key_of(SLOTS, ("3g.40gb", 0)), index_of(SLOTS, "1g.10gb", 3))
    assert not MEMORY.fits(key_of(MEMORY, ("3g.40gb", 0)), index_of(MEMORY, "1g.10gb", 3))


def test_in_migbenchs_geometry_the_memory_is_summed() -> None:
    full = key_of(SLOTS, ("3g.40gb", 0), ("3g.40gb", 4))
    assert not SLOTS.fits(full, index_of(SLOTS, "1g.10gb", 3))


def test_double_memory_1g_starts_at_every_slot_only_in_migbenchs_geometry() -> None:
    def starts(geometry: Geometry) -> list[int]:
        return [geometry.placements[i].start for i in geometry.placements_of("1g.20gb")]

    assert starts(SLOTS) == [0, 1, 2, 3, 4, 5, 6]
    assert starts(MEMORY) == [0, 2, 4, 6]


def test_the_true_geometry_has_the_documented_number_of_layouts() -> None:
    assert sum(1 for _ in MEMORY.layouts()) == 723


@pytest.mark.parametrize(
    ("geometry", "placed", "physical"),
    [
        # Free memory slices 0, 1, 2, 3 and 6, 7: the longest run has 4 of 6.
        (MEMORY, [("2g.20gb", 4)], 2 / 6),
        # Free compute slots 0 to 3 and 6.
        (SLOTS, [("2g.20gb", 4)], 1 / 5),
        (MEMORY, [("7g.80gb", 0)], 0.0),
        (MEMORY, [], 0.0),
    ],
)
def test_physical_fragmentation_is_what_lies_outside_the_longest_run(
    geometry: Geometry, placed: list[tuple[str, int]], physical: float
) -> None:
    assert Fragmentation(geometry).physical(key_of(geometry, *placed)) == pytest.approx(physical)


@pytest.mark.parametrize("geometry", [MEMORY, SLOTS])
def test_two_3g_strand_the_seventh_compute_slice(geometry: Geometry) -> None:
    key = key_of(geometry, ("3g.40gb", 0), ("3g.40gb", 4))
    assert Fragmentation(geometry).stranded(key, 1) == 1.0


def test_a_3g_at_the_low_end_strands_one_slice_and_at_the_high_end_none() -> None:
    low, high = (key_of(MEMORY, ("3g.40gb", start)) for start in (0, 4))
    assert Fragmentation(MEMORY).stranded(low, 4) == pytest.approx(1 / 4)
    assert Fragmentation(MEMORY).stranded(high, 4) == 0.0
