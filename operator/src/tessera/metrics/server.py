"""The window into a process: `/metrics`, `/healthz` and `/readyz` on one port.

Liveness asks "would a restart help", readiness asks "is it at work"; the two are answered from different
checks, so that a process which waits for the API server is not ready yet is never restarted for it. A check
is an async function that returns None when all is well and otherwise says what is wrong; the answers are
the body, so `kubectl describe` shows the reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from tessera.api.errors import TesseraError
from tessera.metrics import registry

Check = Callable[[], Awaitable[str | None]]

# Below the default timeout of a probe (1 s), so that the probe gets the answer and not silence.
CHECK_SECONDS = 0.8
_log = logging.getLogger(__name__)


class MetricsServer:
    """A running server; `port` is the real one when 0 was asked for."""

    def __init__(self, runner: web.AppRunner, port: int) -> None:
        self.port = port
        self._runner = runner

    async def stop(self) -> None:
        """Stop serving and close the port."""
        await self._runner.cleanup()


async def start_server(
    port: int,
    *,
    checks: Mapping[str, Check] | None = None,
    health_checks: Mapping[str, Check] | None = None,
    host: str = "0.0.0.0",
) -> MetricsServer:
    """Serve on `port` (0: any free one). `checks` decide `/readyz`, `health_checks` decide `/healthz`.

    Raises TesseraError when the port cannot be opened.
    """
    app = web.Application()
    app.router.add_get("/metrics", _metrics)
    app.router.add_get("/healthz", _answer_from(dict(health_checks or {})))
    app.router.add_get("/readyz", _answer_from(dict(checks or {})))
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except (OSError, OverflowError) as error:  # the latter for a number that no port has
        await runner.cleanup()
        raise TesseraError(
            f"port {port} cannot be opened for /metrics, /healthz and /readyz",
            getattr(error, "strerror", None) or str(error),
            "Stop what listens there, or choose another --port",
        ) from error
    return MetricsServer(runner, int(runner.addresses[0][1]))


async def _metrics(request: web.Request) -> web.Response:
    return web.Response(
        body=generate_latest(registry.REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST}
    )


def _answer_from(checks: Mapping[str, Check]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        complaints = await asyncio.gather(*(_run(name, check) for name, check in checks.items()))
        wrong = [complaint for complaint in complaints if complaint is not None]
        return web.Response(text="\n".join(wrong) or "ok", status=503 if wrong else 200)

    return answer


async def _run(name: str, check: Check) -> str | None:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            complaint = await check()
    except TimeoutError:
        complaint = f"no answer within {CHECK_SECONDS} s"
    except Exception as error:
        registry.UNHANDLED_ERRORS_TOTAL.labels(f"check {name}").inc()
        _log.exception("the check %s failed", name)
        complaint = f"the check itself failed: {error}"
    return None if complaint is None else f"{name}: {complaint}"
