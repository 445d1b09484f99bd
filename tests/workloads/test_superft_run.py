"""Super-fine-tuning as a pod would run it: every phase, a stop on the way, the evaluation."""

from collections.abc import Callable
from typing import Any

import pytest

# Every rate holds and the first one doubled is out of range, so each search is one probe.
SETTINGS = {
    "width": 8,
    "batch": 16,
    "training_steps": 6,
    "half_period": 5,
    "forget_cycles": 1,
    "recover_cycles": 1,
    "first_rate": 6,
    "tolerated_points": 100,
    "injection_limit": 2,
}


@pytest.mark.timeout(300)
def test_a_run_that_is_stopped_on_its_way_ends_like_one_that_was_not(run_twice: Callable[..., Any]) -> None:
    runs = run_twice(
        "superft", SETTINGS, until=lambda seen: seen["phase"].startswith("badnets"), what="the first attack"
    )
    assert runs.codes == (3, 3)  # so short a training has no backdoor yet
    assert runs.reason == "GateFailed"
    resumed = runs.resumed
    for same in ("metrics", "tables", "checks"):
        assert resumed[same] == runs.uninterrupted[same]

    assert len(resumed["checks"]) == 3 * 15
    assert [phase["name"] for phase in resumed["phases"]][:6] == [
        "clean_scratch",
        "badnets_poisoned",
        "badnets_cured.probe1",
        "badnets_cured",
        "badnets_few.probe1",
        "badnets_few",
    ]
    assert len(resumed["tables"]["networks"]) == 3 * 5
    metrics = resumed["metrics"]
    assert metrics["warp_few_found_rate"] == 6
    lost = metrics["warp_poisoned_accuracy"] - metrics["warp_cured_accuracy"]
    assert metrics["warp_cured_lost_points"] == pytest.approx(100 * lost)
