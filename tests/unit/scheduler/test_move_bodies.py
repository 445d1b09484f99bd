"""The requests that make, keep and end a move."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tessera.api import names
from tessera.scheduler.actions import HoldTarget
from tessera.scheduler.allocation import Result
from tessera.scheduler.move_bodies import (
    hold_patch,
    is_same_hold,
    let_go_patch,
    placeholder,
    release_patch,
    room_patch,
)
from tessera.scheduler.move_records import MoveRecord, PodRef, RoomRecord, RoomVictim, read_move, read_room
from tessera.scheduler.objects import read_claim

VICTIM = PodRef("team", "train-0-abcde", "11111111-aaaa")
RECORD = MoveRecord("job-1", "0", "slice", VICTIM, "22222222-bbbb", 1_790_000_300.0)
HOLD = HoldTarget(
    "move-22222222-11111111", RECORD, Result("x", "node-b", "gpu-b-1g-10gb-6", profile="1g.10gb"), "node-b"
)


def stored(**changes: Any) -> dict[str, Any]:
    """The placeholder as the API server returns it."""
    obj = placeholder(HOLD, namespace="tessera-system")
    obj["metadata"] |= {"uid": "u-1", "resourceVersion": "7"} | changes
    return obj


def test_a_placeholder_asks_for_exactly_that_profile_and_says_for_whom() -> None:
    obj = placeholder(HOLD, namespace="tessera-system")
    metadata = obj["metadata"]
    assert (metadata["namespace"], metadata["name"]) == ("tessera-system", HOLD.name)
    assert metadata["finalizers"] == [names.CLAIM_FINALIZER]
    assert metadata["labels"] == {names.MANAGED_BY_LABEL: names.MANAGED_BY_VALUE}
    assert read_move(metadata["annotations"][names.MOVE_ANNOTATION]) == RECORD
    assert "ownerReferences" not in metadata
    [request] = obj["spec"]["devices"]["requests"]
    assert request["exactly"]["deviceClassName"] == names.DEVICE_CLASS
    [selector] = request["exactly"]["selectors"]
    assert selector["cel"]["expression"] == 'device.attributes["gpu.tessera.dev"].profile == "1g.10gb"'


def test_tolerations_of_the_victim_go_with_it() -> None:
    toleration = {"key": "example.com/degraded", "operator": "Exists"}
    hold = replace(HOLD, result=replace(HOLD.result, tolerations=(toleration,)))
    [request] = placeholder(hold, namespace="s")["spec"]["devices"]["requests"]
    assert request["exactly"]["tolerations"] == [toleration]
    [result] = hold_patch(stored(), hold, now=0.0)["status"]["allocation"]["devices"]["results"]
    assert result["tolerations"] == [toleration]


def test_the_target_is_allocated_to_the_placeholder_and_reserved_for_nobody() -> None:
    body = hold_patch(stored(), HOLD, now=1_790_000_000.0)
    assert body["metadata"] == {"uid": "u-1", "resourceVersion": "7"}
    assert body["status"]["reservedFor"] == []
    allocation = body["status"]["allocation"]
    assert allocation["devices"]["results"] == [
        {"request": "slice", "driver": names.DRIVER, "pool": "node-b", "device": "gpu-b-1g-10gb-6"}
    ]
    [term] = allocation["nodeSelector"]["nodeSelectorTerms"]
    assert term["matchFields"][0]["values"] == ["node-b"]
    assert allocation["allocationTimestamp"]


def test_a_placeholder_that_was_made_before_is_known_by_victim_and_claim() -> None:
    assert is_same_hold(stored(), HOLD)
    later = replace(HOLD, record=replace(RECORD, deadline=RECORD.deadline + 60))
    assert is_same_hold(stored(), later)


@pytest.mark.parametrize(
    "changes",
    [
        {"annotations": {}},
        {"annotations": {names.MOVE_ANNOTATION: "what?"}},
        {"deletionTimestamp": "2026-01-01T00:00:00Z"},
    ],
    ids=["unmarked", "unreadable", "deleted"],
)
def test_another_claim_of_that_name_is_not_ours(changes: dict[str, Any]) -> None:
    assert not is_same_hold(stored(**changes), HOLD)


@pytest.mark.parametrize(
    "other",
    [
        replace(RECORD, completion_index="1"),
        replace(RECORD, victim_pod=VICTIM._replace(uid="11111111-zzzz")),
        replace(RECORD, waiting_claim_uid="22222222-zzzz"),
    ],
)
def test_another_move_of_that_name_is_not_ours(other: MoveRecord) -> None:
    """Names hold only the first eight digits of each UID."""
    assert not is_same_hold(stored(), replace(HOLD, record=other))


def test_a_room_is_written_on_the_claim_and_taken_off(world: Any, request_for: Any) -> None:
    claim = read_claim(world.add_claim("c", request_for("7g.80gb")))
    room = RoomRecord("node-a", "gpu-a-7g-80gb-0", (RoomVictim(*VICTIM),), 1.0, 2.0)
    body = room_patch(claim, room)
    assert read_room(body["metadata"]["annotations"][names.ROOM_ANNOTATION]) == room
    assert body["metadata"]["uid"] == claim.uid
    assert room_patch(claim, None)["metadata"]["annotations"] == {names.ROOM_ANNOTATION: None}


def test_a_deleted_placeholder_loses_its_slice_and_our_finalizer_only() -> None:
    claim = read_claim(stored(finalizers=["example.com/keep", names.CLAIM_FINALIZER]))
    assert release_patch(claim) == {"metadata": {"uid": "u-1"}, "status": {"allocation": None}}
    assert let_go_patch(claim) == {"metadata": {"uid": "u-1", "finalizers": ["example.com/keep"]}}
