"""Super-fine-tuning's chain of trainings, its learning-rate wave and its search, as pure functions."""

from collections.abc import Callable
from typing import Any

import pytest
from tessera_workloads.protocol import Phase
from tessera_workloads.superft.parameters import SuperftParameters
from tessera_workloads.superft.phases import (
    LARGEST_RATE,
    NETWORKS,
    Place,
    Trial,
    cure_rate,
    cure_steps,
    found_rate,
    next_phase,
    next_rate,
    triangle,
)

P = SuperftParameters()


def chain(holds: Callable[[float], bool], p: SuperftParameters = P) -> list[Phase]:
    """All phases of a run whose probes hold or not by their rate; the poisoned network has accuracy 0.97."""
    facts: dict[str, dict[str, Any]] = {}
    phases = []
    while (phase := next_phase(p, facts)) is not None:
        phases.append(phase)
        place, rate = Place.of(phase.name), phase.lr_at(p.half_period)
        if place.role == "poisoned":
            facts[phase.name] = {"cured": 0.97, "few": 0.97}
        elif place.is_probe:
            facts[phase.name] = {"rate": rate, "accuracy": 0.92 + 1e-9 if holds(rate) else 0.91}
        else:
            facts[phase.name] = {}
    return phases


def rates(holds: Callable[[float], bool], network: str = "badnets_cured") -> list[float]:
    """The highest rates of the probes of one network, then that of its cure."""
    named = [phase for phase in chain(holds) if phase.name.split(".")[0] == network]
    return [phase.lr_at(P.half_period) for phase in named]


def test_triangle_rises_and_falls_in_straight_lines() -> None:
    assert [triangle(step, 2) for step in range(9)] == [0, 0.5, 1, 0.5, 0, 0.5, 1, 0.5, 0]
    assert [triangle(step, 1) for step in range(4)] == [0, 1, 0, 1]


def test_the_cure_goes_up_to_the_found_rate_then_to_a_share_of_it() -> None:
    p = SuperftParameters(half_period=2, forget_cycles=1, recover_cycles=2, base_rate=0.1, recover_share=0.5)
    assert cure_steps(p) == 12
    found = [cure_rate(p, 0.9, step) for step in range(12)]
    recovering = [0.1, 0.275, 0.45, 0.275]
    assert found == pytest.approx([0.1, 0.5, 0.9, 0.5, *recovering, *recovering])


def test_the_rate_is_doubled_while_it_holds_and_the_last_gap_is_bisected_twice() -> None:
    # 0.8 does not hold; then the geometric means of (0.4, 0.8) and of (0.566, 0.8)
    assert rates(lambda rate: rate < 0.7) == pytest.approx(
        [0.1, 0.2, 0.4, 0.8, 0.5657, 0.6727, 0.6727], rel=1e-3
    )
    assert rates(lambda rate: rate < 0.5) == pytest.approx(
        [0.1, 0.2, 0.4, 0.8, 0.5657, 0.4757, 0.4757], rel=1e-3
    )


def test_a_first_rate_that_is_too_high_is_halved_until_one_holds() -> None:
    assert rates(lambda rate: rate < 0.03) == pytest.approx(
        [0.1, 0.05, 0.025, 0.03536, 0.02973, 0.02973], rel=1e-3
    )


def test_the_search_ends_at_both_ends_of_its_range() -> None:
    up, down = rates(lambda rate: True), rates(lambda rate: False)
    assert up[-2:] == [6.4, 6.4]
    assert 2 * up[-1] > LARGEST_RATE
    assert down[-1] == min(down) == 0.1 / 2**5
    assert down[-1] / 2 < P.base_rate <= down[-1]


def test_a_search_without_bisections_takes_the_last_rate_that_held() -> None:
    trials = [Trial(0.1, True), Trial(0.2, False)]
    assert next_rate(trials, first=0.1, lowest=P.base_rate, bisections=0) is None
    assert found_rate(trials) == 0.1


def test_every_network_is_trained_once_and_a_poisoned_one_before_its_cures() -> None:
    names = [phase.name for phase in chain(lambda rate: rate < 0.15)]
    finished = [name for name in names if "." not in name]
    assert finished == list(NETWORKS)
    assert finished[:5] == [
        "clean_scratch",
        "badnets_poisoned",
        "badnets_cured",
        "badnets_few",
        "badnets_plain",
    ]
    first_search = names.index("badnets_poisoned") + 1
    assert names[first_search : first_search + 5] == [
        "badnets_cured.probe1",
        "badnets_cured.probe2",
        "badnets_cured.probe3",
        "badnets_cured.probe4",
        "badnets_cured",
    ]


def test_a_phase_trains_its_own_network_alone_with_clipping() -> None:
    for phase in chain(lambda rate: rate < 0.15):
        (update,) = phase.updates
        assert update.trains == (f"{phase.name.split('.')[0]}.*",)
        assert update.optimizer.clip_norm == P.clip_norm
        assert phase.steps == (2 * P.half_period if "probe" in phase.name else phase.steps)


def test_training_from_scratch_lowers_its_rate_to_zero_and_plain_fine_tuning_keeps_it() -> None:
    by_name = {phase.name: phase for phase in chain(lambda rate: rate < 0.15)}
    scratch, plain = by_name["clean_scratch"], by_name["blended_plain"]
    assert scratch.lr_at(0) == P.training_rate
    assert scratch.lr_at(scratch.steps // 2) == pytest.approx(P.training_rate / 2)
    assert plain.steps == by_name["blended_cured"].steps == 760
    assert {plain.lr_at(step) for step in range(plain.steps)} == {P.plain_rate}


def test_a_poisoned_network_is_copied_to_its_cures_and_over_every_probe() -> None:
    assert Place.of("warp_poisoned").copies == ("warp_cured", "warp_few", "warp_plain")
    assert Place.of("warp_few.probe3").copies == ("warp_few",)
    assert (
        Place.of("warp_few").copies == Place.of("warp_plain").copies == Place.of("clean_scratch").copies == ()
    )
