"""The scores on layouts small enough to check by hand."""

from __future__ import annotations

import pytest
from tessera.placement.geometry import Geometry
from tessera.placement.score import ArrivalHistogram, configuration_capability, unusable_slices


def _key(geometry: Geometry, *placements: tuple[str, int]) -> int:
    indices = [geometry.index_of(profile, start) for profile, start in placements]
    return geometry.key_of([i for i in indices if i is not None])


def test_empty_and_full_gpus_have_no_unusable_slices(w8: Geometry) -> None:
    weights = dict.fromkeys(w8.profiles, 0.2)
    assert unusable_slices(w8, 0, weights) == 0.0
    assert unusable_slices(w8, _key(w8, ("7g.80gb", 0)), weights) == 0.0


def test_unusable_slices_weigh_the_profiles_that_do_not_fit(w8: Geometry) -> None:
    # 1g at 0: seven slices are free; of five profiles only 4g and 7g have no legal start left.
    weights = dict.fromkeys(w8.profiles, 0.2)
    assert unusable_slices(w8, _key(w8, ("1g.10gb", 0)), weights) == pytest.approx(7 * 0.4)


def test_the_last_slice_is_lost_to_1g(w8: Geometry) -> None:
    key = _key(w8, ("4g.40gb", 0), ("2g.20gb", 4), ("1g.10gb", 6))
    assert w8.occupancy(key).free == 1
    assert configuration_capability(w8, key) == 0
    assert unusable_slices(w8, key, dict.fromkeys(w8.profiles, 0.2)) == pytest.approx(1.0)


def test_capability_counts_legal_placements(w8: Geometry) -> None:
    assert configuration_capability(w8, 0) == 7 + 3 + 2 + 1 + 1


def test_old_arrivals_fade(w8: Geometry) -> None:
    histogram = ArrivalHistogram(half_life=10)
    for _ in range(100):
        histogram.record("7g.80gb")
    for _ in range(100):
        histogram.record("1g.10gb")
    weights = histogram.weights(w8)
    assert sum(weights.values()) == pytest.approx(1.0)
    assert weights["1g.10gb"] > 5 * weights["7g.80gb"]


def test_half_the_weight_is_left_after_one_half_life(w8: Geometry) -> None:
    histogram = ArrivalHistogram(half_life=4)
    histogram.record("7g.80gb")
    before = histogram.weights(w8)["7g.80gb"]
    for _ in range(4):
        histogram.record("of another model")
    after = histogram.weights(w8)["7g.80gb"]
    assert before == pytest.approx(2 / 6)  # one belief each for five profiles, and one arrival
    assert after == pytest.approx(1.5 / 5.5)


def test_a_very_long_run_stays_finite(w8: Geometry) -> None:
    histogram = ArrivalHistogram(half_life=1)
    for _ in range(2000):
        histogram.record("1g.10gb")
    assert 0 < histogram.weights(w8)["7g.80gb"] < histogram.weights(w8)["1g.10gb"] < 1
