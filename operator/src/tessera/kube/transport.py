"""HTTP to the API server: authorization, time limits, retries, errors, and metrics of every request.

Retries follow one rule: a request is sent again only when the server cannot have acted on it twice. That is
every request that it refused with 429 or that never left this machine (connection refused), and, when an
answer got lost on the way, reads, deletes and server-side applies, which may be repeated freely.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

import aiohttp

from tessera.kube.backoff import Backoff
from tessera.kube.credentials import Credentials
from tessera.kube.errors import ApiError, Unreachable, error_from_status
from tessera.metrics import registry as metrics

REQUEST_TIMEOUT_SECONDS = 30.0
MAX_ATTEMPTS = 6

_log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """A complete answer with a status below 400."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    def body(self) -> Any:
        """The content decoded when it is JSON, else as text."""
        if "json" in self.headers.get("Content-Type", ""):
            return json.loads(self.content)
        return self.content.decode(errors="replace")


class Transport:
    """Sends requests to one API server as one user."""

    def __init__(self, credentials: Credentials, *, user_agent: str) -> None:
        self.credentials = credentials
        self._user_agent = user_agent
        self._backoff = Backoff(first_seconds=0.2, limit_seconds=5.0)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

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
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        fresh = False
        for attempt in range(attempts):
            last = attempt == attempts - 1
            try:
                answer = await self._once(method, path, verb, plural, params, data, content_type, fresh)
            except (aiohttp.ClientError, TimeoutError) as error:
                metrics.API_REQUESTS_TOTAL.labels(verb, plural, "unreachable").inc()
                never_sent = isinstance(error, aiohttp.ClientConnectorError)
                if last or not (repeatable or never_sent) or isinstance(error, TimeoutError):
                    raise self._unreachable(f"{verb} {path}", error) from error
                await asyncio.sleep(self._backoff.delay(attempt))
                continue
            if answer.status < 400:
                return answer
            error_answer = _error(answer)
            if answer.status == 401 and not fresh and not last:
                # The token may have been rotated since we read it.
                fresh = True
                continue
            overloaded = answer.status == 429 or (answer.status in (502, 503, 504) and repeatable)
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
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=REQUEST_TIMEOUT_SECONDS, sock_read=inactivity_seconds
        )
        for fresh in (False, True):
            headers = await self._headers(fresh=fresh)
            try:
                async with self._connection().get(
                    self.credentials.server + path,
                    params=params,
                    headers=headers,
                    timeout=timeout,
                    **self._options(),
                ) as answer:
                    metrics.API_REQUESTS_TOTAL.labels(verb, plural, str(answer.status)).inc()
                    if answer.status == 401 and not fresh:
                        continue
                    if answer.status >= 400:
                        raise _error(Answer(answer.status, answer.headers, await answer.read()))
                    async for line in _split(answer.content):
                        yield line
                    return
            except (aiohttp.ClientError, TimeoutError) as error:
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
            headers["Content-Type"] = content_type
        started = time.perf_counter()
        async with self._connection().request(
            method,
            self.credentials.server + path,
            params=params,
            data=data,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS),
            **self._options(),
        ) as answer:
            content = await answer.read()
        metrics.API_REQUEST_SECONDS.labels(verb, plural).observe(time.perf_counter() - started)
        metrics.API_REQUESTS_TOTAL.labels(verb, plural, str(answer.status)).inc()
        for warning in answer.headers.getall("Warning", []):
            _log.warning("the API server warns about %s %s: %s", verb, path, warning)
        return Answer(answer.status, answer.headers, content)

    def _connection(self) -> aiohttp.ClientSession:
        if self._session is None:
            # No limit of connections: each open watch holds one, and a limit would let watches starve writes.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), auto_decompress=True
            )
        return self._session

    def _options(self) -> dict[str, Any]:
        extra: dict[str, Any] = {"proxy": self.credentials.proxy, "allow_redirects": False}
        if self.credentials.tls is not None:
            extra |= {"ssl": self.credentials.tls, "server_hostname": self.credentials.server_hostname}
        return extra

    async def _headers(self, *, fresh: bool) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": self._user_agent}
        authorization = await self.credentials.authorization(fresh=fresh)
        if authorization is not None:
            headers["Authorization"] = authorization
        return headers

    def _unreachable(self, what: str, error: BaseException) -> Unreachable:
        # The connector's own text shows the TLS context's address in memory; the system's error is what
        # matters.
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        reason = str(cause) or f"no answer in time ({type(error).__name__})"
        return Unreachable(
            f"no answer from the API server {self.credentials.server} to '{what}'",
            reason,
            "Check that the cluster runs (`tessera local status`) and that the kubeconfig points at it",
        )


async def _split(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    # Cut by hand: the stream's own readline refuses lines above 128 KiB, and an object may have 1.5 MiB.
    pending = bytearray()
    async for chunk in stream.iter_any():
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
        body = json.loads(answer.content)
    except ValueError:
        body = None
    text = "" if isinstance(body, dict) else answer.content.decode(errors="replace")[:500]
    error = error_from_status(answer.status, body if isinstance(body, dict) else {}, text)
    header = answer.headers.get("Retry-After", "")
    if header.isdigit():
        error.retry_after_seconds = float(header)
    return error
