"""What `tessera explain` says of moves: which would be made, which is under way, or why there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tessera.placement.policies import FragmentationTenancy
from tessera.placement.queue_order import QueueOrder
from tessera.scheduler.actions import Refuse
from tessera.scheduler.departures import Departures, write_departures
from tessera.scheduler.explain import explain_pod
from unit.scheduler.two_crowded_gpus import A, B, Cluster, nowhere_to_move_to, of


def explained(cluster: Cluster, name: str = "waiting", note: str | None = None) -> Any:
    return explain_pod(cluster.world.snapshot(), ("default", name), FragmentationTenancy(), note=note)


def test_an_explanation_says_what_is_left_of_the_hour_where_the_lease_may_be_read(cluster: Cluster) -> None:
    cluster.ask()
    note = write_departures(Departures({"pool": {int(cluster.world.now // 60): 2}}))
    assert "60 an hour, 58 of them left)" in explained(cluster, note=note).move
    assert "60 an hour, 60 of them left)" in explained(cluster, note="").move


def test_a_preemption_is_explained_though_this_hour_allows_no_more(cluster: Cluster) -> None:
    nowhere_to_move_to(cluster)
    cluster.ask(priority=5)
    note = write_departures(Departures({"pool": {int(cluster.world.now // 60): 60}}))
    move = explained(cluster, note=note).move
    assert "pod default/victim of lower priority is preempted" in move
    assert "60 an hour, 0 of them left)" in move


def test_an_explanation_names_the_plan_that_would_be_made_and_then_the_one_under_way(
    cluster: Cluster,
) -> None:
    cluster.ask()
    planned = explained(cluster)
    assert planned.state == "Waiting"
    assert f"pod default/victim is moved to {B}-1g-10gb-6" in planned.move
    assert "5 per 100 placements; 60 an hour)" in planned.move

    assert planned.reason == "Unplaceable"

    cluster.round()
    under_way = explained(cluster)
    assert "0 of 1 pods left; default/victim still to leave" in under_way.move
    assert under_way.reason == "MakingRoom"
    assert under_way.message.startswith("room is being made for it")
    assert "is to leave its slice for pod default/waiting" in explained(cluster, "victim").message
    cluster.end("victim")
    assert "1 of 1 pods left" in explained(cluster).move
    cluster.go("victim")
    assert explained(cluster).devices == (f"{A}-3g-40gb-4",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.world.partitions["pool"]["spec"].update(dynamic={}), "no MIGPartition allows moves"),
        (lambda c: c.world.allow_moves("pool", "gpu-cccccccc"), "no GPU in reach belongs to a MIGPartition"),
        (lambda c: c.world.pods["victim"]["metadata"].update(annotations={}), "no Indexed Job's pod"),
        (lambda c: c.world.allow_moves("pool", A), "none: moving up to 2 pods makes no room for it"),
        (lambda c: c.world.allow_moves("pool", A, maxVictims=1), "none: moving one pod makes no room for it"),
    ],
    ids=["not allowed", "other GPUs", "nobody movable", "nowhere to go", "nowhere to go alone"],
)
def test_an_explanation_says_why_there_is_no_move(
    cluster: Cluster, change: Callable[[Cluster], None], words: str
) -> None:
    cluster.ask()
    change(cluster)
    for obj in (*cluster.world.partitions.values(), cluster.world.pods["victim"]):
        cluster.world.touch(obj)
    assert words in explained(cluster).move


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.world.allow_moves("pool", A), "; move: none: moving up to 2 pods makes no room for it"),
        (
            lambda c: c.world.allow_moves("pool", A, B, perHour=0),
            "the ration of MIGPartition pool is used up",
        ),
    ],
    ids=["nowhere to go", "no ration"],
)
def test_a_refusal_says_why_no_move_makes_room(
    cluster: Cluster, change: Callable[[Cluster], None], words: str
) -> None:
    cluster.ask()
    change(cluster)
    (refusal,) = of(cluster.round(), Refuse)
    assert words in refusal.message


def test_no_place_is_kept_for_one_that_a_move_makes_room_for(cluster: Cluster) -> None:
    cluster.ask(created=-301.0)
    order = QueueOrder(age_limit_seconds=300)
    waiting = ("default", "waiting")
    found = explain_pod(cluster.world.snapshot(), waiting, FragmentationTenancy(), order=order)
    assert "pod default/victim is moved" in found.move
    assert "is kept for it" not in found.message
