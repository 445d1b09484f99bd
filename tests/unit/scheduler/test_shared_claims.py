"""Several pods with one claim: the first decides the node, the others join it there."""

from __future__ import annotations

from typing import Any

import pytest
from tessera.api.names import LEAVING_TAINT_KEY, UNHEALTHY_TAINT_KEY
from tessera.scheduler.actions import Place, Refuse
from tessera.scheduler.allocation import share_patch
from tessera.scheduler.planner import Planner


@pytest.fixture
def shared(world: Any, request_for: Any) -> Any:
    """A claim on node-a that pod `first` uses."""
    world.add_claim("shared", request_for("3g.40gb"))
    world.add_pod("first", "shared", gates=(), nodeName="node-a")
    world.allocate("shared", "gpu-aaaaaaaa-3g-40gb-0", node="node-a", pod="first")
    return world


def places(actions: list[Any]) -> list[Any]:
    return [p for a in actions if isinstance(a, Place) for p in a.pods]


def refusals(actions: list[Any]) -> list[str]:
    return [a.message for a in actions if isinstance(a, Refuse)]


def test_a_pod_joins_only_where_the_claim_is(shared: Any, planner: Planner) -> None:
    shared.add_pod("joins", "shared", cpu="10", created=0.0)
    shared.add_pod("too-big", "shared", cpu="10", created=1.0)
    actions = planner.plan(shared.snapshot())
    assert [p.pod.key[1] for p in places(actions)] == ["joins"]
    assert refusals(actions) == [
        "the claim that the pod shares is on node node-a, which the pod cannot use: insufficient cpu; free "
        "room there, or give the pod a claim of its own"
    ]


@pytest.mark.parametrize(
    ("taints", "gpu", "why"),
    [
        (
            [{"key": LEAVING_TAINT_KEY, "value": "true", "effect": "NoSchedule"}],
            "gpu-aaaaaaaa",
            "takes nobody new",
        ),
        (
            [{"key": UNHEALTHY_TAINT_KEY, "value": "lost", "effect": "NoExecute"}],
            "gpu-aaaaaaaa",
            "takes nobody new",
        ),
        ([], "gpu-dddddddd", "is not published any more"),
    ],
    ids=["leaving", "lost", "gone"],
)
def test_nobody_joins_a_claim_whose_slice_has_to_become_free(
    shared: Any, planner: Planner, publish: Any, taints: list[Any], gpu: str, why: str
) -> None:
    shared.slices = publish("node-a", [gpu], generation=2, taints=taints)
    shared.add_pod("replacement", "shared")
    (message,) = refusals(planner.plan(shared.snapshot()))
    assert f"holds device gpu-aaaaaaaa-3g-40gb-0 of node node-a, which {why}" in message
    # The one before it has ended, so that the claim is free, and another GPU takes both.
    shared.claims["shared"]["status"] = {}
    shared.touch(shared.claims["shared"])
    del shared.pods["first"]
    shared.slices = publish("node-a", ["gpu-cccccccc"], generation=3)
    (placement,) = places(planner.plan(shared.snapshot()))
    assert [r.device for c in placement.claims for r in c.results] == ["gpu-cccccccc-3g-40gb-0"]


def test_waiting_sharers_take_no_cpu_from_others(shared: Any, planner: Planner) -> None:
    shared.add_pod("too-big", "shared", cpu="40")
    planner.plan(shared.snapshot())
    shared.add_pod_with_claim("other", "3g.40gb", cpu="12", nodeSelector={})
    assert [p.claims[0].node for p in places(planner.plan(shared.snapshot()))] == ["node-a"]


def test_a_claim_of_its_own_goes_where_the_shared_one_is(
    shared: Any, planner: Planner, request_for: Any
) -> None:
    shared.add_claim("own", request_for("7g.80gb"))
    shared.add_pod("second", "shared", "own")
    assert (
        "another claim of the pod is allocated elsewhere excluded 1"
        in (refusals(planner.plan(shared.snapshot()))[0])
    )
    shared.add_claim("own", request_for("3g.40gb"))
    shared.now += 60
    (placement,) = places(planner.plan(shared.snapshot()))
    assert [r.device for c in placement.claims for r in c.results] == ["gpu-aaaaaaaa-3g-40gb-4"]
    assert [c.key[1] for c in placement.shares] == ["shared"]


def test_the_api_allows_256_consumers(shared: Any, planner: Planner) -> None:
    reserved = [{"resource": "pods", "name": f"q{i}", "uid": f"pod-q{i}"} for i in range(255)]
    shared.claims["shared"]["status"]["reservedFor"] = reserved
    shared.touch(shared.claims["shared"])
    for i in range(2):
        shared.add_pod(f"late{i}", "shared", created=float(i))
    actions = planner.plan(shared.snapshot())
    assert [p.pod.key[1] for p in places(actions)] == ["late0"]
    assert "is used by 256 pods, which is the most that the API allows" in refusals(actions)[0]


def test_the_reservation_is_added_and_not_replaced(shared: Any, planner: Planner) -> None:
    shared.add_pod("joins", "shared")
    (placement,) = places(planner.plan(shared.snapshot()))
    (claim,) = placement.shares
    patch = share_patch(claim, placement.pod)
    consumer = {"resource": "pods", "name": "joins", "uid": "pod-joins"}
    assert patch[-1] == {"op": "add", "path": "/status/reservedFor/-", "value": consumer}
    assert patch[0] == {"op": "test", "path": "/metadata/uid", "value": "claim-shared"}
