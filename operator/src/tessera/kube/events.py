"""Events (events.k8s.io/v1): what happened, told beside the object it happened to.

`emit` returns at once: an event is news, and news must never hold up work. The same news about the same
object becomes a series of one Event object instead of many objects; its count is written when it doubles,
or after a minute, so that a loop that repeats itself costs the API server little. Each call returns the
task that writes, for those who want to wait.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tessera.kube.client import KubeClient
from tessera.kube.conditions import micro_timestamp
from tessera.kube.errors import ApiError, NotFound, Unreachable
from tessera.kube.resources import EVENTS

EventType = Literal["Normal", "Warning"]

# Limits of the events.k8s.io/v1 validation.
NOTE_LIMIT_BYTES = 1024
NAME_LIMIT = 253
SERIES_SECONDS = 600.0
WRITE_SECONDS = 60.0
REMEMBERED_SERIES = 4096
CONCURRENT_WRITES = 2
"""News of a burst are written a few at a time, so that they do not compete with the work they tell of."""

_log = logging.getLogger(__name__)
_Key = tuple[str, ...]


@dataclass
class _Series:
    name: str
    namespace: str
    count: int
    written_count: int
    started: float
    written: float


class EventRecorder:
    """Emits events as one component, e.g.

    `tessera-scheduler`; `instance` says which replica (the pod's name).
    """

    def __init__(self, client: KubeClient, *, component: str, instance: str | None = None) -> None:
        self._client = client
        self._controller = f"tessera.dev/{component}"
        self._instance = (instance or socket.gethostname())[:128]
        self._series: OrderedDict[_Key, _Series] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(CONCURRENT_WRITES)

    def emit(
        self, regarding: Mapping[str, Any], *, type: EventType, reason: str, action: str, message: str
    ) -> asyncio.Task[None]:
        """Tell that `reason` happened to `regarding` (a whole object) while doing `action`.

        Never raises for the API server's sake: a lost event is logged.
        """
        task = asyncio.create_task(
            self._write(dict(regarding), type, str(reason), action, message), name=f"event {reason}"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def flush(self) -> None:
        """Wait until all events that were emitted so far are written or given up."""
        await asyncio.gather(*self._tasks)

    async def _write(
        self, regarding: dict[str, Any], type: EventType, reason: str, action: str, message: str
    ) -> None:
        metadata = regarding.get("metadata") or {}
        key = (str(metadata.get("uid") or metadata.get("name")), type, reason, action, message)
        now = time.monotonic()
        series = self._series.get(key)
        try:
            if (
                series is not None
                and now - series.started < SERIES_SECONDS
                and await self._repeat(key, series, now)
            ):
                return
            await self._first(key, regarding, type, reason, action, message)
        except (ApiError, Unreachable) as error:
            # Most often the namespace is being deleted, and the news with it.
            _log.warning(
                "event %s on %s %s was lost: %s", reason, regarding.get("kind"), metadata.get("name"), error
            )

    async def _first(
        self, key: _Key, regarding: dict[str, Any], type: EventType, reason: str, action: str, message: str
    ) -> None:
        body = event_object(
            regarding,
            type=type,
            reason=reason,
            action=action,
            message=message,
            controller=self._controller,
            instance=self._instance,
        )
        now = time.monotonic()
        # Remembered before the write, so that the same news emitted meanwhile joins the series.
        metadata = body["metadata"]
        self._series[key] = _Series(metadata["name"], metadata["namespace"], 1, 1, now, now)
        self._series.move_to_end(key)
        while len(self._series) > REMEMBERED_SERIES:
            self._series.popitem(last=False)
        try:
            async with self._slots:
                await self._client.create(EVENTS, body)
        except BaseException:
            self._series.pop(key, None)
            raise

    async def _repeat(self, key: _Key, series: _Series, now: float) -> bool:
        """Count a repetition. False when the Event object is gone and the news must be told anew."""
        series.count += 1
        if series.count < 2 * series.written_count and now - series.written < WRITE_SECONDS:
            return True
        series.written_count, series.written = series.count, now
        body = {"series": {"count": series.count, "lastObservedTime": micro_timestamp()}}
        try:
            async with self._slots:
                await self._client.patch(EVENTS, series.name, namespace=series.namespace, body=body)
        except NotFound:
            self._series.pop(key, None)
            return False
        return True


def event_object(
    regarding: Mapping[str, Any],
    *,
    type: EventType,
    reason: str,
    action: str,
    message: str,
    controller: str,
    instance: str,
) -> dict[str, Any]:
    """The Event object for a first occurrence.

    Events on cluster-scoped objects live in the namespace `default`.
    """
    metadata = regarding.get("metadata") or {}
    reference = {
        "apiVersion": regarding.get("apiVersion"),
        "kind": regarding.get("kind"),
        "namespace": metadata.get("namespace"),
        "name": metadata.get("name"),
        "uid": metadata.get("uid"),
        "resourceVersion": metadata.get("resourceVersion"),
    }
    suffix = uuid.uuid4().hex[:16]
    return {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.kind,
        "metadata": {
            "name": f"{str(metadata.get('name'))[: NAME_LIMIT - 17]}.{suffix}",
            "namespace": metadata.get("namespace") or "default",
        },
        "eventTime": micro_timestamp(),
        "reportingController": controller,
        "reportingInstance": instance,
        "type": type,
        "reason": reason[:128],
        "action": action[:128],
        "note": message.encode()[:NOTE_LIMIT_BYTES].decode(errors="ignore"),
        "regarding": {field: value for field, value in reference.items() if value},
    }
