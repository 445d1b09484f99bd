"""HTTP/1.1 to one server, as lean as it can be: a scheduler spends more time on its requests than on its
decisions (docs/results/scheduler-at-scale.md).

Answers are parsed by llhttp, the parser of Node.js, through `httptools`; connections are asyncio's own. What
is left for this module is little: a request is one write, and a connection carries one exchange at a time and
is kept for the next one. An exchange that ends in the middle (an error, a time limit, a cancelled task) takes
its connection with it, so that no answer is ever given to another request.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple, cast
from urllib.parse import SplitResult, unquote, urlsplit

from httptools import HttpParserError, HttpResponseParser

IDLE_SECONDS = 15.0
"""A connection that was idle for longer is not used again: the server may be about to close it."""
BUFFERED_BYTES = 1 << 20
"""Of an answer that is read piece by piece, so much may lie here before the server has to wait."""


class CannotConnect(Exception):
    """There is no connection, so the request was never sent. The cause is an OSError."""


class Broken(Exception):
    """The connection ended, or what came over it was no HTTP, before the answer was complete."""


class Head(NamedTuple):
    """An answer's status and headers (names and values as they came)."""

    status: int
    headers: list[tuple[bytes, bytes]]

    def values(self, name: str) -> list[str]:
        """The values of a header; `name` in lower case."""
        wanted = name.encode()
        return [value.decode("latin-1") for key, value in self.headers if key.lower() == wanted]


class Connection(asyncio.Protocol):
    """One connection, with at most one exchange at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._buffered = 0
        self._head: Head | None = None
        self._complete = True
        self._piecewise = False
        self._keep = True
        self._end: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.idle_since = 0.0

    @property
    def usable(self) -> bool:
        """Whether another exchange may begin."""
        return self._end is None and time.monotonic() - self.idle_since < IDLE_SECONDS

    @property
    def reusable(self) -> bool:
        """Whether the exchange is over, and the server keeps the connection for another one."""
        return self._end is None and self._complete and self._keep

    async def exchange(self, request: bytes) -> tuple[Head, bytes]:
        """Send a request; the whole answer. Raises Broken."""
        self._begin(request, piecewise=False)
        while not self._complete:
            await self._news()
        assert self._head is not None
        return self._head, b"".join(self._pieces)

    async def begin(self, request: bytes) -> Head:
        """Send a request; the head of its answer, which `pieces` goes on to read. Raises Broken."""
        self._begin(request, piecewise=True)
        while self._head is None:
            await self._news()
        return self._head

    async def pieces(self, *, inactivity_seconds: float) -> AsyncGenerator[bytes]:
        """The answer that was begun, as it comes. Raises Broken, and TimeoutError when nothing comes for so
        long.
        """
        while True:
            async with asyncio.timeout(inactivity_seconds):
                while not (self._pieces or self._complete):
                    await self._news()
            if not self._pieces:
                return
            pieces, self._pieces = self._pieces, []
            if self._buffered > BUFFERED_BYTES and self._transport is not None:
                self._transport.resume_reading()
            self._buffered = 0
            yield pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def abort(self) -> None:
        """End it at once."""
        self._lose(Broken("the connection was closed"))
        if self._transport is not None:
            self._transport.abort()

    def _begin(self, request: bytes, *, piecewise: bool) -> None:
        assert self._transport is not None
        self._headers, self._pieces, self._buffered = [], [], 0
        self._head, self._complete, self._piecewise = None, False, piecewise
        self._transport.write(request)

    async def _news(self) -> None:
        if self._end is not None:
            raise self._end
        self._waiter = self._loop.create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _lose(self, why: Exception) -> None:
        if self._end is None:
            self._end = why
            self._wake()

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._complete:
            # Nothing was asked: whatever it is, it must not become an answer to the next request.
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            self._lose(Broken(f"the answer is no HTTP: {error}"))
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._lose(Broken(str(error) if error else "the server closed the connection"))

    # Called by the parser.

    def on_message_begin(self) -> None:
        if self._complete:
            # The parser makes an error of it, which ends the connection; the answer before is not touched.
            raise Broken("more than one answer came")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._parser.get_status_code() < 200:
            # An interim answer; the answer follows.
            self._headers = []
            return
        self._head = Head(self._parser.get_status_code(), self._headers)
        if self._piecewise:
            self._wake()

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)
        if self._piecewise:
            self._wake()
            before, self._buffered = self._buffered, self._buffered + len(data)
            if before <= BUFFERED_BYTES < self._buffered and self._transport is not None:
                self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._head is not None:
            # The parser knows it only now: for the next message it begins anew.
            self._complete, self._keep = True, self._parser.should_keep_alive()
            self._wake()


@dataclass
class Server:
    """Where the connections go: the URL of a server, and of a proxy (HTTP CONNECT) on the way to it."""

    url: str
    tls: ssl.SSLContext | None = None
    server_hostname: str | None = None
    proxy: str | None = None

    def __post_init__(self) -> None:
        self._split = urlsplit(self.url)
        self.tls = self.tls or (ssl.create_default_context() if self._split.scheme == "https" else None)
        self.host = self._split.netloc.rpartition("@")[2]
        self.path = self._split.path.rstrip("/")

    async def connect(self) -> Connection:
        """A new connection. Raises CannotConnect."""
        name, port = _address(self._split)
        try:
            if self.proxy is not None:
                return await self._connect_by_proxy(urlsplit(self.proxy), name, port)
            _, connection = await asyncio.get_running_loop().create_connection(
                Connection, name, port, ssl=self.tls, server_hostname=self._tls_name(name)
            )
        except (OSError, Broken) as error:
            raise CannotConnect(str(error)) from error
        return connection

    async def _connect_by_proxy(self, proxy: SplitResult, name: str, port: int) -> Connection:
        loop = asyncio.get_running_loop()
        host, proxy_port = _address(proxy)
        secure = ssl.create_default_context() if proxy.scheme == "https" else None
        transport, tunnel = await loop.create_connection(Connection, host, proxy_port, ssl=secure)
        target = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if proxy.username is not None:
            user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
            lines.append(f"Proxy-Authorization: Basic {base64.b64encode(user.encode()).decode()}")
        answer = await tunnel.begin("\r\n".join([*lines, "", ""]).encode("latin-1"))
        if answer.status != 200:
            tunnel.abort()
            raise OSError(f"the proxy {host}:{proxy_port} answers {answer.status} to CONNECT")
        connection = Connection()
        if self.tls is not None:
            secured = await loop.start_tls(
                transport, connection, self.tls, server_hostname=self._tls_name(name)
            )
            assert secured is not None
            transport = secured
        else:
            transport.set_protocol(connection)
        # Of a transport that is taken over nobody tells the new protocol.
        connection.connection_made(transport)
        return connection

    def _tls_name(self, name: str) -> str | None:
        return None if self.tls is None else self.server_hostname or name


def _address(url: SplitResult) -> tuple[str, int]:
    return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)


class Pool:
    """Connections to one server: as many as there are exchanges at a time."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._idle: list[Connection] = []
        self._in_use: set[Connection] = set()
        self._closed = False

    def request(self, method: str, target: str, headers: str, body: bytes | None) -> bytes:
        """A request as it is written; `headers` are complete lines."""
        length = "" if body is None else f"Content-Length: {len(body)}\r\n"
        server = self.server
        head = f"{method} {server.path}{target} HTTP/1.1\r\nHost: {server.host}\r\n{headers}{length}\r\n"
        return head.encode("latin-1") + (body or b"")

    async def exchange(self, request: bytes) -> tuple[Head, bytes]:
        """Send a request; the whole answer. Raises CannotConnect and Broken."""
        async with self.lent() as connection:
            return await connection.exchange(request)

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[Connection]:
        """A connection for one exchange. Raises CannotConnect and Broken."""
        connection = await self._take()
        self._in_use.add(connection)
        try:
            yield connection
        finally:
            self._in_use.discard(connection)
            if connection.reusable and not self._closed:
                connection.idle_since = time.monotonic()
                self._idle.append(connection)
            else:
                connection.abort()

    async def _take(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.abort()
        if self._closed:
            raise Broken("the client is closed")
        return await self.server.connect()

    async def close(self) -> None:
        """End all connections."""
        self._closed = True
        for connection in (*self._idle, *self._in_use):
            connection.abort()
        self._idle.clear()
        # The loop tells the transports in its next turn.
        await asyncio.sleep(0)
