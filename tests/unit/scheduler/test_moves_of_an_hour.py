"""What a partition allows in an hour holds across leaders: who has left is noted on the scheduler's Lease."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tessera.scheduler.actions import Action, KeepRoom, NoteDepartures
from tessera.scheduler.departures import Departures, read_departures, write_departures
from tessera.scheduler.moving.ration import Account
from tessera.scheduler.reserves import MoveRule
from unit.scheduler.two_crowded_gpus import A, B, Cluster, begin, of


def noted(actions: list[Action]) -> str:
    (note,) = of(actions, NoteDepartures)
    return str(note.text)


def left_in_all(text: str) -> int:
    return sum(sum(by_minute.values()) for by_minute in read_departures(text).by_minute.values())


def full(cluster: Cluster, *, per_hour: int) -> None:
    """Nowhere to move to, and so many may leave in an hour."""
    cluster.add_victim("full", "1g.10gb", f"{B}-1g-10gb-6", node="node-b", annotations={}, job="full")
    allow(cluster, per_hour=per_hour)


def allow(cluster: Cluster, *, per_hour: int) -> None:
    cluster.world.allow_moves("pool", A, B, perHour=per_hour, preemption="LowerPriority")


def preempted(cluster: Cluster) -> None:
    """The victim has left for a more important pod, which is gone too; another stands where it stood."""
    cluster.ask(priority=5)
    cluster.round()
    cluster.round()
    cluster.go("victim")
    cluster.round()
    assert cluster.device("waiting")
    assert left_in_all(cluster.note) == 1
    del cluster.world.pods["waiting"], cluster.world.claims["waiting"]
    cluster.add_victim("next", "1g.10gb", f"{A}-1g-10gb-4", node="node-a", job="next")


def room_is_made(cluster: Cluster) -> bool:
    cluster.ask("second", priority=5)
    return bool(of(cluster.round(), KeepRoom))


@pytest.mark.parametrize(("per_hour", "made"), [(1, False), (2, True)])
def test_the_hour_of_a_new_leader_goes_on_where_the_last_one_stopped(
    cluster: Cluster, per_hour: int, made: bool
) -> None:
    full(cluster, per_hour=per_hour)
    preempted(cluster)
    cluster.restart()
    assert room_is_made(cluster) == made


def test_after_an_hour_all_is_allowed_again(cluster: Cluster) -> None:
    full(cluster, per_hour=1)
    preempted(cluster)
    cluster.world.now += 3660.0
    cluster.restart()
    assert room_is_made(cluster)


@pytest.mark.parametrize(("per_hour", "made"), [(1, False), (2, True)])
def test_a_partition_that_forbids_moves_for_a_moment_does_not_win_an_hour(
    cluster: Cluster, per_hour: int, made: bool
) -> None:
    full(cluster, per_hour=per_hour)
    preempted(cluster)
    cluster.world.partitions["pool"]["spec"]["dynamic"] = {}
    cluster.world.touch(cluster.world.partitions["pool"])
    cluster.round()
    allow(cluster, per_hour=per_hour)
    assert room_is_made(cluster) == made


def test_whoever_left_under_a_leader_that_was_killed_is_counted_once(cluster: Cluster) -> None:
    """The record of the room stands until the note is written, and a note says who is in it."""
    begin(cluster)
    cluster.go("victim")
    cluster.restart()  # Killed before it could note anything.
    first = cluster.round(lose=lambda action: isinstance(action, KeepRoom))
    assert left_in_all(noted(first)) == 1
    cluster.restart()  # Killed after the note, before the record was taken away.
    assert of(cluster.round(), NoteDepartures) == []


def test_a_record_is_taken_away_only_when_whoever_left_it_is_noted(cluster: Cluster) -> None:
    begin(cluster)
    cluster.go("victim")
    del cluster.world.pods["waiting"]
    first = cluster.round()
    assert left_in_all(noted(first)) == 1
    assert of(first, KeepRoom) == []
    second = cluster.round()
    assert [keep.record for keep in of(second, KeepRoom)] == [None]
    assert of(second, NoteDepartures) == []


def test_partitions_that_are_gone_are_noted_for_an_hour_only(cluster: Cluster) -> None:
    minute = int(cluster.world.now // 60)
    gone = Departures({"long ago": {minute - 62: 1}, "just now": {minute - 5: 1}})
    cluster.planner.moving.remember(write_departures(gone))
    begin(cluster)
    cluster.go("victim")
    assert set(read_departures(noted(cluster.round())).by_minute) == {"just now", "pool"}


def test_a_note_is_read_as_it_was_written() -> None:
    left = {"pool": {29_000_000: 2, 29_000_003: 1}, "other": {29_000_001: 1}}
    said = Departures(left, frozenset({"a", "b"}))
    assert read_departures(write_departures(said)) == said
    assert read_departures(write_departures(replace(said, by_minute=left | {"quiet": {}}))) == said


def test_a_note_names_each_pod_once_however_many_partitions_there_are() -> None:
    left = {f"pool-{number}": {29_000_000: 1} for number in range(100)}
    assert write_departures(Departures(left, frozenset({"uid-of-a-pod"}))).count("uid-of-a-pod") == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no",
        "[]",
        "null",
        '{"pool": 1}',
        '{"left": {"pool": 1}, "counted": []}',
        '{"left": {"pool": {"x": 1}}, "counted": []}',
        '{"left": {"pool": {"1": 1e999}}, "counted": []}',
        "[" * 100_000,
    ],
)
def test_what_cannot_be_read_says_nothing(text: str) -> None:
    assert read_departures(text) == Departures()


def test_what_was_read_can_be_written_again() -> None:
    read = read_departures(r'{"left": {"\ud800": {"1": 1}}, "counted": ["\ud800"]}')
    assert read_departures(write_departures(read).encode().decode()) == read != Departures()


def test_minutes_of_the_future_were_written_by_a_wrong_clock() -> None:
    account = Account(MoveRule(per_hour=5), gpus=1)
    account.remember({1000: 1, 1001: 1, 5000: 3})
    assert account.left_this_hour(60_000.0) == 3
    assert account.left_this_hour(60_000.0 + 3600.0) == 3
    assert account.left_this_hour(60_000.0 + 3720.0) == 5
