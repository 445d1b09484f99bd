"""Several pods want room at once: one of them that cannot be helped holds up none of the others."""

from __future__ import annotations

import pytest
from scheduler_objects import exactly
from tessera.scheduler.actions import KeepRoom
from tessera.scheduler.moving.ration import Account
from tessera.scheduler.reserves import MoveRule
from unit.scheduler.two_crowded_gpus import A, B, Cluster, fix_slices, nowhere_to_move_to, of

C, D = "gpu-cccccccc", "gpu-dddddddd"


def test_a_pod_that_may_not_preempt_does_not_answer_for_one_that_may(cluster: Cluster) -> None:
    nowhere_to_move_to(cluster)
    cluster.ask("modest", priority=5, created=-10.0, preemptionPolicy="Never")
    cluster.ask("urgent", priority=5)
    (keep,) = of(cluster.round(), KeepRoom)
    assert keep.claim.key[1] == "urgent"


def test_a_pod_that_can_be_compared_with_none_answers_for_itself_only(cluster: Cluster) -> None:
    """Constraints are not compared."""
    for name, profile in (("too-large", "7g.80gb"), ("waiting", "3g.40gb")):
        constraint = {"requests": [], "matchAttribute": "gpu.tessera.dev/gpuUUID"}
        cluster.world.add_claim(name, exactly(profile), constraints=[constraint])
        cluster.world.add_pod(name, name, created=-10.0 if name == "too-large" else 0.0)
    (keep,) = of(cluster.round(), KeepRoom)
    assert keep.claim.key[1] == "waiting"


def move_to(cluster: Cluster, namespace: str, name: str) -> None:
    """The pod is that of another tenant."""
    for obj in (cluster.world.pods[name], cluster.world.claims[name]):
        obj["metadata"]["namespace"] = namespace
        cluster.world.touch(obj)


@pytest.fixture
def two_pairs(cluster: Cluster) -> Cluster:
    """Two more GPUs like a and b. The victim on a is cheaper: the other one has worked for eleven hours."""
    cluster.world.add_node("node-c", gpus=[C])
    cluster.world.add_node("node-d", gpus=[D])
    cluster.world.allow_moves("pool", A, B, C, D)
    fix_slices(cluster, C, D, "2g.20gb", job="more-fixed")
    cluster.add_victim("other", "1g.10gb", f"{C}-1g-10gb-4", node="node-c", job="other")
    cluster.world.nodes["node-b"]["metadata"]["labels"] = {"only": "b"}
    cluster.world.touch(cluster.world.nodes["node-b"])
    cluster.world.pods["victim"]["spec"]["nodeSelector"] = {"only": "b"}
    move_to(cluster, "stubborn", "victim")
    cluster.world.allocate("other", f"{C}-1g-10gb-4", node="node-c", pod="other", since=-40_000.0)
    return cluster


def test_a_plan_whose_victim_may_not_leave_holds_up_others_for_some_seconds_only(two_pairs: Cluster) -> None:
    two_pairs.ask()
    two_pairs.round()
    two_pairs.round()
    assert two_pairs.evicted == ["victim"]
    two_pairs.ask("second")
    for _ in range(3):
        two_pairs.round(seconds=4.0)
    assert len(two_pairs.placeholders) == 1
    two_pairs.round(seconds=4.0)
    assert len(two_pairs.placeholders) == 2
    two_pairs.round()
    assert "other" in two_pairs.evicted
    two_pairs.go("other")
    two_pairs.round()
    assert two_pairs.device("second") == f"{C}-3g-40gb-4"
    assert two_pairs.device("waiting") is None


def test_whoever_lets_his_pods_go_is_asked_before_a_tenant_who_does_not(two_pairs: Cluster) -> None:
    """Another pod of the tenant is cheaper to move than anybody else's, and not left alone itself."""
    two_pairs.ask()
    two_pairs.round()
    two_pairs.round(seconds=16.0)
    del two_pairs.world.pods["waiting"], two_pairs.world.claims["waiting"]
    two_pairs.round()
    assert two_pairs.placeholders == []
    two_pairs.evicted.clear()
    two_pairs.ask("second")
    two_pairs.round(seconds=20.0)
    two_pairs.round()
    assert two_pairs.evicted == ["other"]


def test_what_is_promised_to_a_plan_that_is_stuck_is_not_spent_twice() -> None:
    account = Account(MoveRule(per_100=100, per_hour=3, preempts=True), gpus=8)
    for _ in range(3):
        account.accepted()
    account.promised = 1
    assert (account.movable_now(0.0), account.preemptable_now(0.0)) == (1, 2)
    account.promised = 3
    assert account.movable_now(0.0) == account.preemptable_now(0.0) == 0
