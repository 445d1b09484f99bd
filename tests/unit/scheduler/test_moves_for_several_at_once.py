"""Several pods want room at once: one of them that cannot be helped holds up none of the others."""

from __future__ import annotations

from scheduler_objects import exactly
from tessera.scheduler.actions import KeepRoom
from unit.scheduler.two_crowded_gpus import A, B, Cluster, of


def nowhere_to_move_to(cluster: Cluster) -> None:
    """b is full, so that only preemption makes room."""
    cluster.add_victim("full", "1g.10gb", f"{B}-1g-10gb-6", node="node-b", annotations={}, job="full")
    cluster.world.allow_moves("pool", A, B, preemption="LowerPriority")


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
