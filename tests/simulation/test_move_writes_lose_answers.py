"""Answers to the writes of a move are lost, one after the other, with the write done and not done: what the
writer shows the next round is what the store has, and doing it again ends as if nothing had been lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from scheduler_objects import exactly
from simulation.api_store import Object, Store
from simulation.faulty_client import Faults, SimulatedClient, run_virtually
from tessera.api import names
from tessera.kube.errors import Unreachable
from tessera.kube.events import EventRecorder
from tessera.kube.lease import LeadershipLost
from tessera.kube.resources import JOBS, LEASES, PODS, RESOURCE_CLAIMS
from tessera.scheduler.actions import (
    Action,
    AskForReplacement,
    Evict,
    FreeTarget,
    HoldTarget,
    KeepRoom,
    NoteDepartures,
    Place,
    PodPlacement,
)
from tessera.scheduler.allocation import ClaimPlacement, Result
from tessera.scheduler.lease_notes import note_of
from tessera.scheduler.move_bodies import placeholder
from tessera.scheduler.move_records import MOVED, MoveRecord, PodRef, RoomRecord
from tessera.scheduler.objects import read_claim, read_pod
from tessera.scheduler.writer import Writer

T = TypeVar("T")
IDENTITY = "scheduler-0"
HOLD = HoldTarget(
    "move-1-2",
    MoveRecord("job", "0", "slice", PodRef("team", "train", "2"), "1", 2e9),
    Result("slice", "node-a", "gpu-a-1g-10gb-0", profile="1g.10gb"),
    "node-a",
)


class LossyClient(SimulatedClient):
    """The answer to write number `loses` (from 0) is lost; `done`: the write itself is not."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, Faults(), identity=IDENTITY)
        self.loses = -1
        self.done = True
        self.writes = 0

    async def _call(self, act: Callable[[], T], *, write: bool = True) -> T:
        at, self.writes = self.writes, self.writes + write
        if write and at == self.loses:
            if self.done:
                act()
            raise Unreachable("no answer", "connection reset")
        return await super()._call(act, write=write)


class World:
    """A store with the placeholder's surroundings, and a writer whose informer sees nothing new."""

    def __init__(self) -> None:
        self.store = Store()
        self.store.lease_holder = lambda: IDENTITY
        self.client = LossyClient(self.store)
        self.events = EventRecorder(self.client, component="scheduler")
        self.writer = Writer(self.client, events=self.events, verify=self._verify)
        for name in ("waiting", "replacement"):
            body = {"metadata": {"name": name}, "spec": {"devices": {"requests": [exactly("1g.10gb")]}}}
            self.store.create(RESOURCE_CLAIMS, body, "team")
        self.seen: list[Object] = []

    async def _verify(self) -> None:
        """Nobody else leads."""

    def add_pod(self, name: str, claim: str) -> Object:
        spec = {
            "schedulingGates": [{"name": names.PLACEMENT_GATE}],
            "resourceClaims": [{"name": "slice", "resourceClaimName": claim}],
            "containers": [],
        }
        return self.store.create(PODS, {"metadata": {"name": name}, "spec": spec}, "team")

    def hold(self) -> None:
        """The placeholder is there and holds its target."""
        body = placeholder(HOLD, namespace=names.SYSTEM_NAMESPACE)
        made = self.store.create(RESOURCE_CLAIMS, body)
        devices = {"results": [{"request": "slice", "driver": names.DRIVER, "pool": "node-a", "device": "d"}]}
        made = made | {"status": {"allocation": {"devices": devices}}}
        self.store.update(RESOURCE_CLAIMS, made)

    def look(self) -> None:
        """The informer shows what there is, for the last time."""
        self.seen = self.store.all(RESOURCE_CLAIMS)

    def claim(self, name: str) -> Any:
        return next(read_claim(c) for c in self.shown() if c["metadata"]["name"] == name)

    def shown(self) -> list[Object]:
        return self.writer.claims.over(self.seen)

    async def round(self, action: Action) -> None:
        await self.writer.settle()
        await self.writer.carry_out([action], now=1_790_000_000.0)


def versions(claims: list[Object]) -> dict[str, str]:
    return {c["metadata"]["uid"]: c["metadata"]["resourceVersion"] for c in claims}


def _holding(world: World) -> Callable[[], Action | None]:
    return lambda: HOLD


def _freeing(world: World) -> Callable[[], Action | None]:
    world.hold()
    world.look()

    def decide() -> Action | None:
        there = [c for c in world.shown() if c["metadata"]["name"] == HOLD.name]
        return FreeTarget(read_claim(there[0]), "abandoned") if there else None

    return decide


def _keeping(world: World) -> Callable[[], Action | None]:
    return lambda: KeepRoom(world.claim("waiting"), RoomRecord("node-a", "d", (), 2e9, 2e9))


def _replacing(world: World) -> Callable[[], Action | None]:
    pod = read_pod(world.add_pod("train", "replacement"))
    world.hold()
    world.look()

    def decide() -> Action | None:
        there = [read_claim(c) for c in world.shown() if c["metadata"]["name"] == HOLD.name]
        claim = world.claim("replacement")
        if claim.allocated is None:
            placed = ClaimPlacement(claim, "node-a", (HOLD.result,))
            return Place((PodPlacement(pod, (placed,)),), tuple(there))
        return FreeTarget(there[0], MOVED) if there else None

    return decide


# With how many writes each has.
STEPS = {"hold": (_holding, 2), "free": (_freeing, 3), "keep": (_keeping, 1), "replace": (_replacing, 7)}


async def _lose(step: str, number: int, *, done: bool) -> None:
    prepare, _ = STEPS[step]
    world = World()
    decide = prepare(world)
    if not world.seen:
        world.look()
    world.client.loses, world.client.done = number, done
    action = decide()
    assert action is not None
    await world.round(action)
    assert world.client.writes > number, "the write that was to be lost was not made"
    await world.writer.settle()
    assert versions(world.shown()) == versions(world.store.all(RESOURCE_CLAIMS))
    for _ in range(3):
        if (action := decide()) is not None:
            await world.round(action)
    end = {c["metadata"]["name"]: c for c in world.store.all(RESOURCE_CLAIMS)}
    assert versions(world.shown()) == versions(list(end.values()))
    allocated = {name for name, c in end.items() if (c.get("status") or {}).get("allocation")}
    expected = {"hold": {HOLD.name}, "free": set(), "keep": set(), "replace": {"replacement"}}
    assert allocated == expected[step]
    assert (HOLD.name in end) == (step == "hold")
    if step == "keep":
        assert names.ROOM_ANNOTATION in end["waiting"]["metadata"]["annotations"]


@pytest.mark.parametrize("done", [True, False], ids=["done", "not-done"])
@pytest.mark.parametrize(
    ("step", "number"), [(s, n) for s, (_, count) in STEPS.items() for n in range(count)]
)
def test_a_lost_answer_changes_nothing_in_the_end(step: str, number: int, done: bool) -> None:
    run_virtually(_lose(step, number, done=done), seed=number)


async def _forgotten_before_it_was_seen() -> None:
    world = World()
    world.look()
    await world.round(HOLD)
    assert HOLD.name in {c["metadata"]["name"] for c in world.shown()}
    gone = next(c for c in world.store.all(RESOURCE_CLAIMS) if c["metadata"]["name"] == HOLD.name)
    bare = gone | {"metadata": gone["metadata"] | {"finalizers": []}}
    world.store.update(RESOURCE_CLAIMS, bare)
    world.store.delete(RESOURCE_CLAIMS, HOLD.name, names.SYSTEM_NAMESPACE)
    await world.writer.settle()
    assert versions(world.shown()) == versions(world.store.all(RESOURCE_CLAIMS))


def test_a_placeholder_that_somebody_deletes_before_any_watch_shows_it_is_not_waited_for() -> None:
    run_virtually(_forgotten_before_it_was_seen(), seed=0)


async def _refused_eviction() -> None:
    world = World()
    pod = world.add_pod("train", "replacement")
    world.store.may_be_disrupted = lambda _: False
    waiting = read_pod(world.add_pod("wide", "waiting"))
    await world.round(Evict(read_pod(pod), "for another", "Moved", waiting))
    assert world.store.get(PODS, "train", "team") == pod
    asked = world.client.calls
    await world.writer.settle()
    assert world.client.calls == asked, "a refusal is an answer: there is nothing to be read again"


def test_a_disruption_budget_that_says_no_is_no_error() -> None:
    run_virtually(_refused_eviction(), seed=0)


def test_two_rounds_at_once_make_one_placeholder() -> None:
    """As two leaders would for a moment, before the fence stops one of them."""

    async def both() -> None:
        world = World()
        world.look()
        await asyncio.gather(world.round(HOLD), world.round(HOLD))
        await world.writer.settle()
        assert versions(world.shown()) == versions(world.store.all(RESOURCE_CLAIMS))
        assert len(world.shown()) == 3

    run_virtually(both(), seed=0)


async def _nobody_comes(*, over: bool) -> list[str]:
    """The victim's Job is over, or goes on."""
    world = World()
    world.hold()
    world.look()
    made = world.store.create(JOBS, {"metadata": {"name": "train"}}, "team")
    if over:
        world.store.update(JOBS, made | {"status": {"completedIndexes": "0"}})
    record = replace(HOLD.record, job_uid=made["metadata"]["uid"], job_name="train")
    await world.round(AskForReplacement(world.claim(HOLD.name), record))
    return [c["metadata"]["name"] for c in world.store.all(RESOURCE_CLAIMS) if (c.get("status") or {})]


@pytest.mark.parametrize(("over", "held"), [(True, []), (False, [HOLD.name])])
def test_a_place_is_freed_as_soon_as_the_job_says_that_nobody_comes(over: bool, held: list[str]) -> None:
    async def ask() -> None:
        assert await _nobody_comes(over=over) == held

    run_virtually(ask(), seed=0)


def _lease(world: World, holder: str) -> None:
    world.store.create(
        LEASES,
        {"metadata": {"name": names.SCHEDULER_LEASE}, "spec": {"holderIdentity": holder}},
        names.SYSTEM_NAMESPACE,
    )


def _note(world: World) -> str:
    return note_of(world.store.get(LEASES, names.SCHEDULER_LEASE, names.SYSTEM_NAMESPACE))


@pytest.mark.parametrize("done", [True, False], ids=["done", "not-done"])
def test_a_note_whose_answer_is_lost_is_written_before_the_next_round(done: bool) -> None:
    async def note() -> None:
        world = World()
        _lease(world, IDENTITY)
        world.client.loses, world.client.done = 0, done
        await world.round(NoteDepartures("first"))
        assert _note(world) == ("first" if done else "")
        await world.writer.settle()
        assert _note(world) == "first"

    run_virtually(note(), seed=0)


def test_a_renewal_of_the_lease_just_before_the_note_does_not_lose_it() -> None:
    async def note() -> None:
        world = World()
        _lease(world, IDENTITY)
        renewals = iter(range(1))

        async def renew() -> None:
            if next(renewals, None) is not None:
                lease = world.store.get(LEASES, names.SCHEDULER_LEASE, names.SYSTEM_NAMESPACE)
                lease["spec"]["renewTime"] = "later"
                world.store.update(LEASES, lease)

        world.writer = Writer(world.client, events=world.events, verify=renew)
        await world.round(NoteDepartures("first"))
        assert _note(world) == "first"
        lease = world.store.get(LEASES, names.SCHEDULER_LEASE, names.SYSTEM_NAMESPACE)
        assert lease["spec"]["renewTime"] == "later"

    run_virtually(note(), seed=0)


def test_a_leader_that_has_lost_its_lease_notes_nothing() -> None:
    async def note() -> None:
        world = World()
        _lease(world, "another")

        async def verify() -> None:
            raise LeadershipLost("lost", "it is held by another", "")

        world.writer = Writer(world.client, events=world.events, verify=verify)
        with pytest.raises(LeadershipLost):
            await world.round(NoteDepartures("first"))
        assert _note(world) == ""

    run_virtually(note(), seed=0)
