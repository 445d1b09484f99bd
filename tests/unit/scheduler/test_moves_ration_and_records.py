"""What is written down of a move, and how often one may be made."""

from __future__ import annotations

from fractions import Fraction

import pytest
from tessera.placement.budget import BudgetRule
from tessera.placement.moves import UNDER_BUDGET
from tessera.scheduler.move_records import (
    MoveRecord,
    PodRef,
    RoomRecord,
    RoomVictim,
    placeholder_name,
    read_move,
    read_room,
    write_move,
    write_room,
)
from tessera.scheduler.moving.plans import PRICE
from tessera.scheduler.moving.ration import Account
from tessera.scheduler.reserves import MoveRule, wanted_moves

MOVE = MoveRecord(
    "job",
    "3",
    "slice",
    PodRef("default", "a", "uid-a"),
    "uid-c",
    1_790_000_000.25,
    "train",
    (("cpu", Fraction(1, 2)), ("memory", Fraction(2**30))),
)
ROOM = RoomRecord(
    "node-a",
    "gpu-aaaaaaaa-3g-40gb-4",
    (RoomVictim("default", "a", "uid-a"), RoomVictim("default", "b", "uid-b", preempted=True)),
    100.0,
    400.5,
)


def test_records_are_read_as_they_were_written() -> None:
    assert read_move(write_move(MOVE)) == MOVE
    assert read_room(write_room(ROOM)) == ROOM


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no",
        "[]",
        "{}",
        "null",
        write_move(MOVE).replace("1790000000.25", "NaN"),
        write_move(MOVE).replace("1/2", "1/0"),
        write_move(MOVE).replace("1790000000.25", '"soon"'),
        write_room(ROOM).replace("400.5", "Infinity"),
        write_room(ROOM).replace("400.5", "true"),
        write_room(ROOM).replace("400.5", "9" * 400),
        "[" * 100_000,
    ],
)
def test_what_cannot_be_read_is_no_record(text: str) -> None:
    assert read_move(text) is None
    assert read_room(text) is None


def test_a_placeholder_has_one_name_per_victim_and_waiting_claim() -> None:
    name = placeholder_name(waiting_claim_uid="0123456789", victim_pod_uid="abcdefghij")
    assert name == "move-01234567-abcdefgh"


def partition(**moves: object) -> dict[str, object]:
    return {"spec": {"mode": "dynamic", "dynamic": {"moves": moves}}}


def test_a_partition_allows_moves_only_when_it_says_so() -> None:
    assert wanted_moves({"spec": {"mode": "dynamic"}}) is None
    assert wanted_moves({"spec": {"dryRun": True, "dynamic": {"moves": {}}}}) is None
    assert wanted_moves(partition()) == MoveRule()
    rule = wanted_moves(partition(maxVictims=1, per100Placements=0, perHour=2, preemption="LowerPriority"))
    assert rule == MoveRule(most_victims=1, per_100=0, per_hour=2, preempts=True)


def test_placements_earn_moves_and_victims_that_left_cost_one() -> None:
    account = Account(MoveRule(per_100=50), gpus=4)
    assert account.movable_now(0.0) == 0
    for _ in range(5):
        account.accepted()
    assert account.movable_now(0.0) == 2
    account.left(0.0, moved=True)
    assert account.movable_now(0.0) == 1
    assert account.earned == pytest.approx(5 * 0.5 * 0.98 - 1)


def test_an_hour_allows_so_many_moves_and_preemptions_together() -> None:
    account = Account(MoveRule(per_100=100, per_hour=2, preempts=True), gpus=8)
    for _ in range(8):
        account.accepted()
    account.left(0.0, moved=True)
    account.left(1800.0, moved=False)
    assert account.movable_now(1800.0) == account.preemptable_now(1800.0) == 0
    assert account.movable_now(3659.0) == 0  # It is counted by the minute.
    assert account.movable_now(3660.0) == account.preemptable_now(3660.0) == 1


def test_a_move_that_an_earlier_leader_began_does_not_overdraw_the_account() -> None:
    account = Account(MoveRule(), gpus=4)
    account.left(0.0, moved=True)
    assert account.movable_now(0.0) == 0


def test_a_changed_ration_begins_with_an_empty_account() -> None:
    account = Account(MoveRule(per_100=100), gpus=4)
    for _ in range(4):
        account.accepted()
    account.follow(MoveRule(per_100=100, per_hour=10), gpus=4)
    assert account.movable_now(0.0) == 2
    account.follow(MoveRule(per_100=5), gpus=4)
    assert account.movable_now(0.0) == 0


def test_a_plan_costs_in_the_cluster_what_the_ration_says_it_does() -> None:
    assert PRICE.per_value == UNDER_BUDGET.per_value == BudgetRule().value_price
    assert not PRICE.fewest_first
