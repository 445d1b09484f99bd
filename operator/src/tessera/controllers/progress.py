"""Ask running workers how far they are.

Progress is not in any object, so no watch brings it: this task asks each running pod of a training job over
HTTP, at most every few seconds, outside of reconciliation. What it hears becomes part of the view; a worker
that does not answer (it starts, it is busy, a network policy is in the way) leaves what was known. Only a
change makes the job reconcile. A worker is the user's code: what it says wrongly (NaN, a negative step) is
left out, because a status that holds it could not be stored and the job would be stuck.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import aiohttp
from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from tessera.api import names
from tessera.api.heterogeneous_training_job import Progress
from tessera.controllers.training_view import container_status

Object = Mapping[str, Any]
JobKey = tuple[str, str]
"""(namespace, name) of a training job."""

POLL_SECONDS = 5.0
ANSWER_SECONDS = 2.0
CONCURRENCY = 16
ANSWER_LIMIT_BYTES = 64 * 1024

_log = logging.getLogger(__name__)


class ProgressPoller:
    """Keeps the last known progress of every training job that has a running pod."""

    def __init__(
        self,
        *,
        pods: Callable[[], Iterable[Object]],
        on_change: Callable[[JobKey], None],
        port: int = names.WORKER_METRICS_PORT,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._pods = pods
        self._on_change = on_change
        self._port = port
        self._poll_seconds = poll_seconds
        self._known: dict[JobKey, Progress] = {}

    def progress(self, key: JobKey) -> Progress | None:
        """What the job's worker said last; None when it never answered or its pod is gone."""
        return self._known.get(key)

    async def run(self) -> None:
        """Ask until cancelled."""
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                await self.poll_once(session)
                await asyncio.sleep(self._poll_seconds)

    async def poll_once(self, session: aiohttp.ClientSession) -> None:
        """Ask every running worker once."""
        pods = list(self._pods())
        present = {_job_of(pod) for pod in pods}
        for key in [key for key in self._known if key not in present]:
            del self._known[key]
        addresses = {
            _job_of(pod): pod["status"]["podIP"]
            for pod in pods
            if "running" in (container_status(pod).get("state") or {}) and pod["status"].get("podIP")
        }
        places = asyncio.Semaphore(CONCURRENCY)
        await asyncio.gather(*(self._ask(session, places, key, ip) for key, ip in addresses.items()))

    async def _ask(
        self, session: aiohttp.ClientSession, places: asyncio.Semaphore, key: JobKey, address: str
    ) -> None:
        host = f"[{address}]" if ":" in address else address
        url = f"http://{host}:{self._port}/progress"
        try:
            async with places, session.get(url, allow_redirects=False) as answer:
                answer.raise_for_status()
                body = await answer.content.read(ANSWER_LIMIT_BYTES)
            heard = understood(body)
        except (aiohttp.ClientError, TimeoutError, ValueError, RecursionError) as error:
            _log.debug("no progress from %s/%s at %s: %r", *key, url, error)
            return
        if heard != self._known.get(key):
            self._known[key] = heard
            self._on_change(key)


def understood(answer: bytes) -> Progress:
    """The progress of an answer, without the fields whose values cannot be.

    Raises ValueError when it is no JSON object, or when not one of its fields is right; RecursionError when
    it is nested too deeply to be read.
    """
    said = json.loads(answer)
    if not isinstance(said, dict):
        raise ValueError(f"a JSON object was expected, not {type(said).__name__}")
    try:
        return Progress.model_validate(said)
    except ValidationError as error:
        wrong = {problem["loc"][0] for problem in error.errors(include_input=False, include_context=False)}
        heard = Progress.model_validate(
            {name: value for name, value in said.items() if to_camel(name) not in wrong}
        )
        if not heard.model_fields_set:
            raise
        return heard


def _job_of(pod: Object) -> JobKey:
    metadata = pod["metadata"]
    return metadata["namespace"], (metadata.get("labels") or {}).get(names.TRAINING_JOB_LABEL, "")
