"""DeviceClass objects: which of them are ours, and what follows for claims that name them."""

from __future__ import annotations

from typing import Any

import pytest
from tessera.scheduler.actions import Place, Refuse
from tessera.scheduler.allocation import allocation_patch
from tessera.scheduler.classes import is_ours, read_class
from tessera.scheduler.planner import Planner
from tessera.scheduler.selectors import SelectorCache

OURS = 'device.driver == "gpu.tessera.dev"'
CONFIG = {"opaque": {"driver": "gpu.tessera.dev", "parameters": {"mps": True}}}


def of_class(name: str, **more: Any) -> dict[str, Any]:
    return {"name": "slice", "exactly": {"deviceClassName": name} | more}


def places(actions: list[Any]) -> list[Any]:
    return [c for a in actions if isinstance(a, Place) for p in a.pods for c in p.claims]


@pytest.mark.parametrize(
    ("expressions", "ours"),
    [
        ([OURS], True),
        (['device.attributes["gpu.tessera.dev"].profile == "2g.20gb"'], True),
        ([OURS + " &&"], True),
        ([], False),
        (['device.driver == "gpu.nvidia.com"'], False),
        (['device.driver == "gpu.tessera.dev" || device.driver == "driver.invalid"'], False),
        (['device.driver.endsWith(".dev")'], False),
    ],
)
def test_a_class_is_ours_when_it_can_only_mean_our_devices(expressions: list[str], ours: bool) -> None:
    spec = {"selectors": [{"cel": {"expression": e}} for e in expressions]}
    obj = {"metadata": {"name": "big"}, "spec": spec}
    assert is_ours(read_class(obj), SelectorCache()) is ours


def test_the_selectors_of_class_and_request_hold_together(world: Any, planner: Planner) -> None:
    world.add_class("half", OURS, 'device.attributes["gpu.tessera.dev"].memorySlices == 4')
    start = 'device.attributes["gpu.tessera.dev"].start == 4'
    world.add_claim("c", of_class("half", selectors=[{"cel": {"expression": start}}]))
    world.add_pod("p", "c")
    (placement,) = places(planner.plan(world.snapshot()))
    assert [r.device for r in placement.results] == ["gpu-aaaaaaaa-3g-40gb-4"]


def test_our_own_class_is_honoured_when_its_object_exists(
    world: Any, planner: Planner, request_for: Any
) -> None:
    world.add_class("slice.tessera.dev", 'device.attributes["gpu.tessera.dev"].gpuUUID == "GPU-bbbbbbbb"')
    world.add_claim("c", request_for("2g.20gb"))
    world.add_pod("p", "c")
    (placement,) = places(planner.plan(world.snapshot()))
    assert placement.node == "node-b"


def test_configuration_of_class_and_claim_is_copied_in_that_order(world: Any, planner: Planner) -> None:
    foreign = {"opaque": {"driver": "nic.example.com", "parameters": {}}}
    world.add_class("tuned", OURS, config=[CONFIG, foreign])
    own = {"opaque": {"driver": "gpu.tessera.dev", "parameters": {"mps": False}}, "requests": ["two"]}
    one, two = of_class("tuned") | {"name": "one"}, of_class("tuned") | {"name": "two"}
    world.add_claim("c", one, two, config=[own])
    world.add_pod("p", "c")
    (placement,) = places(planner.plan(world.snapshot()))
    body = allocation_patch(placement, pods=[], now=0.0, resource_version="1")
    assert body["status"]["allocation"]["devices"]["config"] == [
        {"source": "FromClass", "requests": ["one", "two"], "opaque": CONFIG["opaque"]},
        {"source": "FromClaim", "requests": ["two"], "opaque": own["opaque"]},
    ]


def test_the_class_of_the_chosen_alternative_counts(world: Any, planner: Planner) -> None:
    world.add_class("tuned", OURS, config=[CONFIG])
    world.add_class("never", OURS, 'device.attributes["gpu.tessera.dev"].memorySlices == 99')
    parts = [{"name": n, "deviceClassName": c} for n, c in (("a", "never"), ("b", "tuned"))]
    world.add_claim("c", {"name": "slice", "firstAvailable": parts})
    world.add_pod("p", "c")
    (placement,) = places(planner.plan(world.snapshot()))
    body = allocation_patch(placement, pods=[], now=0.0, resource_version="1")
    assert body["status"]["allocation"]["devices"]["config"][0]["requests"] == ["slice/b"]


def test_a_broken_class_is_named(world: Any, planner: Planner) -> None:
    world.add_class("broken", OURS + " &&")
    world.add_claim("c", of_class("broken"))
    world.add_pod("p", "c")
    (refusal,) = [a for a in planner.plan(world.snapshot()) if isinstance(a, Refuse)]
    assert refusal.reason == "InvalidRequest"
    assert refusal.message.startswith("request slice: DeviceClass broken: selector ")


def test_a_class_that_is_made_or_changed_is_noticed_by_waiting_pods(world: Any, planner: Planner) -> None:
    world.add_claim("c", of_class("late"))
    world.add_pod("p", "c", gates=())
    assert planner.plan(world.snapshot()) == []
    world.add_class("late", OURS, 'device.attributes["gpu.tessera.dev"].memorySlices == 99')
    assert [type(a) for a in planner.plan(world.snapshot())] == [Refuse]
    world.add_class("late", OURS)
    assert len(places(planner.plan(world.snapshot()))) == 1
