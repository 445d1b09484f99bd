"""A move that cannot be gone through with, or is not needed any more, is given up and leaves nothing held.

Writes get lost, victims may not leave, replacements never come, nodes are cordoned and slices become free
elsewhere. Who has left already keeps the place that is held for him.
"""

from __future__ import annotations

import pytest
from tessera.scheduler.actions import (
    Action,
    AskForReplacement,
    Evict,
    FreeTarget,
    HoldTarget,
    KeepRoom,
    Refuse,
)
from unit.scheduler.two_crowded_gpus import A, B, Cluster, begin, of


def test_a_plan_whose_placeholder_is_refused_is_not_made_anew_in_every_round(cluster: Cluster) -> None:
    cluster.ask()
    actions: list[Action] = []
    for _ in range(50):
        actions += cluster.round(seconds=0.1, lose=lambda action: isinstance(action, HoldTarget))
    assert len(of(actions, KeepRoom)) == 2  # Written, and taken away.
    assert [told.reason for told in of(actions, Refuse)] == ["MakingRoom", "Unplaceable"]
    cluster.round(seconds=30.0)
    cluster.round()
    assert cluster.evicted == ["victim"]


@pytest.mark.parametrize("lost", [HoldTarget, KeepRoom])
def test_half_a_plan_is_given_up_and_made_anew(cluster: Cluster, lost: type[Action]) -> None:
    cluster.ask()
    cluster.round(lose=lambda action: isinstance(action, lost))
    cluster.restart()
    cluster.round()
    assert cluster.evicted == []
    assert cluster.placeholders == []
    for _ in range(3):
        cluster.round()
    assert len(cluster.placeholders) == 1
    assert cluster.evicted == ["victim"]


def test_nobody_leaves_for_a_node_that_does_not_take_the_waiting_pod_any_more(cluster: Cluster) -> None:
    cluster.ask()
    cluster.round()
    cluster.world.nodes["node-a"]["spec"]["unschedulable"] = True
    cluster.world.touch(cluster.world.nodes["node-a"])
    actions = cluster.round()
    assert of(actions, Evict) == []
    assert [keep.record for keep in of(actions, KeepRoom)] == [None]
    assert cluster.placeholders == []


def test_who_may_not_be_evicted_in_time_is_left_alone_for_ten_minutes(cluster: Cluster) -> None:
    begin(cluster)
    actions = cluster.round(seconds=61.0)
    assert [free.outcome for free in of(actions, FreeTarget)] == ["refused"]
    assert [keep.record for keep in of(actions, KeepRoom)] == [None]
    assert cluster.placeholders == []
    for _ in range(10):
        cluster.round(seconds=45.0)
    assert cluster.placeholders == []
    for _ in range(10):
        cluster.round(seconds=45.0)
    assert cluster.evicted.count("victim") > 1


def test_who_has_left_keeps_his_new_place_when_another_may_not_leave(crowded: Cluster) -> None:
    crowded.round()
    crowded.round()
    (first,) = crowded.evicted
    crowded.go(first)
    actions = crowded.round(seconds=61.0)
    assert [free.outcome for free in of(actions, FreeTarget)] == ["refused"]
    assert len(crowded.placeholders) == 1
    target = crowded.device(crowded.placeholders[0])
    crowded.add_job_pod("again", "1g.10gb", index="1" if first == "one" else "2")
    crowded.round()
    assert crowded.device("again") == target
    assert crowded.placeholders == []


def test_a_target_whose_replacement_never_comes_is_given_up_at_its_deadline(cluster: Cluster) -> None:
    begin(cluster)
    cluster.go("victim")
    cluster.round()
    assert cluster.device("waiting")
    cluster.round(seconds=120.0)
    cluster.round(seconds=120.0)
    assert len(cluster.placeholders) == 1, "no pod uses it, but it has a deadline of its own"
    actions = cluster.round(seconds=121.0)
    assert [free.outcome for free in of(actions, FreeTarget)] == ["no_replacement"]
    assert cluster.placeholders == []


def test_a_target_on_a_cordoned_node_is_freed_and_the_replacement_goes_elsewhere(cluster: Cluster) -> None:
    begin(cluster)
    cluster.go("victim")
    cluster.world.nodes["node-b"]["spec"]["unschedulable"] = True
    cluster.world.touch(cluster.world.nodes["node-b"])
    cluster.add_job_pod("again", "1g.10gb")
    actions = cluster.round()
    assert [free.outcome for free in of(actions, FreeTarget)] == ["elsewhere"]
    assert cluster.placeholders == []
    assert cluster.device("again") in (None, f"{A}-1g-10gb-3")


def test_a_room_that_is_not_needed_any_more_is_given_up(cluster: Cluster) -> None:
    begin(cluster)
    del cluster.world.pods["waiting"], cluster.world.claims["waiting"]
    actions = cluster.round()
    assert [free.outcome for free in of(actions, FreeTarget)] == ["abandoned"]
    assert cluster.evicted == ["victim"]


def test_a_pod_that_fits_elsewhere_meanwhile_goes_there(cluster: Cluster) -> None:
    begin(cluster)
    cluster.go("fixed-b")
    cluster.round()
    assert cluster.device("waiting") == f"{B}-3g-40gb-0"
    cluster.round()
    assert cluster.placeholders == []
    assert "victim" in cluster.world.pods


@pytest.mark.parametrize(("behind", "kept"), [(45.0, True), (75.0, False)])
def test_a_leader_whose_clock_is_a_little_behind_goes_on_with_the_longest_move(
    cluster: Cluster, behind: float, kept: bool
) -> None:
    cluster.world.allow_moves("pool", A, B, replacementTimeoutSeconds=3600)
    cluster.ask()
    cluster.round()
    cluster.restart()
    cluster.round(seconds=-behind)
    assert cluster.evicted == (["victim"] if kept else [])
    assert len(cluster.placeholders) == kept


def test_the_store_is_asked_for_the_replacement_when_the_victim_is_gone_until_it_is_there(
    cluster: Cluster,
) -> None:
    begin(cluster)
    cluster.end("victim")
    assert of(cluster.round(), AskForReplacement) == []  # It may take its time to end.
    cluster.go("victim")
    (ask,) = of(cluster.round(), AskForReplacement)
    assert [ask.claim.key[1]] == cluster.placeholders
    assert (ask.record.job_name, ask.record.victim_pod.name) == ("job", "victim")
    assert of(cluster.round(seconds=1.0), AskForReplacement) == []
    assert len(of(cluster.round(seconds=4.0), AskForReplacement)) == 1
    cluster.add_job_pod("again", "1g.10gb", gates=("tessera.dev/placement", "example.com/other"))
    assert of(cluster.round(seconds=9.0), AskForReplacement) == []
