"""The model of energy, power and temperature: exact, over plain values."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.gpu.profiles import boards
from tessera.gpu.simulator.metering import (
    COOL_C,
    IDLE_SHARE,
    TIME_CONSTANT_S,
    WARMING_C,
    Load,
    Meter,
    advance,
    business,
    power_w,
)


def load(place: int = 1, *, slices: float = 1.0, busy: float = 1.0, since: float = 0.0) -> Load:
    return Load(place=place, instance=place, slices=slices, busy=busy, since=since)


@pytest.mark.parametrize("name", boards())
def test_an_idle_gpu_draws_a_small_share_and_seven_busy_slices_draw_the_limit(name: str) -> None:
    limit = boards()[name].power_limit_w
    assert power_w(limit, 0) == pytest.approx(IDLE_SHARE * limit)
    seven = [load(place, slices=1 / 7) for place in range(1, 8)]
    assert power_w(limit, business(seven)[0]) == pytest.approx(limit)


def test_a_busy_slice_adds_its_share_of_the_power() -> None:
    one = power_w(700, business([load(slices=1 / 7)])[0])
    two = power_w(700, business([load(1, slices=1 / 7), load(2, slices=1 / 7)])[0])
    assert two - one == pytest.approx(one - power_w(700, 0)) == pytest.approx(700 * (1 - IDLE_SHARE) / 7)


def test_two_processes_cannot_keep_one_slice_busier_than_it_is() -> None:
    assert business([load(1, slices=0.5, busy=0.8), load(1, slices=0.5, busy=0.8)])[0] == 0.5


def test_a_process_counts_from_the_moment_at_which_it_began() -> None:
    meter = advance(Meter(at=100.0), limit_w=700, loads=[load(since=110.0)], now=140.0)
    assert meter.energy_j == pytest.approx(10 * IDLE_SHARE * 700 + 30 * 700)
    assert meter.busy_s == {0: pytest.approx(30.0), 1: pytest.approx(30.0)}


def test_temperature_follows_power_with_the_time_constant() -> None:
    start = Meter(at=0.0)
    assert advance(start, limit_w=700, loads=[], now=500.0).temperature_c == pytest.approx(
        start.temperature_c
    )
    after_one = advance(start, limit_w=700, loads=[load()], now=TIME_CONSTANT_S).temperature_c
    assert (after_one - start.temperature_c) / (COOL_C + WARMING_C - start.temperature_c) == pytest.approx(
        1 - math.exp(-1)
    )
    hot = advance(start, limit_w=700, loads=[load()], now=20 * TIME_CONSTANT_S)
    assert hot.temperature_c == pytest.approx(COOL_C + WARMING_C)
    cool = advance(hot, limit_w=700, loads=[], now=hot.at + 20 * TIME_CONSTANT_S)
    assert cool.temperature_c == pytest.approx(start.temperature_c)


def test_a_clock_that_goes_back_changes_nothing() -> None:
    meter = Meter(at=100.0, energy_j=5.0)
    assert advance(meter, limit_w=700, loads=[load()], now=90.0) == meter


@settings(deadline=None, max_examples=50)
@given(
    steps=st.lists(st.tuples(st.floats(-5, 50), st.floats(0, 1)), min_size=1, max_size=8),
    cut=st.floats(0.01, 0.99),
)
def test_energy_never_falls_and_does_not_depend_on_how_often_it_is_read(
    steps: list[tuple[float, float]], cut: float
) -> None:
    seldom = often = Meter(at=0.0)
    now = 0.0
    for seconds, busy in steps:
        loads = [load(busy=busy)]
        before, now = seldom, now + seconds
        often = advance(often, limit_w=700, loads=loads, now=before.at + cut * (now - before.at))
        often = advance(often, limit_w=700, loads=loads, now=now)
        seldom = advance(seldom, limit_w=700, loads=loads, now=now)
        assert seldom.energy_j >= before.energy_j
        assert often.energy_j == pytest.approx(seldom.energy_j)
        assert often.temperature_c == pytest.approx(seldom.temperature_c)
