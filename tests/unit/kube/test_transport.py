"""The API client on the wire, against a small server in this process: tokens, retries, errors, watches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port
from tessera.kube.client import KubeClient
from tessera.kube.credentials import Credentials
from tessera.kube.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    TooManyRequests,
    Unreachable,
)
from tessera.kube.resources import CONFIG_MAPS, GPU_NODES, PODS

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def status(code: int, reason: str, **details: Any) -> web.Response:
    body = {
        "kind": "Status",
        "code": code,
        "reason": reason,
        "message": f"it is {reason}",
        "details": details,
    }
    return web.json_response(body, status=code)


@asynccontextmanager
async def api(
    handler: Handler, *, token: Callable[[], str | None] = lambda: None
) -> AsyncIterator[KubeClient]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    server = TestServer(app)
    await server.start_server()
    url = str(server.make_url("/")).rstrip("/")
    try:
        async with KubeClient(Credentials(url, None, token), field_manager="test-manager") as client:
            yield client
    finally:
        await server.close()


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (403, "Forbidden", Forbidden),
        (404, "NotFound", NotFound),
        (409, "AlreadyExists", AlreadyExists),
        (409, "Conflict", Conflict),
        (410, "Expired", Gone),
        (422, "Invalid", Invalid),
        (400, "BadRequest", ApiError),
    ],
)
async def test_each_answer_has_its_error(code: int, reason: str, error: type[ApiError]) -> None:
    async def handler(request: web.Request) -> web.Response:
        return status(code, reason)

    async with api(handler) as client:
        with pytest.raises(ApiError) as caught:
            await client.get(GPU_NODES, "n1")
    assert type(caught.value) is error
    assert (caught.value.status, caught.value.reason) == (code, reason)
    assert f"it is {reason}" in str(caught.value)


async def test_an_answer_that_is_no_status_object_keeps_its_text() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=404, text="404 page not found")

    async with api(handler) as client:
        with pytest.raises(NotFound, match="404 page not found"):
            await client.get(GPU_NODES, "n1")


async def test_a_rotated_token_is_read_again_at_401() -> None:
    tokens = iter(["Bearer old", "Bearer new"])
    seen: list[str | None] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        if seen[-1] == "Bearer old":
            return status(401, "Unauthorized")
        return web.json_response({"kind": "Node"})

    async with api(handler, token=lambda: next(tokens)) as client:
        await client.get(GPU_NODES, "n1")
        await client.get(GPU_NODES, "n1")
    assert seen == ["Bearer old", "Bearer new", "Bearer new"]


async def test_a_token_that_stays_wrong_is_an_error() -> None:
    async def handler(request: web.Request) -> web.Response:
        return status(401, "Unauthorized")

    async with api(handler, token=lambda: "Bearer wrong") as client:
        with pytest.raises(ApiError, match="Unauthorized"):
            await client.get(GPU_NODES, "n1")


async def test_a_refused_create_is_sent_again() -> None:
    calls = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        return (
            status(429, "TooManyRequests", retryAfterSeconds=0)
            if calls == 1
            else web.json_response({"ok": 1})
        )

    async with api(handler) as client:
        assert await client.create(CONFIG_MAPS, {"metadata": {"namespace": "a", "name": "b"}}) == {"ok": 1}
    assert calls == 2


async def test_an_eviction_that_a_budget_forbids_is_not_repeated() -> None:
    calls = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        return status(429, "TooManyRequests", retryAfterSeconds=10)

    async with api(handler) as client:
        with pytest.raises(TooManyRequests) as caught:
            await client.evict("p", namespace="a")
    assert calls == 1
    assert caught.value.retry_after_seconds == 10


@pytest.mark.parametrize(
    ("verb", "repeated"), [("get", True), ("apply", True), ("create", False), ("patch", False)]
)
async def test_only_what_may_happen_twice_is_repeated_when_the_answer_is_lost(
    verb: str, repeated: bool
) -> None:
    calls = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        if calls == 1:
            assert request.transport is not None
            request.transport.close()
        return web.json_response({"ok": 1})

    obj = {"metadata": {"name": "n1"}}
    async with api(handler) as client:
        sends: dict[str, Callable[[], Awaitable[Any]]] = {
            "get": lambda: client.get(GPU_NODES, "n1"),
            "apply": lambda: client.apply(GPU_NODES, obj),
            "create": lambda: client.create(GPU_NODES, obj),
            "patch": lambda: client.patch(GPU_NODES, "n1", body={}),
        }
        send = sends[verb]
        if repeated:
            assert await send() == {"ok": 1}
        else:
            with pytest.raises(Unreachable):
                await send()
    assert (calls > 1) is repeated


async def test_nobody_there_names_the_server_and_the_remedy() -> None:
    address = f"http://127.0.0.1:{unused_port()}"
    async with KubeClient(Credentials(address, None)) as client:
        with pytest.raises(Unreachable) as caught:
            await client.evict("p", namespace="a")
    assert address in str(caught.value)
    assert "tessera local status" in str(caught.value)


async def test_lists_are_read_in_pages_and_items_get_their_kind() -> None:
    asked: list[dict[str, str]] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        last = "continue" in request.query
        item = {"metadata": {"name": "second" if last else "first"}}
        metadata = {"resourceVersion": "7"} | ({} if last else {"continue": "mark"})
        return web.json_response({"kind": "PodList", "items": [item], "metadata": metadata})

    async with api(handler) as client:
        found = await client.list(PODS, label_selector="a=b", field_selector="c=d")
    assert [(item["kind"], item["apiVersion"], item["metadata"]["name"]) for item in found.items] == [
        ("Pod", "v1", "first"),
        ("Pod", "v1", "second"),
    ]
    assert found.resource_version == "7"
    assert asked[0] == {"labelSelector": "a=b", "fieldSelector": "c=d", "limit": "500"}
    assert asked[1]["continue"] == "mark"


async def test_apply_sends_the_manager_the_kind_and_force() -> None:
    seen: dict[str, Any] = {}

    async def handler(request: web.Request) -> web.Response:
        seen.update(request.query, type=request.headers["Content-Type"], path=request.path)
        seen["body"] = await request.json()
        return web.json_response({})

    async with api(handler) as client:
        await client.apply(GPU_NODES, {"metadata": {"name": "n1"}}, subresource="status")
    assert seen["type"] == "application/apply-patch+yaml"
    assert seen["path"] == "/apis/tessera.dev/v1alpha1/gpunodes/n1/status"
    assert (seen["fieldManager"], seen["force"]) == ("test-manager", "true")
    assert (seen["body"]["apiVersion"], seen["body"]["kind"]) == ("tessera.dev/v1alpha1", "GPUNode")


async def test_a_namespaced_object_without_a_namespace_is_refused_here() -> None:
    async with KubeClient(Credentials("http://127.0.0.1:1", None)) as client:
        with pytest.raises(ValueError, match="needs a namespace"):
            await client.get(PODS, "p")
        with pytest.raises(ValueError, match="needs a namespace"):
            await client.create(PODS, {"metadata": {"name": "p"}})


def watching(*lines: Any) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for line in lines:
            await answer.write(json.dumps(line).encode() + b"\n")
        return answer

    return handler


async def test_a_watch_gives_objects_of_any_size() -> None:
    big = {"metadata": {"name": "big", "resourceVersion": "1"}, "data": {"x": "y" * 1_500_000}}
    mark = {"metadata": {"resourceVersion": "2"}}
    async with api(
        watching({"type": "ADDED", "object": big}, {"type": "BOOKMARK", "object": mark})
    ) as client:
        events = [event async for event in client.watch(CONFIG_MAPS, resource_version="0")]
    assert [event.type for event in events] == ["ADDED", "BOOKMARK"]
    assert len(events[0].object["data"]["x"]) == 1_500_000


async def test_a_watch_from_too_long_ago_is_gone() -> None:
    gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
    async with api(watching({"type": "ERROR", "object": gone})) as client:
        with pytest.raises(Gone):
            async for _ in client.watch(CONFIG_MAPS, resource_version="1"):
                pass


async def test_a_silent_watch_is_given_up() -> None:
    silence = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await silence.wait()
        return answer

    async with api(handler) as client:
        with pytest.raises(Unreachable, match="watch"):
            async for _ in client.watch(CONFIG_MAPS, resource_version="1", inactivity_seconds=0.05):
                pass
        silence.set()
