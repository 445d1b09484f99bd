"""Learning rates over the steps of a phase."""

import pytest
from tessera_workloads.schedules import cosine


def test_the_rate_rises_in_a_line_and_falls_to_nothing() -> None:
    rate = cosine(2.0, 100, warm_up=5)
    assert [rate(step) for step in (0, 4, 5)] == pytest.approx([0.4, 2.0, 2.0])
    assert rate(52) == pytest.approx(1.0, abs=0.03)
    assert rate(99) < 0.001


def test_the_floor_is_a_share_of_the_highest_rate() -> None:
    rate = cosine(2.0, 100, floor=0.1)
    assert [rate(step) for step in (0, 50, 100)] == pytest.approx([2.0, 1.1, 0.2])


def test_a_phase_may_be_all_warm_up() -> None:
    assert cosine(2.0, 1, warm_up=1)(0) == 2.0
