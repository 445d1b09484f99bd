"""The gauges of the scheduler show the state, and vanish with it."""

from __future__ import annotations

from typing import Any

import pytest
from tessera.metrics.registry import REGISTRY
from tessera.scheduler.gauges import StateGauges, clear_state, show_rations
from tessera.scheduler.moving.ration import Ration
from tessera.scheduler.planner import Planner


def sample(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"tessera_{name}", labels)


def test_gauges_show_what_is_held_and_what_still_fits(world: Any, planner: Planner) -> None:
    world.add_pod_with_claim("a", "4g.40gb", gates=())
    world.allocate("a", "gpu-aaaaaaaa-4g-40gb-0", node="node-a", pod="a")
    planner.plan(world.snapshot())
    gauges = StateGauges()
    gauges.show(planner.occupancy.state, planner.engine.policy)
    assert sample("allocated_slices", profile="4g.40gb") == 1
    assert sample("allocated_slices", profile="7g.80gb") == 0
    assert sample("largest_placeable_profile_slices", node="node-a", gpu="gpu-aaaaaaaa") == 4
    assert sample("largest_placeable_profile_slices", node="node-b", gpu="gpu-bbbbbbbb") == 8
    # Of seven profiles, 4g and 7g cannot use the four free slices: 4 x 2/7 of 8.
    fragmentation = sample("fragmentation_ratio", node="node-a", gpu="gpu-aaaaaaaa")
    assert fragmentation == pytest.approx(4 * 2 / 7 / 8)
    assert sample("fragmentation_ratio", node="node-b", gpu="gpu-bbbbbbbb") == 0
    clear_state()
    assert sample("allocated_slices", profile="4g.40gb") is None
    assert sample("fragmentation_ratio", node="node-a", gpu="gpu-aaaaaaaa") is None


def test_gauges_follow_a_gpu_that_changes_and_forget_one_that_goes(world: Any, planner: Planner) -> None:
    gauges = StateGauges()
    planner.plan(world.snapshot())
    gauges.show(planner.occupancy.state, planner.engine.policy)
    world.add_pod_with_claim("a", "4g.40gb", gates=())
    world.allocate("a", "gpu-aaaaaaaa-4g-40gb-0", node="node-a", pod="a")
    planner.plan(world.snapshot())
    gauges.show(planner.occupancy.state, planner.engine.policy)
    assert sample("largest_placeable_profile_slices", node="node-a", gpu="gpu-aaaaaaaa") == 4
    assert sample("allocated_slices", profile="4g.40gb") == 1
    world.slices = [s for s in world.slices if s["spec"]["nodeName"] != "node-b"]
    planner.plan(world.snapshot())
    gauges.show(planner.occupancy.state, planner.engine.policy)
    assert sample("largest_placeable_profile_slices", node="node-b", gpu="gpu-bbbbbbbb") is None
    assert sample("largest_placeable_profile_slices", node="node-a", gpu="gpu-aaaaaaaa") == 4
    clear_state()


def test_gauges_show_what_is_left_of_the_rations_of_moves() -> None:
    show_rations([Ration("pool", 58, 0.35), Ration("other", 60, 1.0)])
    assert sample("moves_left_this_hour", partition="pool") == 58
    assert sample("moves_earned", partition="pool") == 0.35
    show_rations([Ration("other", 60, 1.0)])
    assert sample("moves_left_this_hour", partition="pool") is None
    clear_state()
    assert sample("moves_earned", partition="other") is None


def test_every_slice_of_a_pod_counts_for_the_acceptance_of_its_profile(
    world: Any, planner: Planner, request_for: Any
) -> None:
    def counted() -> dict[tuple[str, str], float]:
        labels = [(p, o) for p in ("1g.10gb", "3g.40gb", "other") for o in ("at_once", "later")]
        return {(p, o): sample("requests_total", profile=p, outcome=o) or 0.0 for p, o in labels}

    before = counted()
    for i in range(5):
        world.add_claim(f"c{i}", request_for("1g.10gb", name="small"), request_for("3g.40gb", name="half"))
        world.add_pod(f"p{i}", f"c{i}", created=float(i))
    for _ in range(2):
        # On either GPU one pair fits, and a half beside it cannot have its 1g.
        planner.plan(world.snapshot())
    news = {key: now - before[key] for key, now in counted().items() if now != before[key]}
    assert news == {
        ("1g.10gb", "at_once"): 2,
        ("3g.40gb", "at_once"): 2,
        ("1g.10gb", "later"): 3,
        ("3g.40gb", "later"): 3,
    }
