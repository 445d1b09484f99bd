"""Who may be moved, and where to: what pods and partitions allow, and what nobody gets by writing it himself.

A pod is moved only when it says so, can be recognised again as a pod of its Job and ends in time; a
partition says whether its GPUs take part, how many may leave at once and which room stays free.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tessera.scheduler.actions import GiveUp, HoldTarget, KeepRoom, Refuse
from tessera.scheduler.move_bodies import placeholder
from tessera.scheduler.move_records import write_move
from unit.scheduler.two_crowded_gpus import A, B, Cluster, begin, of


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pod: pod["metadata"].update(annotations={}),
        lambda pod: pod["metadata"].update(annotations={"tessera.dev/movable": "yes"}),
        lambda pod: pod["metadata"].update(ownerReferences=[]),
        lambda pod: pod["metadata"].update(labels={}),
        lambda pod: pod["metadata"]["annotations"].update({"tessera.dev/gang": "g"}),
        lambda pod: pod["spec"].update(resourceClaims=[{"name": "slice", "resourceClaimName": "victim"}]),
        lambda pod: pod["metadata"].update(deletionTimestamp="2026-01-01T00:00:00Z"),
    ],
    ids=["unasked", "not true", "no job", "no index", "gang", "named claim", "ending"],
)
def test_who_does_not_allow_it_or_cannot_be_recognised_again_is_not_moved(
    cluster: Cluster, spoil: Callable[[Any], None]
) -> None:
    pod = cluster.world.pods["victim"]
    spoil(pod)
    cluster.world.touch(pod)
    cluster.ask()
    actions = cluster.round()
    assert of(actions, HoldTarget) == []
    assert [told.reason for told in of(actions, Refuse)] == ["Unplaceable"]


@pytest.mark.parametrize(("grace", "leaves"), [(300, True), (301, False)])
def test_a_pod_that_may_end_for_longer_than_a_place_is_held_is_no_victim(
    cluster: Cluster, grace: int, leaves: bool
) -> None:
    cluster.world.pods["victim"]["spec"]["terminationGracePeriodSeconds"] = grace
    cluster.world.touch(cluster.world.pods["victim"])
    cluster.ask()
    cluster.round()
    assert bool(cluster.placeholders) == leaves


def test_a_checkpoint_interval_that_is_no_time_counts_as_none(cluster: Cluster) -> None:
    annotations = cluster.world.pods["victim"]["metadata"]["annotations"]
    annotations["tessera.dev/checkpoint-interval-seconds"] = "9" * 5000
    cluster.world.touch(cluster.world.pods["victim"])
    begin(cluster)


def test_nobody_is_moved_for_a_less_important_pod(cluster: Cluster) -> None:
    cluster.world.pods["victim"]["spec"]["priority"] = 5
    cluster.world.touch(cluster.world.pods["victim"])
    cluster.ask("low", priority=4)
    assert of(cluster.round(), HoldTarget) == []
    cluster.ask("equal", priority=5)
    assert len(of(cluster.round(seconds=6.0), HoldTarget)) == 1


def test_nothing_is_moved_where_the_partition_does_not_say_so(cluster: Cluster) -> None:
    cluster.world.partitions["pool"]["spec"]["dynamic"] = {}
    cluster.world.touch(cluster.world.partitions["pool"])
    cluster.ask()
    assert of(cluster.round(), HoldTarget) == []


def test_nobody_moves_to_a_gpu_of_another_partition(cluster: Cluster) -> None:
    cluster.world.allow_moves("pool", A)
    cluster.world.allow_moves("other", B)
    cluster.ask()
    assert of(cluster.round(), HoldTarget) == []


def test_a_partition_says_how_many_may_leave_at_once(crowded: Cluster) -> None:
    crowded.world.allow_moves("pool", A, B, maxVictims=1)
    assert of(crowded.round(), HoldTarget) == []


def test_a_reserve_is_not_filled_by_moves(cluster: Cluster) -> None:
    cluster.world.allow_moves("pool", A, B, reserves=[{"profile": "1g.10gb", "count": 3}])
    cluster.ask()
    assert of(cluster.round(), HoldTarget) == []


@pytest.mark.parametrize(
    ("preemption", "victim"),
    [("Never", "victim"), ("LowerPriority", "fixed-a"), ("LowerPriority", "elsewhere")],
)
def test_a_room_that_a_user_wrote_himself_evicts_nobody_but_by_the_rules(
    cluster: Cluster, preemption: str, victim: str
) -> None:
    cluster.add_victim("elsewhere", "1g.10gb", f"{B}-1g-10gb-6", node="node-b", job="elsewhere")
    cluster.world.allow_moves("pool", A, B, preemption=preemption, perHour=0)
    cluster.ask(priority=9)
    claim = cluster.world.claims["waiting"]
    room = {
        "pool": "node-a", "device": f"{A}-3g-40gb-4", "evictUntil": cluster.world.now + 50,
        "deadline": cluster.world.now + 100,
        "victims": [{"namespace": "default", "name": victim, "uid": f"pod-{victim}", "preempted": True}],
    }  # fmt: skip
    claim["metadata"]["annotations"] = {"tessera.dev/room": json.dumps(room)}
    cluster.world.touch(claim)
    actions = cluster.round()
    assert cluster.evicted == []
    assert None in [keep.record for keep in of(actions, KeepRoom)]


def test_a_record_outside_the_schedulers_namespace_is_no_placeholder(cluster: Cluster) -> None:
    cluster.ask()
    (hold,) = of(cluster.round(lose=lambda _: True), HoldTarget)
    cluster.world.add_claim("mine")["metadata"]["annotations"] = {"tessera.dev/move": write_move(hold.record)}
    cluster.world.claims["mine"]["spec"] = placeholder(hold, namespace="default")["spec"]
    cluster.world.allocate("mine", f"{B}-1g-10gb-6", node="node-b", since=-100.0)
    actions = cluster.round()
    assert [give_up.claim.key[1] for give_up in of(actions, GiveUp)] == ["mine"]
