"""What `tessera explain pod` says, from objects alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tessera.cli.explain import WIDTH, render
from tessera.placement.policies import FirstFit
from tessera.scheduler.explain import Explanation, explain_pod


def explained(world: Any, pod: str = "p") -> Explanation:
    return explain_pod(world.snapshot(), ("default", pod), FirstFit())


@pytest.fixture
def full(world: Any) -> Any:
    """Of three nodes one is tainted and one has no CPU; the GPU of the third has a 1g at 0."""
    world.add_node("node-c", gpus=["gpu-cccccccc"], taints=[{"key": "maintenance", "effect": "NoSchedule"}])
    world.add_node("node-d", gpus=["gpu-dddddddd"], cpu="1")
    world.nodes["node-b"]["status"]["allocatable"]["cpu"] = "1"
    world.touch(world.nodes["node-b"])
    world.add_pod_with_claim("used", "1g.10gb", gates=(), nodeName="node-a")
    world.allocate("used", "gpu-aaaaaaaa-1g-10gb-0", node="node-a", pod="used")
    world.add_pod_with_claim("p", "7g.80gb", cpu="2", created=-90.0)
    return world


def test_the_funnel_counts_what_each_filter_takes(full: Any) -> None:
    found = explained(full)
    assert (found.state, found.reason) == ("Waiting", "Unplaceable")
    funnel = found.funnel
    assert funnel is not None
    assert (funnel.nodes, funnel.nodes_passing) == (4, 1)
    assert funnel.excluded == {"insufficient cpu": 2, "untolerated taint": 1}
    assert funnel.gpus_offering == {"H100-80GB": 4}
    assert (funnel.gpus_in_reach, funnel.gpus_with_room) == (1, 0)
    rooms = {room.profile: (room.gpus_with_room, room.slices) for room in funnel.rooms}
    assert rooms["1g.10gb"] == (1, 6)
    assert rooms["3g.40gb"] == (1, 1)
    assert rooms["7g.80gb"] == (0, 0)
    assert "freeing gpu-aaaaaaaa-1g-10gb-0 (claim default/used)" in found.message
    assert found.waits_seconds == 90


def test_the_answer_is_that_of_the_next_round(full: Any) -> None:
    full.add_pod_with_claim("urgent", "3g.40gb", priority=5)
    full.add_pod_with_claim("late", "3g.40gb", created=5.0)
    assert explained(full, "urgent").devices == ("gpu-aaaaaaaa-3g-40gb-4",)
    late = explained(full, "late")
    assert late.served_before == 2
    assert late.state == "Fits"
    assert late.devices == ("gpu-bbbbbbbb-3g-40gb-0",)


def test_a_placed_pod_has_its_devices_and_a_plain_one_nothing_of_ours(full: Any) -> None:
    found = explained(full, "used")
    assert (found.state, found.node, found.devices) == ("Placed", "node-a", ("gpu-aaaaaaaa-1g-10gb-0",))
    full.add_pod("plain", gates=())
    assert explained(full, "plain").state == "NotOurs"


def test_gang_reserve_other_gates_and_the_last_message_are_shown(full: Any) -> None:
    gang = {"tessera.dev/gang": "g", "tessera.dev/gang-size": "3"}
    full.add_pod_with_claim("m0", "1g.10gb", annotations=gang)
    full.reserve("all", "gpu-aaaaaaaa", seven_g=1)
    told = {"tessera.dev/placement-message": json.dumps({"reason": "Unplaceable", "message": "before"})}
    full.claims["m0"]["metadata"]["annotations"] = told
    found = explained(full, "m0")
    assert found.message == "gang g: 1 of its 3 pods exist; the others are waited for"
    assert found.gang is not None
    assert (found.gang.members, found.gang.size, found.gang.seconds_left) == (1, 3, 600)
    assert found.reserves == ("all: 1 x 7g.80gb, room for 0",)
    assert found.told["message"] == "before"
    full.add_pod_with_claim("held", "1g.10gb", gates=("example.com/quota", "tessera.dev/placement"))
    assert explained(full, "held").message == "example.com/quota holds it; its owner must remove that gate"


@pytest.mark.parametrize("pod", ["p", "used", "m0", "odd"])
def test_the_text_fits_eighty_columns(full: Any, pod: str) -> None:
    gang = {"tessera.dev/gang": "a-gang-with-quite-a-long-name" * 3, "tessera.dev/gang-size": "3"}
    full.add_pod_with_claim("m0", "1g.10gb", annotations=gang)
    full.add_pod_with_claim("odd", "9g.90gb")
    lines = list(render(explained(full, pod), leader=""))
    assert max(map(len, lines)) <= WIDTH
    assert any("No scheduler leads" in line for line in lines) == (pod != "used")


def test_what_was_told_is_not_repeated_when_it_only_says_more_of_moves(full: Any) -> None:
    def last_told(message: str) -> list[str]:
        told = {"tessera.dev/placement-message": json.dumps({"reason": "Unplaceable", "message": message})}
        full.claims["p"]["metadata"]["annotations"] = told
        full.touch(full.claims["p"])
        return [line for line in render(explained(full), leader="x") if line.startswith("Last told")]

    now = explained(full).message
    assert last_told("something else") != []
    assert last_told(f"{now}; move: none: no MIGPartition allows moves (spec.dynamic.moves)") == []


def test_a_slice_that_was_withdrawn_under_its_pod_is_mentioned(full: Any) -> None:
    assert "does not offer" not in explained(full, "used").message
    full.claims["used"]["status"]["allocation"]["devices"]["results"][0]["device"] = "gpu-aaaaaaaa-1g-10gb-99"
    full.touch(full.claims["used"])
    message = explained(full, "used").message
    assert message == "it is bound to node node-a; that node does not offer its slice any more"
