"""The least that a pod can cost: what the API client spends on a write and on an event of a watch when
nothing is decided.

    PYTHONPATH=tests python -m bench.scheduler_rounds.client_alone

prints processor milliseconds of this process per patch of a claim (8 at a time) and per event of a watch of
pods, over HTTPS to `api_over_http` in a process of its own, several times each, least first.
"""

from __future__ import annotations

import asyncio
import time

from bench.scheduler_rounds.api_over_http import served
from tessera.kube.client import KubeClient
from tessera.kube.resources import PODS, RESOURCE_CLAIMS

TIMES, WRITERS, WRITES, NEW_PODS = 8, 8, 25, 200
BODY = {"metadata": {"labels": {"one": "two"}}}


async def patch_ms(client: KubeClient) -> list[float]:
    """Per patch."""
    claim = (await client.list(RESOURCE_CLAIMS)).items[0]["metadata"]

    async def write() -> None:
        for _ in range(WRITES):
            await client.patch(RESOURCE_CLAIMS, claim["name"], namespace=claim["namespace"], body=BODY)

    found = []
    for _ in range(TIMES):
        started = time.process_time()
        await asyncio.gather(*(write() for _ in range(WRITERS)))
        found.append(1000 * (time.process_time() - started) / (WRITERS * WRITES))
    return found


async def watch_ms(client: KubeClient) -> list[float]:
    """Per event; a new pod is two."""
    found = []
    for _ in range(TIMES):
        version = (await client.list(PODS)).resource_version
        started, seen = time.process_time(), 0
        making = asyncio.create_task(client.raw("POST", "/bench/pods", params={"count": str(NEW_PODS)}))
        async for _event in client.watch(PODS, resource_version=version):
            seen += 1
            if seen == 2 * NEW_PODS:
                break
        found.append(1000 * (time.process_time() - started) / seen)
        await making
    return found


async def measure() -> None:
    """Print both."""
    async with served(nodes=1, gpus=1) as client:
        await client.raw("POST", "/bench/pods", params={"count": "1"})
        for what, found in (("patch", await patch_ms(client)), ("event", await watch_ms(client))):
            print(what, *(f"{ms:.3f}" for ms in sorted(found)))


if __name__ == "__main__":
    asyncio.run(measure())
