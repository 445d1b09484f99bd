"""The store of `api_in_memory` behind HTTPS, in a process of its own: so that a scheduler's processor time
contains its requests, its watches, TLS and the JSON of both, and nothing of the server.

    PYTHONPATH=tests python -m bench.scheduler_rounds.api_over_http --port N --nodes 100 --gpus 8 --pki FOLDER

`served` starts it so; the folder has what `_make_pki` writes.

`POST /bench/pods?count=N` makes pods, `GET /bench/bound` answers when all of them are bound.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from bench.scheduler_rounds.api_in_memory import Store, StoreClient
from tessera.kube.client import KubeClient
from tessera.kube.credentials import Credentials
from tessera.kube.errors import ApiError, Unreachable
from tessera.kube.resources import EVENTS, LEASES, NODES, PODS, RESOURCE_CLAIMS, RESOURCE_SLICES, Resource
from tessera.local.certificates import Authority
from tessera.local.ports import free_ports

RESOURCES = {r.plural: r for r in (PODS, NODES, RESOURCE_CLAIMS, RESOURCE_SLICES, LEASES, EVENTS)}
CERTIFICATE = "server"
PATH = re.compile(
    r"/apis?/(?:[^/]+/)?v[^/]+(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[^/]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?$"
)


class Server:
    """Answers the requests that a scheduler makes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._client = StoreClient(store)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One request to the API."""
        found = PATH.match(request.path)
        assert found is not None, request.path
        plural, name, namespace = found["plural"], found["name"], found["namespace"]
        resource = RESOURCES.get(plural) or Resource("", "v1", plural, plural, False)
        try:
            if request.query.get("watch"):
                return await self._watch(request, resource)
            return web.json_response(await self._act(request, resource, name, namespace))
        except ApiError as error:
            body = {"kind": "Status", "reason": error.reason, "message": error.message}
            return web.json_response(body, status=error.status)

    async def _act(
        self, request: web.Request, resource: Resource, name: str | None, namespace: str | None
    ) -> Any:
        match request.method:
            case "GET" if name:
                return await self._client.get(resource, name, namespace)
            case "GET":
                listed = await self._client.list(resource)
                return {"items": listed.items, "metadata": {"resourceVersion": listed.resource_version}}
            case "PATCH":
                body = await request.json(loads=json.loads)
                return await self._client.patch(resource, name or "", namespace=namespace, body=body)
            case "POST":
                return await self._client.create(resource, await request.json())
            case _:
                return await self._client.replace(resource, await request.json())

    async def _watch(self, request: web.Request, resource: Resource) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        async for event in self._client.watch(resource):
            line = json.dumps({"type": event.type, "object": event.object}, separators=(",", ":"))
            await response.write(line.encode() + b"\n")
        return response

    async def add_pods(self, request: web.Request) -> web.Response:
        """Make pods."""
        self._store.add_pods(int(request.query["count"]))
        return web.json_response({})

    async def bound(self, request: web.Request) -> web.Response:
        """Wait until no pod is unbound, 20 s at most, and tell what was written so far."""
        try:
            async with asyncio.timeout(20):
                await self._store.all_bound.wait()
        except TimeoutError:
            return web.json_response({}, status=503)
        return web.json_response({"writes": self._store.writes, "events": self._store.events})


def _make_pki(folder: Path) -> ssl.SSLContext:
    """Write an authority and a server certificate into the folder; what a client is to trust. To be called
    before the server starts.
    """
    authority = Authority.create_or_load(folder, name="bench")
    authority.issue(CERTIFICATE, common_name=CERTIFICATE, server_names=["127.0.0.1"])
    return ssl.create_default_context(cafile=str(authority.files.certificate))


def _tls(pki: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pki / f"{CERTIFICATE}.crt", pki / f"{CERTIFICATE}.key")
    return context


@asynccontextmanager
async def served(*, nodes: int, gpus: int) -> AsyncIterator[KubeClient]:
    """Start the server in a process of its own; a client of it, once it answers."""
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory() as pki:
        tls = _make_pki(Path(pki))
        options = (f"--port={port}", f"--nodes={nodes}", f"--gpus={gpus}", f"--pki={pki}")
        command = (sys.executable, "-m", "bench.scheduler_rounds.api_over_http", *options)
        server = await asyncio.create_subprocess_exec(*command)
        try:
            async with KubeClient(Credentials(server=f"https://127.0.0.1:{port}", tls=tls)) as client:
                await _ready(client)
                yield client
        finally:
            server.kill()
            await server.wait()


async def _ready(client: KubeClient) -> None:
    for _ in range(600):
        try:
            await client.list(PODS)
            return
        except Unreachable:
            await asyncio.sleep(0.1)
    raise SystemExit("the server does not answer")


def serve(*, port: int, nodes: int, gpus: int, pki: Path) -> None:
    """Serve until killed."""
    store = Store()
    store.add_nodes(nodes, gpus=gpus)
    server = Server(store)
    app = web.Application(client_max_size=1 << 24)
    app.router.add_post("/bench/pods", server.add_pods)
    app.router.add_get("/bench/bound", server.bound)
    app.router.add_route("*", "/{path:.*}", server.answer)
    web.run_app(
        app,
        host="127.0.0.1",
        port=port,
        ssl_context=_tls(pki),
        print=None,
        loop=asyncio.new_event_loop(),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--pki", type=Path, required=True)
    options = parser.parse_args()
    serve(port=options.port, nodes=options.nodes, gpus=options.gpus, pki=options.pki)
