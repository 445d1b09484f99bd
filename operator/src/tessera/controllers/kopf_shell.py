"""kopf as the shell: it watches the kinds that users write and says which object moved. Nothing else.

Its handlers only pass on a key. They keep no state on the object (no annotations, no finalizers), and they
are not retried, so nothing may depend on one of them: a lost call is made good by the next. kopf runs in a
thread with a loop of its own, because it cancels every task of its loop when it ends.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import kopf

from tessera.api.errors import TesseraError
from tessera.api.names import GROUP
from tessera.controllers.plan import Key
from tessera.kube.credentials import load_credentials
from tessera.kube.resources import Resource

REQUEST_SECONDS = 30.0
STOP_SECONDS = 8.0
LOGIN_AGAIN_AFTER = datetime.timedelta(minutes=10)
"""The kubelet rotates service account tokens; well before that kopf logs in anew. A 401 makes it do so at
once."""

_log = logging.getLogger(__name__)


def settings_of(settings: kopf.OperatorSettings) -> kopf.OperatorSettings:
    """Every setting of kopf that we depend on, in one place."""
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.networking.request_timeout = REQUEST_SECONDS
    settings.watching.chunk_size = 500
    settings.queueing.worker_limit = 32
    # Only seen by state-keeping handlers, of which there are none; named so that a later one is born clean.
    settings.persistence.finalizer = f"{GROUP}/operator"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP)
    return settings


def quiet_kopf() -> None:
    """One line per event and per login is too much; and that kopf gets no signals is as we want it."""
    for logger, level in (
        ("kopf.objects", logging.WARNING),
        ("kopf.activities", logging.WARNING),
        ("kopf._core.engines.activities", logging.WARNING),
        ("kopf._core.reactor.running", logging.ERROR),
    ):
        logging.getLogger(logger).setLevel(level)


def registry_of(
    resources: Sequence[Resource], *, kubeconfig: Path | None, seen: Callable[[Key], None]
) -> kopf.OperatorRegistry:
    """Handlers: one login and one event handler per kind. `seen` is called in kopf's thread."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.AiohttpSession:
        credentials = await asyncio.to_thread(load_credentials, kubeconfig=kubeconfig)
        authorization = await credentials.authorization(fresh=True)
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=credentials.tls if credentials.tls else True),
            headers={"Authorization": authorization} if authorization else None,
            proxy=credentials.proxy,
        )
        now = datetime.datetime.now(datetime.UTC)
        return kopf.AiohttpSession(
            server=credentials.server, aiohttp_session=session, expiration=now + LOGIN_AGAIN_AFTER
        )

    def watch(resource: Resource) -> None:
        @kopf.on.event(resource.group, resource.version, resource.plural, registry=registry)
        async def moved(name: str, namespace: str | None, **_: Any) -> None:
            seen(Key(kind=resource.kind, namespace=namespace, name=name))

    for resource in resources:
        watch(resource)
    return registry


async def run_kopf(
    resources: Sequence[Resource], *, kubeconfig: Path | None, on_seen: Callable[[Key], None]
) -> None:
    """Watch until cancelled; `on_seen` is called in the caller's loop.

    Raises:
        TesseraError: kopf ended by itself.
    """
    quiet_kopf()
    loop = asyncio.get_running_loop()
    stop = threading.Event()
    ended: asyncio.Future[None] = loop.create_future()

    def seen(key: Key) -> None:
        loop.call_soon_threadsafe(on_seen, key)

    def finish(error: BaseException | None) -> None:
        if ended.done():
            return
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)

    def thread() -> None:
        outcome: BaseException | None = None
        try:
            asyncio.run(
                kopf.operator(
                    registry=registry_of(resources, kubeconfig=kubeconfig, seen=seen),
                    settings=settings_of(kopf.OperatorSettings()),
                    standalone=True,
                    clusterwide=True,
                    stop_flag=stop,
                )
            )
        except BaseException as error:
            # The edge of the thread: whatever ended it is re-raised in the caller's loop.
            outcome = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(finish, outcome)

    threading.Thread(target=thread, name="kopf", daemon=True).start()
    try:
        await asyncio.shield(ended)
    except asyncio.CancelledError:
        stop.set()
        _, late = await asyncio.wait({ended}, timeout=STOP_SECONDS)
        if late:
            _log.warning("kopf did not stop within %s s; the process ends without it", STOP_SECONDS)
        raise
    raise TesseraError("kopf stopped watching", "it ended by itself", "The process is restarted")
