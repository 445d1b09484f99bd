"""In which order a plan is carried out."""

from __future__ import annotations

from typing import Any

import pytest
from tessera.api.names import OPERATOR_FIELD_MANAGER
from tessera.api.reasons import Reason
from tessera.controllers.executor import Executor
from tessera.controllers.gpu_view import Pod
from tessera.controllers.plan import Eviction, News, Plan
from tessera.kube.errors import Unreachable
from tessera.kube.resources import MIG_PARTITIONS
from unit.controllers.partition_objects import partition_object


class Server:
    """Takes a status and events, and is gone when it is asked to evict."""

    field_manager = OPERATOR_FIELD_MANAGER

    def __init__(self) -> None:
        self.done: list[str] = []

    async def apply(self, *_: Any, subresource: str) -> None:
        self.done.append(subresource)

    async def evict(self, *_: Any, **__: Any) -> None:
        raise Unreachable("no answer", "connection refused", "try again")

    def emit(self, *_: Any, reason: Reason, **__: Any) -> None:
        self.done.append(reason)


async def test_what_a_status_tells_is_news_although_an_eviction_after_it_fails() -> None:
    server: Any = Server()
    plan = Plan(
        status={"observedGeneration": 1},
        evictions=(Eviction(pod=Pod(namespace="team", name="train", uid="u"), why="it has to go"),),
        news=(News(type="Normal", reason=Reason.UPDATING, message="n0 is in change"),),
    )
    with pytest.raises(Unreachable):
        await Executor(server, server).carry_out(MIG_PARTITIONS, partition_object(), plan)
    assert server.done == ["status", Reason.UPDATING]
