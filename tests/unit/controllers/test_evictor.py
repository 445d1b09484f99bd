"""Evictions by the operator: as budgets allow, asked now and then, told to whom it concerns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from tessera.controllers.evictor import Evictor
from tessera.controllers.gpu_view import Pod
from tessera.controllers.plan import Eviction
from tessera.kube.errors import ApiError, NotFound, TooManyRequests
from unit.controllers.partition_objects import partition_object

GOES = Eviction(pod=Pod(namespace="team", name="train", uid="u-1"), why="its slice has to go")
BUDGET = {"reason": "DisruptionBudget", "message": "the budget team/keep needs 2 healthy pods"}
REFUSED = TooManyRequests(429, "TooManyRequests", "no", {"details": {"causes": [BUDGET]}})


@dataclass
class Server:
    """Answers evictions and takes events."""

    answer: ApiError | None = None
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    events: list[tuple[str, str, str]] = field(default_factory=list)

    async def evict(self, name: str, *, namespace: str, uid: str) -> None:
        self.asked.append((namespace, name, uid))
        if self.answer is not None:
            raise self.answer

    def emit(self, obj: Any, *, reason: str, message: str, **_: Any) -> None:
        self.events.append((obj["kind"], reason, message))


def evictor(server: Any, now: list[float]) -> Evictor:
    return Evictor(server, server, clock=lambda: now[0])


async def test_the_pod_is_told_why_and_is_asked_again_only_after_a_while() -> None:
    server, now = Server(), [0.0]
    asks = evictor(server, now)
    for at in (0.0, 5.0, 10.0):
        now[0] = at
        await asks.evict(GOES, wanted_by=partition_object())
    assert server.asked == [("team", "train", "u-1")] * 2
    assert server.events[0] == ("Pod", "Drained", "its slice has to go")


TWO_BUDGETS = ApiError(500, "", "This pod has more than one PodDisruptionBudget, which is not supported.")


@pytest.mark.parametrize(
    ("answer", "words"),
    [(REFUSED, "the budget team/keep needs 2 healthy pods"), (TWO_BUDGETS, "more than one")],
)
async def test_a_budget_that_refuses_is_told_to_the_partition(answer: ApiError, words: str) -> None:
    server = Server(answer)
    await evictor(server, [0.0]).evict(GOES, wanted_by=partition_object())
    ((kind, reason, message),) = server.events
    assert (kind, reason) == ("MIGPartition", "EvictionRefused")
    assert words in message


async def test_a_pod_that_is_gone_is_nothing_to_tell() -> None:
    server = Server(NotFound(404, "NotFound", "gone"))
    await evictor(server, [0.0]).evict(GOES, wanted_by=partition_object())
    assert server.events == []


@pytest.mark.parametrize(
    "answer", [TooManyRequests(429, "TooManyRequests", "later"), ApiError(500, "InternalError", "etcd")]
)
async def test_a_server_in_trouble_is_asked_again_by_the_queue(answer: ApiError) -> None:
    server = Server(answer)
    asks = evictor(server, [0.0])
    for _ in range(2):
        with pytest.raises(ApiError):
            await asks.evict(GOES, wanted_by=partition_object())
    assert len(server.asked) == 2
