"""Connections to the API server: kept, never mixed up, given up in the middle, through a proxy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from tessera.kube.http import BUFFERED_BYTES, Broken, CannotConnect, Pool, Server

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Peer:
    """A server that speaks whatever `serve` writes; counts its connections."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self.connections = 0
        self.port = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[Peer]:
    peer = Peer(serve)
    server = await asyncio.start_server(peer.accept, "127.0.0.1", 0)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        server.close()


@asynccontextmanager
async def pool_of(peer: Peer, *, proxy: str | None = None) -> AsyncIterator[Pool]:
    pool = Pool(Server(f"http://127.0.0.1:{peer.port}/base", proxy=proxy))
    try:
        yield pool
    finally:
        await pool.close()


async def head_of(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


async def ask(pool: Pool, target: str = "/x") -> tuple[int, bytes]:
    head, content = await pool.exchange(pool.request("GET", target, "", None))
    return head.status, content


async def answering_ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await head_of(reader)
        writer.write(OK)


async def test_a_connection_is_kept_for_the_next_request() -> None:
    async with listening(answering_ok) as peer, pool_of(peer) as pool:
        assert [await ask(pool) for _ in range(3)] == [(200, b"ok")] * 3
        assert peer.connections == 1


async def test_requests_at_the_same_time_have_connections_of_their_own() -> None:
    async with listening(answering_ok) as peer, pool_of(peer) as pool:
        assert await asyncio.gather(*(ask(pool) for _ in range(3))) == [(200, b"ok")] * 3
        assert peer.connections == 3


async def test_a_server_that_closes_after_its_answer_gets_a_new_connection() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await writer.drain()

    async with listening(serve) as peer, pool_of(peer) as pool:
        assert [await ask(pool) for _ in range(2)] == [(200, b"ok")] * 2
        assert peer.connections == 2


async def test_the_answer_to_a_cancelled_request_goes_to_nobody() -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            late = b" /base/late " in await head_of(reader)
            if late:
                asked.set()
                await go_on.wait()
            writer.write(OK.replace(b"ok", b"no") if late else OK)

    async with listening(serve) as peer, pool_of(peer) as pool:
        late = asyncio.create_task(ask(pool, "/late"))
        await asked.wait()
        late.cancel()
        await asyncio.gather(late, return_exceptions=True)
        go_on.set()
        assert await ask(pool) == (200, b"ok")
        assert peer.connections == 2


async def test_a_second_answer_is_nobodys() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(OK + OK.replace(b"200 OK", b"408 Request Timeout"))
        await reader.read()

    async with listening(serve) as peer, pool_of(peer) as pool:
        assert [await ask(pool) for _ in range(2)] == [(200, b"ok")] * 2
        assert peer.connections == 2


async def test_what_comes_unasked_is_no_answer() -> None:
    answered, ended = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(OK)
        await answered.wait()
        writer.write(OK.replace(b"200 OK", b"408 Request Timeout"))
        if not await reader.read():
            ended.set()

    async with listening(serve) as peer, pool_of(peer) as pool:
        await ask(pool)
        answered.set()
        await asyncio.wait_for(ended.wait(), 5)
        assert await ask(pool) == (200, b"ok")
        assert peer.connections == 2


async def test_an_interim_answer_is_not_the_answer() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK)
        await head_of(reader)

    async with listening(serve) as peer, pool_of(peer) as pool:
        assert await ask(pool) == (200, b"ok")


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b"SSH-2.0\r\n"])
async def test_half_an_answer_is_an_error(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(answer)
        await writer.drain()

    async with listening(serve) as peer, pool_of(peer) as pool:
        with pytest.raises(Broken):
            await ask(pool)


async def test_a_reader_that_is_slow_holds_the_server_back(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(256):
            writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            await writer.drain()
            sent += 1
        writer.write(b"0\r\n\r\n")
        await head_of(reader)

    async with listening(serve) as peer, pool_of(peer) as pool, pool.lent() as connection:
        await connection.begin(pool.request("GET", "/x", "", None))
        transport, paused = connection._transport, asyncio.Event()
        assert transport is not None
        pause = transport.pause_reading

        def pause_and_tell() -> None:
            pause()
            paused.set()

        monkeypatch.setattr(transport, "pause_reading", pause_and_tell)
        await asyncio.wait_for(paused.wait(), 5)
        assert BUFFERED_BYTES < connection._buffered < 2 * BUFFERED_BYTES
        assert sent < 256
        pieces = connection.pieces(inactivity_seconds=30)
        assert sum([len(piece) async for piece in pieces]) == 256 * 0x10000


async def test_closing_ends_what_is_still_read() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await head_of(reader)

    async with listening(serve) as peer, pool_of(peer) as pool, pool.lent() as connection:
        await connection.begin(pool.request("GET", "/x", "", None))
        await pool.close()
        with pytest.raises(Broken):
            await anext(connection.pieces(inactivity_seconds=30))
        with pytest.raises(Broken, match="the client is closed"):
            await ask(pool)


async def test_a_proxy_is_asked_for_a_tunnel() -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await head_of(reader))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        heads.append(await head_of(reader))
        writer.write(OK)
        await head_of(reader)

    async with (
        listening(serve) as proxy,
        listening(answering_ok) as peer,
        pool_of(peer, proxy=f"http://me:se%63ret@127.0.0.1:{proxy.port}") as pool,
    ):
        assert await ask(pool) == (200, b"ok")
        assert peer.connections == 0
    assert heads[0].startswith(f"CONNECT 127.0.0.1:{peer.port} HTTP/1.1\r\n".encode())
    assert b"Proxy-Authorization: Basic bWU6c2VjcmV0\r\n" in heads[0]
    assert heads[1].startswith(b"GET /base/x HTTP/1.1\r\n")


async def test_a_proxy_that_refuses_is_named() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with (
        listening(serve) as proxy,
        listening(answering_ok) as peer,
        pool_of(peer, proxy=f"http://127.0.0.1:{proxy.port}") as pool,
    ):
        with pytest.raises(CannotConnect, match="answers 407"):
            await ask(pool)
