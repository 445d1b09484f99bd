"""The pods of a run, made, and made again after an eviction, as a Job controller does it.

Only the pod of an Indexed Job can be moved: its replacement has the same Job and completion index. So each
set of pods belongs to a Job whose `spec.managedBy` (Kubernetes 1.35) names this load: the Job controller of
kube-controller-manager leaves it alone, and the garbage collector keeps the pods, whose owner exists. An
evicted pod is replaced as soon as it is gone. (The Job controller waits 10 s and longer; a scheduler that is
asked at once has the harder work.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.scheduler_at_scale.requests import PodRequest, job, pod
from bench.scheduler_at_scale.watcher import PodWatcher
from tessera.kube.client import KubeClient
from tessera.kube.errors import NotFound
from tessera.kube.resources import JOBS, PODS

Object = dict[str, Any]
IN_FLIGHT = 50


@dataclass(frozen=True, slots=True)
class _Posted:
    """A pod of a Job and its place in the node set; `attempt` counts its predecessors."""

    request: PodRequest
    selector: dict[str, str]
    attempt: int


class Load:
    """Posts pods, and replaces those that are evicted. Use with `async with`, inside that of its watcher."""

    def __init__(self, client: KubeClient, watcher: PodWatcher, *, namespace: str, gated: bool) -> None:
        self._client = client
        self._watcher = watcher
        self._namespace = namespace
        self._gated = gated
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._jobs: dict[str, str] = {}
        self._posted: dict[str, _Posted] = {}
        self._current: dict[str, str] = {}
        self._replacing: set[asyncio.Task[None]] = set()
        self.replacements: list[str] = []
        """The names of the pods that were made in place of evicted ones."""

    async def __aenter__(self) -> Load:
        self._watcher.on_gone = self._gone
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watcher.on_gone = None
        await asyncio.gather(*self._replacing)

    def current(self, request: PodRequest) -> str:
        """The name of the pod that stands for the request now."""
        return self._current.get(request.name, request.name)

    def bound(self, requests: Iterable[PodRequest]) -> list[PodRequest]:
        """The requests whose pod is bound now, and not only was before it was evicted."""
        return [request for request in requests if self.current(request) in self._watcher.bound]

    async def prepare(self, requests: Sequence[PodRequest]) -> None:
        """Make the Jobs of the requests; not part of what is timed."""
        for name in dict.fromkeys(request.job for request in requests if request.job):
            size = sum(request.job == name for request in requests)
            made = await self._client.create(JOBS, job(name, size), namespace=self._namespace)
            self._jobs[name] = made["metadata"]["uid"]

    async def post(
        self,
        requests: Sequence[PodRequest],
        *,
        template: str | None = None,
        selector: dict[str, str] | None = None,
    ) -> None:
        """Make the pods of the requests, 50 in flight."""

        async def post(request: PodRequest) -> None:
            if request.job:
                self._posted[request.name] = _Posted(request, selector or {}, 0)
            await self._create(request, request.name, template=template, selector=selector)

        await asyncio.gather(*(post(request) for request in requests))

    async def leave(self, request: PodRequest) -> None:
        """The work of the request is done: its pod goes and nothing comes in its place."""
        name = self.current(request)
        self._posted.pop(name, None)
        try:
            await self._client.delete(PODS, name, namespace=self._namespace, grace_seconds=0)
        except NotFound:
            # It is being evicted at this moment.
            return

    async def _create(
        self, request: PodRequest, name: str, *, template: str | None, selector: dict[str, str] | None
    ) -> None:
        uid = self._jobs.get(request.job)
        body = pod(request, name=name, gated=self._gated, template=template, selector=selector, job_uid=uid)
        async with self._slots:
            self._watcher.posting(name)
            await self._client.create(PODS, body, namespace=self._namespace)

    def _gone(self, obj: Object) -> None:
        """Only an eviction is followed by a replacement."""
        name = obj["metadata"]["name"]
        if was_evicted(obj) and (posted := self._posted.pop(name, None)):
            task = asyncio.create_task(self._replace(posted), name=f"replacement of {name}")
            self._replacing.add(task)
            task.add_done_callback(self._replacing.discard)

    async def _replace(self, posted: _Posted) -> None:
        request, attempt = posted.request, posted.attempt + 1
        name = f"{request.name}-r{attempt}"
        self._current[request.name] = name
        self._posted[name] = _Posted(request, posted.selector, attempt)
        self.replacements.append(name)
        await self._create(request, name, template=None, selector=posted.selector)


def was_evicted(obj: Object) -> bool:
    """Whether a pod that is gone went by the Eviction API."""
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return any(
        c["type"] == "DisruptionTarget"
        and c["status"] == "True"
        and c.get("reason") == "EvictionByEvictionAPI"
        for c in conditions
    )
