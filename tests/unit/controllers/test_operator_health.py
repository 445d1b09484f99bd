"""What the operator's `/healthz` says: stuck work asks for a restart, waiting and outages do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from background import in_background
from tessera.api.names import OPERATOR_FIELD_MANAGER
from tessera.controllers import operator as subject
from tessera.controllers.caches import Caches
from tessera.controllers.operator import Operator, OperatorSettings
from tessera.controllers.worker_pod import WorkerSettings
from tessera.kube.client import KubeClient
from tessera.kube.errors import Unreachable


class Cluster:
    """An API server with one training job; `hang` names the calls that never come back."""

    def __init__(self, *hang: str, down: bool = False) -> None:
        self.hang = hang
        self.down = down
        self.field_manager = OPERATOR_FIELD_MANAGER
        self.calls = {"list": asyncio.Event(), "get": asyncio.Event()}
        self.now = 1000.0
        settings = OperatorSettings(worker=WorkerSettings(image="worker:1"))
        self.operator = Operator(cast(KubeClient, self), settings, clock=lambda: self.now)

    async def list(self, *_: object, **__: object) -> Any:
        await self._answer("list")
        return SimpleNamespace(items=[{"metadata": {"namespace": "default", "name": "train"}}])

    async def get(self, *_: object, **__: object) -> Any:
        return await self._answer("get")

    async def _answer(self, call: str) -> None:
        self.calls[call].set()
        if call in self.hang:
            await asyncio.Event().wait()
        if self.down:
            self.now += 361
            raise Unreachable("no answer", "refused", "start it")

    async def until_asked(self, call: str) -> None:
        async with asyncio.timeout(10):
            await self.calls[call].wait()


@pytest.fixture(autouse=True)
def nothing_else_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither kopf nor the caches: their contents are not the subject."""

    async def nothing(*_: object, **__: object) -> None:
        return None

    async def for_ever(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(subject, "run_kopf", for_ever)
    monkeypatch.setattr(Caches, "start", nothing)
    monkeypatch.setattr(Caches, "stop", nothing)


@asynccontextmanager
async def leading(cluster: Cluster) -> AsyncIterator[Operator]:
    async with in_background(cluster.operator.run()):
        yield cluster.operator


async def test_work_that_does_not_end_asks_for_a_restart() -> None:
    cluster = Cluster("get")
    async with leading(cluster) as operator:
        await cluster.until_asked("get")
        cluster.now += 299
        assert await operator.stuck() is None
        cluster.now += 2
        assert "default/train has not ended for 301 s" in str(await operator.stuck())


async def test_a_look_that_does_not_end_asks_for_a_restart() -> None:
    cluster = Cluster("list")
    async with leading(cluster) as operator:
        await cluster.until_asked("list")
        assert await operator.stuck() is None
        cluster.now += 361
        assert await operator.stuck() == "no look at every object for 301 s"


async def test_an_api_server_that_is_down_asks_for_no_restart() -> None:
    cluster = Cluster(down=True)
    async with leading(cluster) as operator:
        await cluster.until_asked("list")
        assert cluster.now == 1361
        assert await operator.stuck() is None


async def test_a_stand_by_is_healthy_however_long_it_waits() -> None:
    cluster = Cluster()
    cluster.now += 100_000
    assert await cluster.operator.stuck() is None
