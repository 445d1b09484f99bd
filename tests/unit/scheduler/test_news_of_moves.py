"""What a waiting pod is told while room is made for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from tessera.api import names
from tessera.api.reasons import Reason
from tessera.kube.client import KubeClient
from tessera.kube.errors import ApiError, TooManyRequests
from tessera.kube.events import EventRecorder
from tessera.scheduler.actions import Action, Evict, Refuse
from tessera.scheduler.objects import Pod, read_pod
from tessera.scheduler.writer import Writer

News = tuple[str, str, str, str]


class Told(EventRecorder):
    """Keeps (name of the object, type, reason, message) of every event instead of writing it."""

    def __init__(self, client: KubeClient) -> None:
        super().__init__(client, component="scheduler", instance="scheduler-0")
        self.news: list[News] = []

    def emit(self, regarding: Mapping[str, Any], *, type: str, reason: str, action: str, message: str) -> Any:
        self.news.append((regarding["metadata"]["name"], type, str(reason), message))


class Client(KubeClient):
    """Refuses every eviction with the same answer, and can do nothing else."""

    def __init__(self) -> None:
        self.answer = ApiError(500, "InternalError", "etcd")

    async def evict(self, name: str, **more: Any) -> None:
        raise self.answer

    async def get(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {"metadata": {"name": "small", "namespace": "team", "uid": "uid-of-small"}}


class Room:
    """A writer that leads."""

    def __init__(self) -> None:
        self.client = Client()
        self.told = Told(self.client)
        self.writer = Writer(self.client, events=self.told, verify=self._leads)

    async def _leads(self) -> None:
        """Nobody else does."""

    async def round(self, *actions: Action, at: float = 0.0) -> list[News]:
        """What is told while the actions are carried out."""
        self.told.news.clear()
        await self.writer.carry_out(actions, now=1_790_000_000.0 + at)
        return list(self.told.news)


def pod(name: str) -> Pod:
    metadata = {"name": name, "namespace": "team", "uid": f"uid-of-{name}"}
    spec = {"containers": [], "schedulingGates": [{"name": names.PLACEMENT_GATE}]}
    return read_pod({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


async def test_that_room_is_made_is_good_news_and_that_there_is_none_is_not() -> None:
    room = Room()
    assert await room.round(Refuse(pod("wide"), (), Reason.MAKING_ROOM, "pod small leaves")) == [
        ("wide", "Normal", "MakingRoom", "pod small leaves")
    ]
    assert await room.round(Refuse(pod("wide"), (), Reason.UNPLACEABLE, "no room")) == [
        ("wide", "Warning", "Unplaceable", "no room")
    ]


BUDGET = {"reason": "DisruptionBudget", "message": "The disruption budget calm needs 3 healthy pods"}
FORBIDDEN = TooManyRequests(429, "TooManyRequests", "no", {"details": {"causes": [BUDGET]}})
TWO_BUDGETS = ApiError(500, "", "This pod has more than one PodDisruptionBudget, which is not supported.")


def evict(victim: str, *, waiting: str) -> Evict:
    return Evict(pod(victim), "for another", Reason.MOVED, pod(waiting))


@pytest.mark.parametrize(
    ("answer", "words"), [(FORBIDDEN, BUDGET["message"]), (TWO_BUDGETS, TWO_BUDGETS.message)]
)
async def test_a_waiting_pod_is_told_whose_disruption_budget_keeps_its_room(
    answer: ApiError, words: str
) -> None:
    room = Room()
    room.client.answer = answer
    [(name, kind, reason, message)] = await room.round(evict("small", waiting="wide"))
    assert (name, kind, reason) == ("wide", "Warning", "EvictionRefused")
    assert "pod team/small" in message
    assert f"its PodDisruptionBudget refuses ({words})" in message


async def test_a_refusal_is_told_every_half_minute_at_most_to_each_waiting_pod() -> None:
    room = Room()
    room.client.answer = FORBIDDEN
    told: list[tuple[int, str]] = []
    for second in range(0, 65, 5):
        news = await room.round(
            evict("small", waiting="wide"), *([evict("other", waiting="tall")] if second == 10 else []),
            at=second,
        )  # fmt: skip
        told += [(second, name) for name, *_ in news]
    assert told == [(0, "wide"), (10, "tall"), (30, "wide"), (60, "wide")]


@pytest.mark.parametrize(
    "answer", [TooManyRequests(429, "TooManyRequests", "later"), ApiError(500, "InternalError", "etcd")]
)
async def test_a_server_in_trouble_is_no_disruption_budget(answer: ApiError) -> None:
    room = Room()
    room.client.answer = answer
    assert await room.round(evict("small", waiting="wide")) == []
