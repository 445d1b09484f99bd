"""What every arm goes through: a burst, churn, a plain pod behind unplaceable claims, a full cluster."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bench.scheduler_at_scale import measures
from bench.scheduler_at_scale.arms import Arm
from bench.scheduler_at_scale.cluster import FILL_LABEL, GPU_MODEL, BenchCluster, delete_all, ensure_namespace
from bench.scheduler_at_scale.load import IN_FLIGHT, Load
from bench.scheduler_at_scale.measures import Figures
from bench.scheduler_at_scale.readings import Reading, read
from bench.scheduler_at_scale.requests import MEMORY_SLICES, UNPLACEABLE, PodRequest, demand, draw, templates
from bench.scheduler_at_scale.watcher import PodWatcher, until_claims
from tessera.api import names
from tessera.gpu.device_names import decode
from tessera.gpu.profiles import Placement, model
from tessera.kube.client import KubeClient
from tessera.kube.errors import AlreadyExists
from tessera.kube.resources import JOBS, PODS, RESOURCE_CLAIM_TEMPLATES, RESOURCE_CLAIMS

NAMESPACE = "bench"
CLEAR_SECONDS = 600.0
WARM_UP_SECONDS = 300.0
QUIET_SECONDS = 10.0
LARGE_QUIET_SECONDS = 15.0
"""Longer, because the scheduler looks for the same move again only after ten seconds."""
LEAVING_SHARE = 0.25
LARGE = "3g.40gb"


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
        async with self._load() as (watcher, load):
            requests = draw(self._sizes.pods, prefix="burst", seed=self._seed)
            figures |= await self._burst(watcher, load, requests)
            if not self._arm.native:
                say("churn")
                figures |= await self._churn(watcher, load, requests)
        await self._clear()
        say("a plain pod behind unplaceable claims")
        figures |= await self._plain_pod()
        await self._clear()
        say("full cluster")
        figures |= await self._fill()
        await self._clear()
        return figures

    @asynccontextmanager
    async def _load(self) -> AsyncIterator[tuple[PodWatcher, Load]]:
        async with (
            PodWatcher(self._client, NAMESPACE) as watcher,
            Load(self._client, watcher, namespace=NAMESPACE, gated=self._arm.gated) as load,
        ):
            yield watcher, load

    async def _warm_up(self) -> None:
        """Until one pod is bound: everybody has listed the cluster, and the one who leads, leads."""
        async with self._load() as (watcher, load):
            request = PodRequest("warm-up", "1g.10gb")
            await load.post([request])
            if not await watcher.wait_bound([request.name], until=time.monotonic() + WARM_UP_SECONDS):
                raise RuntimeError(f"{self._arm.name}: a first pod was not bound in {WARM_UP_SECONDS:.0f} s")
        await self._clear()

    async def _burst(self, watcher: PodWatcher, load: Load, requests: list[PodRequest]) -> Figures:
        await load.prepare(requests)
        wanted = [request.name for request in requests]
        before = await self._read()
        began = time.monotonic()
        cut = began + (self._sizes.native_cut if self._arm.native else self._sizes.limit)
        posting = asyncio.create_task(load.post(requests))
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

    async def _churn(self, watcher: PodWatcher, load: Load, there: list[PodRequest]) -> Figures:
        """Bound pods go and others of the mix come, with 50 under way, on top of what the burst has left."""
        leaving = load.bound(there)
        random.Random(self._seed).shuffle(leaving)
        arriving = draw(self._sizes.churn_pods, prefix="churn", seed=self._seed + 1)
        await load.prepare(arriving)
        queue = list(zip(arriving, leaving, strict=False))
        wanted = [request.name for request, _ in queue]
        began = time.monotonic()
        until = began + self._sizes.limit

        async def worker() -> None:
            while queue and time.monotonic() < until:
                request, old = queue.pop()
                await load.leave(old)
                await load.post([request])
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
        async with self._load() as (watcher, load):
            blocked = [PodRequest(f"blocked-{number}", None) for number in range(self._sizes.blocked)]
            await load.post(blocked, template=UNPLACEABLE)
            await until_claims(self._client, NAMESPACE, len(blocked), seconds=CLEAR_SECONDS)
            plain = PodRequest("plain", None)
            await load.post([plain])
            until = watcher.posted["plain"] + self._sizes.plain_limit
            if not await watcher.wait_bound(["plain"], until=until):
                return {"plain_pod_seconds": None, "plain_pod_bound": 0}
            return {"plain_pod_seconds": watcher.latencies(["plain"])[0], "plain_pod_bound": 1}

    async def _fill(self) -> Figures:
        """More is asked of some nodes than they have; what is granted once nothing moves any more. Then the
        waiting pods give up, a quarter of the others leave, anywhere, and large pods ask for that much room.
        """
        room = self._cluster.fill_nodes * self._cluster.gpus * model(GPU_MODEL).memory_slices
        requests = demand(round(room * self._sizes.overload), prefix="fill", seed=self._seed + 2)
        limit = self._sizes.native_fill_limit if self._arm.native else self._sizes.limit
        before = await self._read()
        async with self._load() as (watcher, load):
            await load.prepare(requests)
            until = time.monotonic() + limit
            await load.post(requests, selector={FILL_LABEL: "true"})
            wanted = [request.name for request in requests]
            await watcher.wait_bound(wanted, until=until, quiet_seconds=QUIET_SECONDS)
            granted = sum(request.memory_slices for request in load.bound(requests))
            large = None if self._arm.native else await self._large(watcher, load, requests, until=until)
            replaced = load.replacements
        moves = (await self._read()).moves - before.moves
        return {
            "slice_acceptance_pct": 100 * granted / sum(request.memory_slices for request in requests),
            "filled_pct": 100 * granted / room,
            "large_pct": large,
            "moves": float(moves["moved"] + moves["elsewhere"]),
            **{f"moves_{outcome}": float(count) for outcome, count in moves.items()},
            "replacements": float(len(replaced)),
            "replacements_bound": float(sum(name in watcher.bound for name in replaced)),
            "fill_cut": float(time.monotonic() >= until),
            "fill_overlaps": await self._overlaps(),
        }

    async def _large(
        self, watcher: PodWatcher, load: Load, requests: list[PodRequest], *, until: float
    ) -> float:
        """Per cent of the large pods that are placed: free room lies in pieces, which moves put together."""
        bound = load.bound(requests)
        leaving = random.Random(self._seed).sample(bound, round(LEAVING_SHARE * len(bound)))
        freed = sum(request.memory_slices for request in leaving)
        waiting = [request for request in requests if request not in bound]
        count = max(1, freed // MEMORY_SLICES[LARGE])  # In a small cluster few small ones may leave.
        large = [PodRequest(f"large-{n}", LARGE, job="large", index=n) for n in range(count)]
        await load.prepare(large)
        await asyncio.gather(*(load.leave(request) for request in (*waiting, *leaving)))
        await load.post(large, selector={FILL_LABEL: "true"})
        wanted = [request.name for request in large]
        await watcher.wait_bound(wanted, until=until, quiet_seconds=LARGE_QUIET_SECONDS)
        return 100 * len(load.bound(large)) / len(large)

    # The cluster.

    async def _read(self) -> Reading:
        return await read(self._cluster, self._client, allocator_port=self._port)

    async def _overlaps(self) -> int:
        board = model(GPU_MODEL)
        found = []
        # Of all namespaces: the placeholders of moves hold places too.
        for claim in (await self._client.list(RESOURCE_CLAIMS)).items:
            allocation = (claim.get("status") or {}).get("allocation") or {"devices": {"results": []}}
            for result in allocation["devices"]["results"]:
                device = decode(result["device"])
                mask = Placement(board.profile(device.profile), device.start).mask
                found.append((result["pool"], device.gpu, mask))
        return measures.overlapping(found)

    async def _clear(self) -> None:
        await clear(self._client)


async def clear(client: KubeClient) -> None:
    """Deletes all pods of a run and waits until their claims are gone too, and the places that are held for
    those which were moved.
    """
    await delete_all(client, PODS, NAMESPACE)
    await delete_all(client, JOBS, NAMESPACE)
    await until_claims(client, NAMESPACE, 0, seconds=CLEAR_SECONDS)
    await delete_all(client, RESOURCE_CLAIMS, names.SYSTEM_NAMESPACE)
    await until_claims(client, names.SYSTEM_NAMESPACE, 0, seconds=CLEAR_SECONDS)
    assert not (await client.list(PODS, NAMESPACE)).items, "deleted without grace"


def _usage(before: Reading, after: Reading, *, pods: int) -> Figures:
    return measures.usage(
        cpu=(before.cpu_seconds, after.cpu_seconds),
        rss_mib=after.rss_mib,
        server=(before.server_writes, after.server_writes),
        own=(before.own_writes, after.own_writes),
        pods=pods,
    )
