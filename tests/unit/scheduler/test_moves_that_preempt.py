"""A more important pod takes the place of a movable one that has nowhere to go, if the partition says so.

Moves come first: nobody is preempted where a move helps, nor for a pod of the same priority.
"""

from __future__ import annotations

from typing import Any

import pytest
from tessera.scheduler.actions import Evict, HoldTarget, KeepRoom
from unit.scheduler.two_crowded_gpus import A, B, Cluster, nowhere_to_move_to, of


def preempting(cluster: Cluster, **victim: Any) -> None:
    nowhere_to_move_to(cluster)
    cluster.world.pods["victim"]["spec"] |= victim
    cluster.world.touch(cluster.world.pods["victim"])


def test_a_more_important_pod_preempts_a_movable_one_when_no_move_helps(cluster: Cluster) -> None:
    preempting(cluster)
    cluster.ask(priority=5)
    first = cluster.round()
    (keep,) = of(first, KeepRoom)
    assert keep.record.victims[0].preempted
    assert of(first, HoldTarget) == []
    second = cluster.round()
    assert [e.reason for e in of(second, Evict)] == ["Preempted"]
    cluster.go("victim")
    cluster.add_job_pod("again", "1g.10gb")
    cluster.round()
    assert cluster.device("waiting") == f"{A}-3g-40gb-4"
    assert cluster.device("again") is None


@pytest.mark.parametrize(
    ("victim", "waiting"),
    [({}, {}), ({"priority": 5}, {"priority": 5}), ({}, {"priority": 5, "preemptionPolicy": "Never"})],
    ids=["equal", "not higher", "never"],
)
def test_nobody_is_preempted_without_need_or_right(
    cluster: Cluster, victim: dict[str, Any], waiting: dict[str, Any]
) -> None:
    preempting(cluster, **victim)
    cluster.ask(**waiting)
    cluster.round()
    cluster.round()
    assert cluster.evicted == []


def test_preemption_is_off_unless_the_partition_says_otherwise(cluster: Cluster) -> None:
    preempting(cluster)
    cluster.world.allow_moves("pool", A, B)
    cluster.ask(priority=5)
    cluster.round()
    cluster.round()
    assert cluster.evicted == []
