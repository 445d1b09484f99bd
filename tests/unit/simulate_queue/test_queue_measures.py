"""Windows, quantiles and validity, as MIGBench defines them."""

import pytest
from tessera.simulate.queueing.measures import Integrals, Validity, quantile, wait_statistics


def test_only_what_lies_in_the_window_counts() -> None:
    integrals = Integrals(opens_ms=100, closes_ms=200)
    assert [integrals.overlap_ms(*span) for span in ((0, 50), (50, 150), (150, 300), (250, 300))] == [
        0,
        50,
        50,
        0,
    ]


def test_a_mean_is_weighted_with_time() -> None:
    integrals = Integrals(opens_ms=0, closes_ms=100)
    integrals.add(25, waiting=True, shares={"compute": 1.0})
    integrals.add(75, waiting=False, shares={"compute": 0.2})
    assert integrals.mean("compute") == pytest.approx(0.4)
    assert integrals.peak == 1.0
    assert integrals.backlog() == 0.25


def test_a_quantile_is_interpolated() -> None:
    assert quantile([40, 10, 20, 30], 0.5) == 25
    assert quantile([40, 10, 20, 30], 0.95) == pytest.approx(38.5)
    assert quantile([7], 0.99) == 7


def test_waits_are_reported_by_profile_and_by_priority() -> None:
    found = wait_statistics([("1g", 0, 10.0), ("1g", 1, 20.0), ("7g", 0, 90.0)])
    assert found["wait_mean_seconds"] == 40
    assert found["wait_max_seconds_by_profile"] == {"1g": 20, "7g": 90}
    assert found["wait_mean_seconds_by_priority"] == {"0": 50, "1": 20}


@pytest.mark.parametrize(
    ("saturated", "utilisation", "peak", "backlog", "holds"),
    [
        (False, 0.75, 0.8, 0.85, True),
        (False, 0.74, 1.0, 1.0, False),
        (False, 0.90, 1.0, 0.84, False),
        (True, 0.50, 0.99, 0.90, True),
        (True, 0.95, 0.98, 1.0, False),
    ],
)
def test_a_run_is_valid_by_the_conditions_of_its_kind(
    saturated: bool, utilisation: float, peak: float, backlog: float, holds: bool
) -> None:
    assert Validity(saturated=saturated).holds(utilisation=utilisation, peak=peak, backlog=backlog) is holds
