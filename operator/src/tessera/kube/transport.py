"""HTTP to the API server: authorization, time limits, retries, errors, and metrics of every request.

Retries follow one rule: a request is sent again only when the server cannot have acted on it twice. That is
every request that it refused with 429 or that never left this machine (connection refused), and, when an
answer got lost on the way, reads, deletes and server-side applies, which may be repeated freely.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import msgspec

from tessera.kube.backoff import Backoff
from tessera.kube.credentials import Credentials
from tessera.kube.errors import ApiError, Unreachable, error_from_status
from tessera.kube.http import Broken, CannotConnect, Head, Pool, Server
from tessera.metrics import registry as metrics

REQUEST_TIMEOUT_SECONDS = 30.0
MAX_ATTEMPTS = 6

_log = logging.getLogger(__name__)

_UNQUOTED = "/:?&=%@,;+!$'()*~"


class Answer(NamedTuple):
    """A complete answer with a status below 400."""

    head: Head
    content: bytes

    def body(self) -> Any:
        """The content decoded when it is JSON, else as text."""
        if any("json" in kind for kind in self.head.values("content-type")):
            return msgspec.json.decode(self.content)
        return self.content.decode(errors="replace")


class Transport:
    """Sends requests to one API server as one user."""

    def __init__(self, credentials: Credentials, *, user_agent: str) -> None:
        self.credentials = credentials
        self._user_agent = user_agent
        self._backoff = Backoff(first_seconds=0.2, limit_seconds=5.0)
        self._pool: Pool | None = None

    async def close(self) -> None:
        """Close all connections."""
        if self._pool is not None:
            await self._pool.close()

    async def send(
        self,
        method: str,
        path: str,
        *,
        verb: str,
        plural: str,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        attempts: int = MAX_ATTEMPTS,
    ) -> Answer:
        """Send a request, again where that is safe, and return its answer.

        `verb` and `plural` are the labels of the metrics. Raises ApiError and Unreachable.
        """
        repeatable = method in ("GET", "DELETE") or verb == "apply"
        data = None if body is None else msgspec.json.encode(body)
        fresh = False
        for attempt in range(attempts):
            last = attempt == attempts - 1
            try:
                answer = await self._once(method, path, verb, plural, params, data, content_type, fresh)
            except (CannotConnect, Broken, TimeoutError) as error:
                metrics.API_REQUESTS_TOTAL.labels(verb, plural, "unreachable").inc()
                never_sent = isinstance(error, CannotConnect)
                if last or not (repeatable or never_sent) or isinstance(error, TimeoutError):
                    raise self._unreachable(f"{verb} {path}", error) from error
                await asyncio.sleep(self._backoff.delay(attempt))
                continue
            status = answer.head.status
            if status < 400:
                return answer
            error_answer = _error(answer)
            if status == 401 and not fresh and not last:
                # The token may have been rotated since we read it.
                fresh = True
                continue
            overloaded = status == 429 or (status in (502, 503, 504) and repeatable)
            if last or not overloaded:
                raise error_answer
            asked = error_answer.retry_after_seconds or 0.0
            await asyncio.sleep(max(asked, self._backoff.delay(attempt)))
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def lines(
        self,
        path: str,
        *,
        verb: str,
        plural: str,
        params: Mapping[str, str],
        inactivity_seconds: float,
    ) -> AsyncIterator[bytes]:
        """The lines of an endless answer. Raises ApiError, and Unreachable when it breaks or falls silent."""
        for fresh in (False, True):
            request = self._request("GET", path, params, await self._headers(fresh=fresh), None)
            try:
                async with self._connections().lent() as connection:
                    async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
                        head = await connection.begin(request)
                    metrics.API_REQUESTS_TOTAL.labels(verb, plural, str(head.status)).inc()
                    if head.status == 401 and not fresh:
                        continue
                    pieces = connection.pieces(inactivity_seconds=inactivity_seconds)
                    if head.status >= 400:
                        raise _error(Answer(head, b"".join([piece async for piece in pieces])))
                    async for line in _split(pieces):
                        yield line
                    return
            except (CannotConnect, Broken, TimeoutError) as error:
                raise self._unreachable(f"{verb} {path}", error) from error

    async def _once(
        self,
        method: str,
        path: str,
        verb: str,
        plural: str,
        params: Mapping[str, str] | None,
        data: bytes | None,
        content_type: str,
        fresh: bool,
    ) -> Answer:
        headers = await self._headers(fresh=fresh)
        if data is not None:
            headers += f"Content-Type: {content_type}\r\n"
        started = time.perf_counter()
        request = self._request(method, path, params, headers, data)
        async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
            head, content = await self._connections().exchange(request)
        metrics.API_REQUEST_SECONDS.labels(verb, plural).observe(time.perf_counter() - started)
        metrics.API_REQUESTS_TOTAL.labels(verb, plural, str(head.status)).inc()
        for warning in head.values("warning"):
            _log.warning("the API server warns about %s %s: %s", verb, path, warning)
        return Answer(head, content)

    def _connections(self) -> Pool:
        if self._pool is None:
            to = self.credentials
            self._pool = Pool(Server(to.server, to.tls, to.server_hostname, to.proxy))
        return self._pool

    def _request(
        self, method: str, path: str, params: Mapping[str, str] | None, headers: str, data: bytes | None
    ) -> bytes:
        target = quote(path, safe=_UNQUOTED)
        return self._connections().request(
            method, f"{target}?{urlencode(params)}" if params else target, headers, data
        )

    async def _headers(self, *, fresh: bool) -> str:
        headers = f"Accept: application/json\r\nUser-Agent: {self._user_agent}\r\n"
        authorization = await self.credentials.authorization(fresh=fresh)
        return headers if authorization is None else f"{headers}Authorization: {authorization}\r\n"

    def _unreachable(self, what: str, error: BaseException) -> Unreachable:
        reason = str(error) or f"no answer in time ({type(error).__name__})"
        return Unreachable(
            f"no answer from the API server {self.credentials.server} to '{what}'",
            reason,
            "Check that the cluster runs (`tessera local status`) and that the kubeconfig points at it",
        )


async def _split(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    pending = bytearray()
    async for chunk in pieces:
        searched = len(pending)
        pending += chunk
        while (end := pending.find(b"\n", searched)) >= 0:
            line = bytes(pending[:end])
            del pending[: end + 1]
            searched = 0
            if line.strip():
                yield line


def _error(answer: Answer) -> ApiError:
    try:
        body = msgspec.json.decode(answer.content)
    except ValueError:
        body = None
    text = "" if isinstance(body, dict) else answer.content.decode(errors="replace")[:500]
    error = error_from_status(answer.head.status, body if isinstance(body, dict) else {}, text)
    for seconds in answer.head.values("retry-after"):
        if seconds.isdigit():
            error.retry_after_seconds = float(seconds)
    return error
