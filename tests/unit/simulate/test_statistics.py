"""Means over seeds with Student's interval, and the report that is built from them."""

from __future__ import annotations

import pytest
from tessera.simulate.report import report_object, rounded, with_interval
from tessera.simulate.statistics import mean_and_half_width, summarise, t_quantile_975


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    # Tables of Student's t; those above 30 from the expansion.
    [(1, 12.706), (4, 2.776), (9, 2.262), (30, 2.042), (31, 2.040), (40, 2.021), (60, 2.000), (120, 1.980)],
)
def test_quantiles_agree_with_the_table(degrees: int, quantile: float) -> None:
    assert t_quantile_975(degrees) == pytest.approx(quantile, abs=6e-4)


def test_the_interval_of_five_values_is_that_of_four_degrees_of_freedom() -> None:
    mean, half = mean_and_half_width([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3.0
    assert half == pytest.approx(2.776 * 2.5**0.5 / 5**0.5)


def test_one_run_has_no_interval_and_no_runs_have_no_mean() -> None:
    assert mean_and_half_width([7.0]) == (7.0, None)
    with pytest.raises(ValueError, match="no values"):
        mean_and_half_width([])


def test_a_summary_follows_nested_keys_and_leaves_out_what_is_not_defined() -> None:
    runs = [
        {"a": 1.0, "by": {"x": 1.0}, "none": None, "policy": "p"},
        {"a": 3.0, "by": {"x": 3.0, "y": 5.0}, "none": None, "policy": "p"},
    ]
    mean, half = summarise(runs)
    assert mean == {"a": 2.0, "by": {"x": 2.0, "y": 5.0}, "none": None}
    assert half["by"]["y"] is None
    assert half["a"] == pytest.approx(12.706)


def test_a_report_of_one_arm_has_plain_means_and_of_several_a_mean_for_each() -> None:
    runs = [{"policy": p, "seed": s, "x": x} for p, s, x in [("a", 0, 1.0), ("a", 1, 2.0), ("b", 0, 5.0)]]
    one = report_object({}, runs[:2], arms=("policy",))
    assert one["mean"] == {"x": 1.5}
    several = report_object({"c": 1}, runs, arms=("policy",))
    assert several["mean"] == {"a": {"x": 1.5}, "b": {"x": 5.0}}
    assert several["ci95"]["b"] == {"x": None}
    assert several["config"] == {"c": 1}
    assert several["runs"] == runs


def test_numbers_for_people() -> None:
    assert with_interval(90.46, 0.31) == "90.5 ± 0.3"
    assert with_interval(90.46, None, digits=2) == "90.46"
    assert with_interval(None, None) == "-"
    assert with_interval(-0.001, None) == "0.0"
    assert with_interval(-3.14, 0.2, digits=1) == "-3.1 ± 0.2"
    assert with_interval(123456.0, None, digits=0) == "123,456"


def test_rounding_reaches_nested_values() -> None:
    assert rounded({"a": [1 / 3, {"b": 2 / 3}], "c": "x", "d": 1}) == {
        "a": [0.333333, {"b": 0.666667}],
        "c": "x",
        "d": 1,
    }
