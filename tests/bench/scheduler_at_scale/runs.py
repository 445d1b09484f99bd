"""What every arm goes through: a burst, churn, a plain pod behind unplaceable claims, a full cluster."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.scheduler_at_scale import measures
from bench.scheduler_at_scale.arms import Arm
from bench.scheduler_at_scale.cluster import FILL_LABEL, GPU_MODEL, BenchCluster, delete_all, ensure_namespace
from bench.scheduler_at_scale.measures import Figures
from bench.scheduler_at_scale.readings import Reading, read
from bench.scheduler_at_scale.requests import UNPLACEABLE, PodRequest, demand, draw, pod, templates
from bench.scheduler_at_scale.watcher import PodWatcher, until_claims
from tessera.gpu.device_names import decode
from tessera.gpu.profiles import Placement, model
from tessera.kube.client import KubeClient
from tessera.kube.errors import AlreadyExists
from tessera.kube.resources import PODS, RESOURCE_CLAIM_TEMPLATES, RESOURCE_CLAIMS

NAMESPACE = "bench"
IN_FLIGHT = 50
CLEAR_SECONDS = 600.0
WARM_UP_SECONDS = 120.0
QUIET_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is asked for; times in seconds.

    `overload`: memory slices asked for on the nodes of the fill run, per slice that they have.
    """

    pods: int
    churn_pods: int
    blocked: int
    overload: float
    native_cut: float
    limit: float
    plain_limit: float = 30.0
    native_fill_limit: float = 120.0


class ArmRun:
    """One arm, once, on a cluster that is set up for it."""

    def __init__(
        self,
        cluster: BenchCluster,
        client: KubeClient,
        arm: Arm,
        sizes: Sizes,
        *,
        port: int | None,
        seed: int,
    ) -> None:
        self._cluster = cluster
        self._client = client
        self._arm = arm
        self._sizes = sizes
        self._port = port
        self._seed = seed
        self._slots = asyncio.Semaphore(IN_FLIGHT)

    async def run(self, say: Callable[[str], None]) -> Figures:
        """All runs in turn; the namespace is empty afterwards."""
        await ensure_namespace(self._client, NAMESPACE)
        for template in templates():
            try:
                await self._client.create(RESOURCE_CLAIM_TEMPLATES, template, namespace=NAMESPACE)
            except AlreadyExists:
                continue
        await self._warm_up()
        figures: Figures = {"load_average": os.getloadavg()[0]}
        say("burst")
        async with PodWatcher(self._client, NAMESPACE) as watcher:
            figures |= await self._burst(watcher)
            if not self._arm.native:
                say("churn")
                figures |= await self._churn(watcher)
        await self._clear()
        say("a plain pod behind unplaceable claims")
        figures |= await self._plain_pod()
        await self._clear()
        say("full cluster")
        figures |= await self._fill()
        await self._clear()
        return figures

    async def _warm_up(self) -> None:
        """Until one pod is bound: everybody has listed the cluster, and the one who leads, leads."""
        async with PodWatcher(self._client, NAMESPACE) as watcher:
            request = PodRequest("warm-up", "1g.10gb")
            await self._post(watcher, [request])
            if not await watcher.wait_bound([request.name], until=time.monotonic() + WARM_UP_SECONDS):
                raise RuntimeError(f"{self._arm.name}: a first pod was not bound in {WARM_UP_SECONDS:.0f} s")
        await self._clear()

    async def _burst(self, watcher: PodWatcher) -> Figures:
        requests = draw(self._sizes.pods, prefix="burst", seed=self._seed)
        wanted = [request.name for request in requests]
        before = await self._read()
        began = time.monotonic()
        cut = began + (self._sizes.native_cut if self._arm.native else self._sizes.limit)
        posting = asyncio.create_task(self._post(watcher, requests))
        complete = await watcher.wait_bound(wanted, until=cut)
        bound = [watcher.bound[name] for name in wanted if name in watcher.bound]
        latencies = watcher.latencies(wanted)
        after = await self._read()
        await posting
        return {
            "bound": len(bound),
            "pods_per_second": measures.rate(bound, began=began, cut_at=None if complete else cut),
            "p50_seconds": measures.percentile(latencies, 0.5),
            "p99_seconds": measures.percentile(latencies, 0.99),
            "overlaps": await self._overlaps(),
            **_usage(before, after, pods=len(bound)),
        }

    async def _churn(self, watcher: PodWatcher) -> Figures:
        """Bound pods go and others of the mix come, with 50 under way, on top of what the burst has left."""
        dice = random.Random(self._seed)
        leaving = [name for name in watcher.bound if name.startswith("burst-")]
        dice.shuffle(leaving)
        arriving = draw(self._sizes.churn_pods, prefix="churn", seed=self._seed + 1)
        queue = list(zip(arriving, leaving, strict=False))
        wanted = [request.name for request, _ in queue]
        began = time.monotonic()
        until = began + self._sizes.limit

        async def worker() -> None:
            while queue and time.monotonic() < until:
                request, old = queue.pop()
                await self._client.delete(PODS, old, namespace=NAMESPACE, grace_seconds=0)
                await self._post(watcher, [request])
                await watcher.wait_bound([request.name], until=until)

        await asyncio.gather(*(worker() for _ in range(min(IN_FLIGHT, len(queue)))))
        complete = all(name in watcher.bound for name in wanted)
        bound = [watcher.bound[name] for name in wanted if name in watcher.bound]
        latencies = watcher.latencies(wanted)
        return {
            "churn_bound": len(bound),
            "churn_pods_per_second": measures.rate(bound, began=began, cut_at=None if complete else until),
            "churn_p50_seconds": measures.percentile(latencies, 0.5),
            "churn_p99_seconds": measures.percentile(latencies, 0.99),
            "churn_overlaps": await self._overlaps(),
        }

    async def _plain_pod(self) -> Figures:
        """Seconds to bind for a pod without a claim that comes after pods which no device can serve."""
        async with PodWatcher(self._client, NAMESPACE) as watcher:
            blocked = [PodRequest(f"blocked-{number}", None) for number in range(self._sizes.blocked)]
            await self._post(watcher, blocked, template=UNPLACEABLE)
            await self._until_claims(len(blocked))
            plain = PodRequest("plain", None)
            await self._post(watcher, [plain])
            until = watcher.posted["plain"] + self._sizes.plain_limit
            if not await watcher.wait_bound(["plain"], until=until):
                return {"plain_pod_seconds": None, "plain_pod_bound": 0}
            return {"plain_pod_seconds": watcher.latencies(["plain"])[0], "plain_pod_bound": 1}

    async def _fill(self) -> Figures:
        """More is asked of some nodes than they have; what is granted once nothing moves any more."""
        room = self._cluster.fill_nodes * self._cluster.gpus * model(GPU_MODEL).memory_slices
        requests = demand(round(room * self._sizes.overload), prefix="fill", seed=self._seed + 2)
        limit = self._sizes.native_fill_limit if self._arm.native else self._sizes.limit
        async with PodWatcher(self._client, NAMESPACE) as watcher:
            until = time.monotonic() + limit
            await self._post(watcher, requests, selector={FILL_LABEL: "true"})
            names_ = [request.name for request in requests]
            await watcher.wait_bound(names_, until=until, quiet_seconds=QUIET_SECONDS)
            granted = sum(request.memory_slices for request in requests if request.name in watcher.bound)
        return {
            "slice_acceptance_pct": 100 * granted / sum(request.memory_slices for request in requests),
            "filled_pct": 100 * granted / room,
            "fill_cut": float(time.monotonic() >= until),
            "fill_overlaps": await self._overlaps(),
        }

    # The cluster.

    async def _post(
        self,
        watcher: PodWatcher,
        requests: Sequence[PodRequest],
        *,
        template: str | None = None,
        selector: dict[str, str] | None = None,
    ) -> None:
        async def post(request: PodRequest) -> None:
            body = pod(request, gated=self._arm.gated, template=template, selector=selector)
            async with self._slots:
                watcher.posting(request.name)
                await self._client.create(PODS, body, namespace=NAMESPACE)

        await asyncio.gather(*(post(request) for request in requests))

    async def _read(self) -> Reading:
        return await read(self._cluster, self._client, allocator_port=self._port)

    async def _overlaps(self) -> int:
        board = model(GPU_MODEL)
        found = []
        for claim in (await self._client.list(RESOURCE_CLAIMS, NAMESPACE)).items:
            allocation = (claim.get("status") or {}).get("allocation") or {"devices": {"results": []}}
            for result in allocation["devices"]["results"]:
                device = decode(result["device"])
                mask = Placement(board.profile(device.profile), device.start).mask
                found.append((result["pool"], device.gpu, mask))
        return measures.overlapping(found)

    async def _until_claims(self, count: int) -> None:
        await until_claims(self._client, NAMESPACE, count, seconds=CLEAR_SECONDS)

    async def _clear(self) -> None:
        """Deletes all pods of the run and waits until their claims are gone too."""
        await delete_all(self._client, PODS, NAMESPACE)
        await self._until_claims(0)
        assert not (await self._client.list(PODS, NAMESPACE)).items, "deleted without grace"


def _usage(before: Reading, after: Reading, *, pods: int) -> Figures:
    return measures.usage(
        cpu=(before.cpu_seconds, after.cpu_seconds),
        rss_mib=after.rss_mib,
        server=(before.server_writes, after.server_writes),
        own=(before.own_writes, after.own_writes),
        pods=pods,
    )
