"""When pods were posted and when they were bound, by one clock in one process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from tessera.kube.client import KubeClient
from tessera.kube.informer import Informer
from tessera.kube.resources import PODS, RESOURCE_CLAIMS

Object = dict[str, Any]


class PodWatcher:
    """Follows the pods of one namespace. Use with `async with`."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self.posted: dict[str, float] = {}
        self.bound: dict[str, float] = {}
        self.on_gone: Callable[[Object], None] | None = None
        """Called with each pod that is gone, as it was last."""
        self._news = asyncio.Event()
        self._informer = Informer(client, PODS, namespace=namespace, on_change=self._changed)

    async def __aenter__(self) -> PodWatcher:
        self._informer.start()
        await self._informer.wait_synced(30)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._informer.stop()

    def posting(self, name: str) -> None:
        """The pod is about to be posted."""
        self.posted[name] = time.monotonic()

    def _changed(self, kind: str, pod: Object, _: Object | None) -> None:
        name = pod["metadata"]["name"]
        if kind == "DELETED" and self.on_gone is not None:
            self.on_gone(pod)
        if kind != "DELETED" and pod["spec"].get("nodeName") and name not in self.bound:
            self.bound[name] = time.monotonic()
            self._news.set()

    def latencies(self, names: list[str]) -> list[float]:
        """Seconds from post to bind of those that are bound."""
        return [self.bound[name] - self.posted[name] for name in names if name in self.bound]

    async def wait_bound(self, names: list[str], *, until: float, quiet_seconds: float | None = None) -> bool:
        """Whether all of them were bound before the monotonic time `until`.

        With `quiet_seconds` it gives up as soon as nothing was bound for so long.
        """
        for name in names:
            while name not in self.bound:
                now = time.monotonic()
                limit = until if quiet_seconds is None else min(until, now + quiet_seconds)
                self._news.clear()
                try:
                    async with asyncio.timeout(limit - now):
                        await self._news.wait()
                except TimeoutError:
                    return all(name in self.bound for name in names)
        return True


async def until_claims(client: KubeClient, namespace: str, count: int, *, seconds: float) -> None:
    """Waits until the namespace has exactly that many claims. Raises TimeoutError."""
    news = asyncio.Event()
    claims = Informer(client, RESOURCE_CLAIMS, namespace=namespace, on_change=lambda *_: news.set())
    claims.start()
    try:
        async with asyncio.timeout(seconds):
            await claims.wait_synced()
            while len(claims.items()) != count:
                news.clear()
                await news.wait()
    except TimeoutError:
        raise TimeoutError(
            f"namespace {namespace} has {len(claims.items())} claims and not {count} after {seconds:.0f} s"
        ) from None
    finally:
        await claims.stop()
