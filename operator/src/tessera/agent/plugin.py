"""The kubelet's side: two gRPC servers on unix sockets.

The kubelet finds the registration socket in its `plugins_registry`, asks there for the plugin's name and
socket, and then sends NodePrepareResources and NodeUnprepareResources to the DRA socket, in whichever
version it prefers. Errors are told per claim: one claim that cannot be prepared never fails the others.
Requests may come twice, late, or for claims that no longer exist.

A transaction that has begun runs to its end in a task of its own, because the kubelet cancels a call it is
tired of; asking again for the same claim joins the task. Both servers must stay referenced: an
unreferenced `grpc.aio` server is collected and its socket vanishes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import grpc
import grpc.aio

from tessera.agent.claims import ClaimKey, PrepareError
from tessera.agent.proto import (
    dra_v1_pb2,
    dra_v1_pb2_grpc,
    dra_v1beta1_pb2,
    dra_v1beta1_pb2_grpc,
    pluginregistration_v1_pb2,
    pluginregistration_v1_pb2_grpc,
)
from tessera.api.errors import TesseraError
from tessera.api.names import DRIVER
from tessera.metrics.registry import UNHANDLED_ERRORS_TOTAL

log = logging.getLogger(__name__)

PLUGIN_TYPE = "DRAPlugin"
SUPPORTED_VERSIONS = ("v1.DRAPlugin", "v1beta1.DRAPlugin")
DEFAULT_TIMEOUT_SECONDS = 45.0
_MARGIN_SECONDS = 2.0
_SOCKET_PATH_LIMIT = 107


class PreparedDevice(Protocol):
    """What the kubelet is told of one device."""

    @property
    def request(self) -> str:
        """Name of the claim's request."""

    @property
    def device(self) -> str:
        """Name of the device."""


class Node(Protocol):
    """Who does the work. Both methods raise an exception whose text is for the pod's events."""

    async def prepare(self, claim: ClaimKey, *, timeout_seconds: float) -> Iterable[PreparedDevice]:
        """Make the claim's slices exist."""

    async def unprepare(self, claim: ClaimKey) -> None:
        """Give them up."""


class SocketPathTooLong(TesseraError):
    """A unix socket's path is limited by the kernel."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"socket path {path} has {len(str(path))} characters",
            f"the kernel allows {_SOCKET_PATH_LIMIT}",
            "Use a shorter --kubelet-dir",
        )


class SocketNotOpened(TesseraError):
    """The kubelet's directory cannot hold our sockets."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"socket {path} cannot be opened",
            why,
            "Point --kubelet-dir at the kubelet's --root-dir, a directory that the agent may write",
        )


def _make_room(path: Path) -> None:
    """A killed agent leaves its socket behind, and gRPC cannot bind over it. Raises `SocketNotOpened`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    except OSError as error:
        raise SocketNotOpened(path, error.strerror or str(error)) from error


class _InFlight:
    """One task per claim; a second request for a claim waits for the first."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    async def run(self, kind: str, claim: ClaimKey, work: Callable[[], Awaitable[Any]]) -> Any:
        key = f"{kind}/{claim.uid}"
        task = self._tasks.get(key)
        if task is None:
            task = asyncio.ensure_future(_as_coroutine(work))
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._done(key, done))
        return await asyncio.shield(task)

    def _done(self, key: str, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(key, None)
        if not task.cancelled():
            task.exception()  # told to whoever waits; nobody may be left after a cancelled call

    async def settled(self, kind: str, claim: ClaimKey) -> None:
        """Wait until nothing of that kind runs for the claim, however it ends."""
        task = self._tasks.get(f"{kind}/{claim.uid}")
        if task is not None:
            await asyncio.wait([task])

    async def finish(self) -> None:
        """Wait for all that has begun."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


async def _as_coroutine(work: Callable[[], Awaitable[Any]]) -> Any:
    return await work()


class _DRAService:
    """The DRAPlugin service of one version; `messages` is its generated module."""

    def __init__(self, messages: Any, plugin: Plugin) -> None:
        self._messages = messages
        self._plugin = plugin

    async def NodePrepareResources(self, request: Any, context: Any) -> Any:
        remaining = context.time_remaining()
        seconds = min(
            DEFAULT_TIMEOUT_SECONDS, remaining if remaining is not None else DEFAULT_TIMEOUT_SECONDS
        )
        deadline = time.monotonic() + max(0.5, seconds - _MARGIN_SECONDS)
        keys = [_key(claim) for claim in request.claims]
        answers = await asyncio.gather(*(self._prepare(key, deadline) for key in keys))
        response = self._messages.NodePrepareResourcesResponse()
        for key, answer in zip(keys, answers, strict=True):
            response.claims[key.uid].CopyFrom(answer)
        return response

    async def _prepare(self, key: ClaimKey, deadline: float) -> Any:
        try:
            devices = await self._plugin.prepare(key, timeout_seconds=deadline - time.monotonic())
        except Exception as error:
            _note(error, f"claim {key} was not prepared")
            return self._messages.NodePrepareResourceResponse(error=str(error) or repr(error))
        return self._messages.NodePrepareResourceResponse(
            devices=[
                self._messages.Device(
                    request_names=[device.request],
                    pool_name=self._plugin.pool,
                    device_name=device.device,
                    cdi_device_ids=[self._plugin.cdi_device_id(key.uid)],
                )
                for device in devices
            ]
        )

    async def NodeUnprepareResources(self, request: Any, context: Any) -> Any:
        keys = [_key(claim) for claim in request.claims]
        answers = await asyncio.gather(*(self._unprepare(key) for key in keys))
        response = self._messages.NodeUnprepareResourcesResponse()
        for key, answer in zip(keys, answers, strict=True):
            response.claims[key.uid].CopyFrom(answer)
        return response

    async def _unprepare(self, key: ClaimKey) -> Any:
        try:
            await self._plugin.unprepare(key)
        except Exception as error:
            _note(error, f"claim {key} was not released")
            return self._messages.NodeUnprepareResourceResponse(error=str(error) or repr(error))
        return self._messages.NodeUnprepareResourceResponse()


def _note(error: Exception, what: str) -> None:
    """Log a failure; one that we did not foresee is a defect and keeps its traceback."""
    if isinstance(error, PrepareError):
        log.warning("%s: %s", what, error)
    else:
        log.exception("%s", what)
        UNHANDLED_ERRORS_TOTAL.labels("kubelet request").inc()


def _key(claim: Any) -> ClaimKey:
    return ClaimKey(namespace=claim.namespace, name=claim.name, uid=claim.uid)


class _RegistrationService:
    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin

    async def GetInfo(self, request: Any, context: Any) -> Any:
        return pluginregistration_v1_pb2.PluginInfo(
            type=PLUGIN_TYPE,
            name=DRIVER,
            endpoint=str(self._plugin.dra_socket),
            supported_versions=SUPPORTED_VERSIONS,
        )

    async def NotifyRegistrationStatus(self, request: Any, context: Any) -> Any:
        self._plugin.note_registration(registered=request.plugin_registered, error=request.error)
        return pluginregistration_v1_pb2.RegistrationStatusResponse()


class Plugin:
    """The plugin as the kubelet sees it.

    `start` opens the sockets, `stop` ends what has begun and removes them.
    """

    def __init__(
        self,
        node: Node,
        *,
        pool: str,
        kubelet_dir: Path,
        cdi_device_id: Callable[[str], str],
        on_registration: Callable[[], None] = lambda: None,
    ) -> None:
        self.pool = pool
        self.cdi_device_id = cdi_device_id
        self.dra_socket = kubelet_dir / "plugins" / DRIVER / "dra.sock"
        self.registration_socket = kubelet_dir / "plugins_registry" / f"{DRIVER}-reg.sock"
        self.registered = False
        self._node = node
        self._on_registration = on_registration
        self._in_flight = _InFlight()
        self._servers: list[grpc.aio.Server] = []
        self._opened: list[Path] = []

    async def start(self) -> None:
        """Open both sockets, the DRA socket first: once registered, the kubelet may call at any time.

        Raises `SocketPathTooLong` or `SocketNotOpened`.
        """
        dra = grpc.aio.server()
        dra_v1_pb2_grpc.add_DRAPluginServicer_to_server(_DRAService(dra_v1_pb2, self), dra)
        dra_v1beta1_pb2_grpc.add_DRAPluginServicer_to_server(_DRAService(dra_v1beta1_pb2, self), dra)
        registration = grpc.aio.server()
        pluginregistration_v1_pb2_grpc.add_RegistrationServicer_to_server(
            _RegistrationService(self), registration
        )
        for server, path in ((dra, self.dra_socket), (registration, self.registration_socket)):
            await self._listen(server, path)

    async def _listen(self, server: grpc.aio.Server, path: Path) -> None:
        if len(str(path)) > _SOCKET_PATH_LIMIT:
            raise SocketPathTooLong(path)
        _make_room(path)
        try:
            server.add_insecure_port(f"unix://{path}")
        except RuntimeError as error:  # what grpc raises when bind(2) fails
            raise SocketNotOpened(path, str(error)) from error
        await server.start()
        self._servers.append(server)
        self._opened.append(path)

    async def stop(self, *, grace_seconds: float = 5.0) -> None:
        """Unregister by removing the registration socket, then let running calls end."""
        if self.registration_socket in self._opened:
            self.registration_socket.unlink(missing_ok=True)
        await asyncio.gather(*(server.stop(grace_seconds) for server in self._servers))
        await self._in_flight.finish()
        self._servers.clear()
        if self.dra_socket in self._opened:
            self.dra_socket.unlink(missing_ok=True)
        self._opened.clear()

    def note_registration(self, *, registered: bool, error: str) -> None:
        """The kubelet tells how registration went."""
        self.registered = registered
        if registered:
            log.info("the kubelet registered %s", DRIVER)
        else:
            log.error("the kubelet refused to register %s: %s", DRIVER, error)
        self._on_registration()

    async def prepare(self, key: ClaimKey, *, timeout_seconds: float) -> Iterable[PreparedDevice]:
        """Prepare one claim; joins a preparation of the same claim that still runs."""
        devices: Iterable[PreparedDevice] = await self._in_flight.run(
            "prepare", key, lambda: self._node.prepare(key, timeout_seconds=timeout_seconds)
        )
        return devices

    async def unprepare(self, key: ClaimKey) -> None:
        """Release one claim, after a preparation of it that the kubelet gave up waiting for."""
        await self._in_flight.settled("prepare", key)
        await self._in_flight.run("unprepare", key, lambda: self._node.unprepare(key))
