"""What the probes of a scheduler say: of a leader in trouble, of one that hangs, and of a candidate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from background import in_background
from tessera.kube.client import KubeClient
from tessera.kube.errors import Unreachable
from tessera.scheduler import loop
from tessera.scheduler.loop import Scheduler, Settings
from tessera.scheduler.writer import Writer


class Election:
    """An elector whose Lease is held from `won` to `lost`."""

    def __init__(self) -> None:
        self.won = asyncio.Event()
        self.lost = asyncio.Event()
        self.waiting = asyncio.Event()

    async def run(self, on_started: Callable[[], Awaitable[None]]) -> None:
        self.waiting.set()
        await self.won.wait()
        self.waiting.clear()
        work = asyncio.ensure_future(on_started())
        try:
            await self.lost.wait()
        finally:
            self.won.clear()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def verify(self) -> None:
        """It is ours."""


class NothingFollowed:
    """Informers that are listed when `listed` is set."""

    listed: asyncio.Event

    def __init__(self, *_: object) -> None:
        pass

    async def start(self) -> None:
        await self.listed.wait()

    async def read_devices(self, reader: object) -> None:
        """There are none."""

    async def stop(self) -> None:
        """Nothing runs."""


class BareLease:
    """A client that finds a Lease on which nothing is noted."""

    async def get(self, *_: object) -> dict[str, Any]:
        return {"metadata": {}}


class World:
    """A scheduler with its election, and what each round does before anything else."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.election = Election()
        self.listed = asyncio.Event()
        self.listed.set()
        self.round: Callable[[], Awaitable[None]] = self.unreachable
        self.rounds = 0
        self.now = 1000.0

        class AWriter(Writer):
            async def settle(writer) -> None:
                self.rounds += 1
                await self.round()

        monkeypatch.setattr(loop, "LeaderElector", lambda *_, **__: self.election)
        monkeypatch.setattr(loop, "Following", type("Followed", (NothingFollowed,), {"listed": self.listed}))
        monkeypatch.setattr(loop, "Writer", AWriter)
        settings = Settings(lease_namespace="ns", identity="me", settle_seconds=0.0)
        self.scheduler = Scheduler(cast(KubeClient, BareLease()), settings, monotonic=lambda: self.now)

    async def unreachable(self) -> None:
        raise Unreachable("no answer", "refused", "start it")

    async def hang(self) -> None:
        await asyncio.Event().wait()


@asynccontextmanager
async def running(world: World) -> AsyncIterator[Scheduler]:
    async with in_background(world.scheduler.run()):
        yield world.scheduler


async def until(question: Callable[[], Awaitable[Any]] | Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while True:
            answer = question()
            if await answer if asyncio.iscoroutine(answer) else answer:
                return
            await asyncio.sleep(0)


async def test_a_leader_that_lost_the_lease_in_an_outage_is_a_ready_candidate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch)
    async with running(world) as scheduler:
        world.election.won.set()
        await until(lambda: world.rounds)
        await until(scheduler.ready)
        assert "no answer" in str(await scheduler.ready())
        world.election.lost.set()
        await until(world.election.waiting.is_set)
        assert await scheduler.ready() is None


async def test_a_leader_that_cannot_list_the_cluster_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.listed.clear()
    async with running(world) as scheduler:
        await until(world.election.waiting.is_set)
        assert await scheduler.ready() is None
        world.election.won.set()
        await until(scheduler.ready)
        assert await scheduler.ready() == "the cluster is not listed yet"


async def test_a_leader_whose_first_round_hangs_asks_for_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.round = world.hang
    async with running(world) as scheduler:
        world.election.won.set()
        await until(lambda: world.rounds)
        assert await scheduler.alive() is None
        world.now += 121
        assert await scheduler.alive() == "no round has ended for 121 s"
        world.election.lost.set()
        await until(world.election.waiting.is_set)
        assert await scheduler.alive() is None, "a candidate has no rounds"
