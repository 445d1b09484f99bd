"""What the scheduler itself costs: processor time per round and per pod, without an API server to wait for.

`PYTHONPATH=tests python -m bench.scheduler_rounds.main` prints one JSON object. The whole process runs
(election, informers, rounds, writes) against objects in memory (`api_in_memory`), on a cluster of 1,000 nodes
with 8 GPUs in which 0, 1,000 and 5,000 pods are bound:

- `quiet_round_ms`: a round in which one bound pod was touched, and nothing is to be done;
- `lone_pod_ms`, `lone_pod_rounds`: one new pod, until it is bound;
- `burst_pod_ms`: per pod, when 1,000 come at once.

All times are processor time of the process in milliseconds, the store's own included. HTTP, TLS and JSON
are not: `--wire` puts the store behind HTTPS into a process of its own (`api_over_http`), and counts the
scheduler's time.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import platform
import statistics
import sys
import time
from typing import Any

from background import in_background
from bench.scheduler_rounds.api_in_memory import NAMESPACE, Store, StoreClient
from bench.scheduler_rounds.api_over_http import served
from tessera.kube.client import KubeClient
from tessera.kube.resources import PODS
from tessera.scheduler.loop import Scheduler, Settings
from tessera.scheduler.planner import Planner

SETTINGS = Settings(
    lease_namespace="tessera-system",
    identity="bench",
    settle_seconds=0.0,
    # Older versions read thousands of GPUs in one piece, longer than the Lease lasts.
    lease_seconds=600.0,
    renew_deadline_seconds=500.0,
)
QUIET_ROUNDS = 20
LONE_PODS = 20
BURST = 1_000


class Rounds:
    """Counts the rounds of a planner's class."""

    def __init__(self) -> None:
        self.count = 0
        self._another = asyncio.Event()
        plan = Planner.plan

        def counted(planner: Planner, snapshot: Any) -> Any:
            self.count += 1
            self._another.set()
            return plan(planner, snapshot)

        Planner.plan = counted  # type: ignore[method-assign, assignment]

    async def next(self) -> None:
        """Wait until another round plans."""
        self._another.clear()
        await asyncio.wait_for(self._another.wait(), 60)


async def _bound(store: Store) -> None:
    await asyncio.wait_for(store.all_bound.wait(), 600)


async def _until_quiet(rounds: Rounds) -> None:
    """The last events have led to their rounds: no round for a while."""
    while True:
        before = rounds.count
        await asyncio.sleep(0.3)
        if rounds.count == before:
            return


async def measure(store: Store, rounds: Rounds, *, bound: int) -> dict[str, Any]:
    """All figures with this many pods bound."""
    if bound:
        store.add_pods(bound)
        await _bound(store)
    await _until_quiet(rounds)
    gc.collect()
    quiet = []
    for _ in range(QUIET_ROUNDS):
        if not bound:
            break
        key, obj = next(iter(store.of(PODS).items()))
        began, started = rounds.count, time.process_time()
        store.put(PODS, obj)
        await rounds.next()
        await asyncio.sleep(0.05)
        quiet.append(1000 * (time.process_time() - started) / (rounds.count - began))
        assert key[0] == NAMESPACE
    lone, lone_rounds = [], []
    for _ in range(LONE_PODS):
        await _until_quiet(rounds)
        began, started = rounds.count, time.process_time()
        store.add_pods(1)
        await _bound(store)
        await asyncio.sleep(0.1)
        lone.append(1000 * (time.process_time() - started))
        lone_rounds.append(rounds.count - began)
    await _until_quiet(rounds)
    began, started, at = rounds.count, time.process_time(), time.perf_counter()
    store.add_pods(BURST)
    await _bound(store)
    elapsed = time.perf_counter() - at
    await _until_quiet(rounds)
    burst = 1000 * (time.process_time() - started) / BURST
    return {
        "bound": bound,
        "quiet_round_ms": _spread(quiet),
        "lone_pod_ms": _spread(lone),
        "lone_pod_rounds": statistics.median(lone_rounds),
        "burst_pod_ms": round(burst, 3),
        "burst_rounds": rounds.count - began,
        "burst_pods_per_second": round(BURST / elapsed, 1),
    }


def _spread(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    ordered = sorted(values)
    return {
        "median": round(statistics.median(ordered), 3),
        "min": round(ordered[0], 3),
        "max": round(ordered[-1], 3),
    }


async def run_over_http(rounds: Rounds, *, nodes: int, gpus: int, bursts: int) -> dict[str, Any]:
    """Bursts of 1,000 pods, with HTTP, TLS and JSON; the server is a process of its own."""
    per_pod, rates, writes, events = [], [], [], []
    async with served(nodes=nodes, gpus=gpus) as client, in_background(Scheduler(client, SETTINGS).run()):
        await client.raw("POST", "/bench/pods", params={"count": "1"})
        told = await _bound_over_http(client)
        for _ in range(bursts):
            await _until_quiet(rounds)
            started, at = time.process_time(), time.perf_counter()
            await client.raw("POST", "/bench/pods", params={"count": str(BURST)})
            before, told = told, await _bound_over_http(client)
            rates.append(BURST / (time.perf_counter() - at))
            await _until_quiet(rounds)
            per_pod.append(1000 * (time.process_time() - started) / BURST)
            writes.append((told["writes"] - before["writes"]) / BURST)
        told = await _bound_over_http(client)
        events.append(told["events"] / (BURST * bursts + 1))
    return {
        "nodes": nodes,
        "cpu_ms_per_pod": _spread(per_pod),
        "pods_per_second": _spread(rates),
        "writes_per_pod": _spread(writes),
        "events_per_pod": _spread(events),
    }


async def _bound_over_http(client: KubeClient) -> dict[str, int]:
    # A 503 is asked again by the client itself, six times in all.
    return dict(await client.raw("GET", "/bench/bound"))


async def run(rounds: Rounds, *, nodes: int, gpus: int, bound: int) -> dict[str, Any]:
    """One cluster and one scheduler from the beginning."""
    store = Store()
    store.add_nodes(nodes, gpus=gpus)
    scheduler = Scheduler(StoreClient(store), SETTINGS)
    task = asyncio.create_task(scheduler.run())
    try:
        store.add_pods(1)
        await _bound(store)
        return await measure(store, rounds, bound=bound)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def main() -> None:
    """Print the results with their conditions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--gpus", type=int, default=8, help="of each node")
    parser.add_argument("--wire", action="store_true", help="bursts over HTTP instead")
    parser.add_argument("--bursts", type=int, default=5, help="of 1,000 pods, with --wire")
    parser.add_argument("--bound", type=int, nargs="+", default=[0, 1_000, 5_000])
    options = parser.parse_args()
    logging.disable(logging.INFO)
    rounds = Rounds()
    if options.wire:
        over_http = run_over_http(rounds, nodes=options.nodes, gpus=options.gpus, bursts=options.bursts)
        results = [asyncio.run(over_http)]
    else:
        results = [
            asyncio.run(run(rounds, nodes=options.nodes, gpus=options.gpus, bound=bound))
            for bound in options.bound
        ]
    conditions = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "nodes": options.nodes,
        "gpus_per_node": options.gpus,
    }
    json.dump({"conditions": conditions, "results": results}, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
