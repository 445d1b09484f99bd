"""The simplest external allocator that works: first fit, nothing else. The ceiling of this path on a machine.

It sees a waiting pod, takes the first device that is free, writes allocation and `reservedFor` in one patch
and removes the gate. It knows no node filters, no priorities, no taking back, no events, no election; what a
real allocator loses against it is the price of those.

    python -m bench.scheduler_at_scale.trivial_allocator --kubeconfig FILE --port N
"""

from __future__ import annotations

import argparse
import asyncio
import re
from datetime import UTC, datetime
from typing import Any

from bench.scheduler_at_scale.first_fit import FirstFit
from tessera.api import names
from tessera.kube.client import KubeClient
from tessera.kube.errors import Invalid, NotFound
from tessera.kube.informer import Informer
from tessera.kube.resources import PODS, RESOURCE_CLAIMS, RESOURCE_SLICES
from tessera.metrics.server import start_server

Object = dict[str, Any]
Key = tuple[str, str]
PROFILE = re.compile(r'profile == "([^"]+)"')
CONCURRENT_PODS = 16


class Trivial:
    """Serves pods with one claim from a template, in the order in which they become complete."""

    def __init__(self, client: KubeClient, devices: FirstFit) -> None:
        self._client = client
        self._devices = devices
        self._held: dict[str, tuple[str, str]] = {}
        self._full: dict[Key, None] = {}
        self._queue: asyncio.Queue[Key] = asyncio.Queue()
        self._queued: set[Key] = set()
        self.pods = Informer(client, PODS, on_change=lambda _, obj, __: self._look(obj))
        self.claims = Informer(client, RESOURCE_CLAIMS, on_change=self._claim_changed)

    async def run(self) -> None:
        """Returns only by cancellation."""
        for informer in (self.claims, self.pods):
            informer.start()
            await informer.wait_synced(30)
        await asyncio.gather(*(self._work() for _ in range(CONCURRENT_PODS)))

    def _look(self, pod: Object) -> None:
        key = (pod["metadata"]["namespace"], pod["metadata"]["name"])
        waits = pod["spec"].get("resourceClaims") and not pod["spec"].get("nodeName")
        if waits and (pod.get("status") or {}).get("resourceClaimStatuses") and key not in self._queued:
            self._queued.add(key)
            self._queue.put_nowait(key)

    def _claim_changed(self, kind: str, claim: Object, old: Object | None) -> None:
        gone = kind == "DELETED" or (old is not None and _allocation(old) and not _allocation(claim))
        held = self._held.pop(claim["metadata"]["uid"], None) if gone else None
        if held:
            self._devices.give_back(*held)
            for key in self._full:
                self._queue.put_nowait(key)
            self._full.clear()
        if kind == "ADDED":
            owner = next(iter(claim["metadata"].get("ownerReferences") or ()), None)
            pod = self.pods.get(owner["name"], claim["metadata"]["namespace"]) if owner else None
            if pod:
                self._look(pod)

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            try:
                await self._serve(key)
            except (NotFound, Invalid):
                # The pod is gone, or its claim is on the way: that may not be allocated any more.
                self._queued.discard(key)

    async def _serve(self, key: Key) -> None:
        pod = self.pods.get(key[1], key[0])
        named = pod["status"]["resourceClaimStatuses"][0]["resourceClaimName"] if pod else ""
        claim = self.claims.get(named, key[0])
        # What was just written may not have come back yet.
        if pod is None or claim is None or _allocation(claim) or claim["metadata"]["uid"] in self._held:
            self._queued.discard(key)
            return
        request = claim["spec"]["devices"]["requests"][0]
        wanted = PROFILE.search(request["exactly"]["selectors"][0]["cel"]["expression"])
        place = self._devices.take(wanted[1]) if wanted else None
        if place is None:
            self._full[key] = None
            return
        self._held[claim["metadata"]["uid"]] = place
        user = {"resource": "pods", "name": key[1], "uid": pod["metadata"]["uid"]}
        status = {"allocation": _allocate(request["name"], *place), "reservedFor": [user]}
        await self._client.patch(
            RESOURCE_CLAIMS, named, namespace=key[0], body={"status": status}, subresource="status"
        )
        if pod["spec"].get("schedulingGates"):
            ungate = [{"op": "remove", "path": "/spec/schedulingGates/0"}]
            await self._client.patch(PODS, key[1], namespace=key[0], body=ungate, kind="json")
        self._queued.discard(key)


def _allocation(claim: Object) -> Any:
    return (claim.get("status") or {}).get("allocation")


def _allocate(request: str, pool: str, device: str) -> Object:
    only = {"key": "metadata.name", "operator": "In", "values": [pool]}
    return {
        "allocationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "devices": {
            "results": [{"request": request, "driver": names.DRIVER, "pool": pool, "device": device}]
        },
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [only]}]},
    }


async def serve(kubeconfig: str, port: int) -> None:
    """Allocate until killed; `/metrics` counts the requests."""
    async with await KubeClient.connect(kubeconfig=kubeconfig, user_agent="trivial") as client:
        devices = FirstFit((await client.list(RESOURCE_SLICES)).items)
        await start_server(port)
        await Trivial(client, devices).run()


def main() -> None:
    """Run it as a process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kubeconfig", required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    asyncio.run(serve(options.kubeconfig, options.port))


if __name__ == "__main__":
    main()
