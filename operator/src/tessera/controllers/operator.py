"""The operator: keys in, plans out, one writer.

kopf and the informers say which object moved; the work queue hands each key to `reconcile`, never two at a
time for one key; a pure function plans; the executor writes. Everything here is assembly. It runs only on the
replica that holds the Lease; the others wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tessera.api.errors import TesseraError
from tessera.api.reasons import Reason
from tessera.controllers import gpu_node, partition, training_job
from tessera.controllers.caches import Caches
from tessera.controllers.executor import Executor
from tessera.controllers.kopf_shell import run_kopf
from tessera.controllers.plan import Key, Plan, Terminal
from tessera.controllers.progress import ProgressPoller
from tessera.controllers.worker_pod import WorkerSettings
from tessera.kube.client import KubeClient
from tessera.kube.errors import ApiError, NotFound, Unreachable
from tessera.kube.events import EventRecorder
from tessera.kube.logging import about
from tessera.kube.resources import GPU_NODES, HETEROGENEOUS_TRAINING_JOBS, MIG_PARTITIONS, Resource
from tessera.kube.workqueue import WorkQueue
from tessera.metrics import registry as metrics

FLEET = Key(kind="Fleet", namespace=None, name="all")
"""No object: partitions and GPU nodes are to be looked at, because something that they depend on moved."""
FLEET_DELAY_SECONDS = 0.3
"""Many claims move at once; the fleet is looked at once after the burst."""
CONCURRENCY = 4
STUCK_SECONDS = 300.0
"""Every request to the API server has a limit of its own, far below this: what takes so long has stopped."""
WATCHED_BY_KOPF = (HETEROGENEOUS_TRAINING_JOBS, MIG_PARTITIONS, GPU_NODES)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class OperatorSettings:
    """Everything the operator is told at its start."""

    worker: WorkerSettings
    kubeconfig: Path | None = None
    """None: the pod's service account, else the default kubeconfig."""
    identity: str = "tessera-operator"
    """The pod's name; events carry it."""
    worker_port: int = 9090
    """Where workers answer ``/progress``."""
    poll_seconds: float = 5.0
    """Seconds between two questions to one worker."""
    resync_seconds: float = 60.0
    """Seconds between two looks at every object, in case a watch has lost something."""


class Operator:
    """One operator process, while it leads."""

    def __init__(
        self, client: KubeClient, settings: OperatorSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._settings = settings
        self._events = EventRecorder(client, component="operator", instance=settings.identity)
        self._executor = Executor(client, self._events)
        self._queue: WorkQueue[Key] = WorkQueue(
            worker=self._reconcile, concurrency=CONCURRENCY, name="operator", clock=clock
        )
        self._caches = Caches(client, on_job=self._queue.add, on_fleet=self._fleet_moved)
        self._poller = ProgressPoller(
            pods=self._caches.pods.items,
            on_change=lambda key: self._queue.add(_training_key(*key)),
            port=settings.worker_port,
            poll_seconds=settings.poll_seconds,
        )
        self._measured: set[tuple[str, str]] = set()
        self._refused: dict[str, str] = {}
        """Why the API server does not let us write a GPUNode, by its name."""
        self._running = False
        self._clock = clock
        self._resynced_at = clock()

    async def run(self) -> None:
        """Reconcile until cancelled.

        Raises:
            TesseraError: the API server did not give a first list in time, or kopf ended by itself.
        """
        try:
            await self._start_caches()
            self._resynced_at = self._clock()
            self._running = True
            async with asyncio.TaskGroup() as group:
                group.create_task(self._queue.run(), name="queue")
                group.create_task(self._poller.run(), name="progress")
                group.create_task(self._resync(), name="resync")
                group.create_task(
                    run_kopf(WATCHED_BY_KOPF, kubeconfig=self._settings.kubeconfig, on_seen=self._queue.add),
                    name="kopf",
                )
        finally:
            self._running = False
            await self._caches.stop()
            await self._events.flush()

    async def _start_caches(self) -> None:
        try:
            await self._caches.start()
        except TimeoutError as error:
            raise TesseraError(
                "the operator cannot begin",
                str(error),
                "Install or upgrade the CRDs (chart value crds.install, or kubectl apply -f crds/) and "
                "give the operator's account the rights of the chart",
            ) from error

    async def trouble(self) -> str | None:
        """Why this replica is not at work although it leads; None while all is well or while it waits."""
        return self._caches.trouble() if self._running else None

    async def stuck(self) -> str | None:
        """For `/healthz`: what has stopped, so that only a restart helps; None while all moves or it waits
        for the Lease. An API server that does not answer is no such thing: work on it fails and ends.
        """
        if not self._running:
            return None
        longest = self._queue.longest()
        if longest is not None and longest[1] > STUCK_SECONDS:
            return f"work on {longest[0]} has not ended for {longest[1]:.0f} s"
        silence = self._clock() - self._resynced_at - self._settings.resync_seconds
        return f"no look at every object for {silence:.0f} s" if silence > STUCK_SECONDS else None

    async def _resync(self) -> None:
        """Look at every object now and then: any event may be lost, also one that kopf should have heard."""
        while True:
            try:
                jobs = await self._client.list(HETEROGENEOUS_TRAINING_JOBS)
            except (ApiError, Unreachable) as error:
                _log.warning("the training jobs could not be listed: %s", error)
            else:
                for job in jobs.items:
                    self._queue.add(_training_key(job["metadata"]["namespace"], job["metadata"]["name"]))
            self._fleet_moved()
            self._resynced_at = self._clock()
            await asyncio.sleep(self._settings.resync_seconds)

    def _fleet_moved(self) -> None:
        if self._running:
            self._queue.add_after(FLEET, FLEET_DELAY_SECONDS)

    def _look_at_fleet(self) -> None:
        """Have every partition reconciled, and those GPU nodes whose spec would be another now: a request for
        each node of a large fleet, at each change of any, would be most of what the operator does.
        """
        for partition_object in self._caches.partitions.items():
            self._queue.add(_cluster_key(MIG_PARTITIONS, partition_object))
        for node in self._caches.gpu_nodes.items():
            if self._gpu_node_plan(node).children:
                self._queue.add(_cluster_key(GPU_NODES, node))

    async def _reconcile(self, key: Key) -> float | None:
        with metrics.timed(metrics.RECONCILE_SECONDS, key.kind):
            try:
                outcome, again = await self._once(key)
            except BaseException:
                metrics.RECONCILE_TOTAL.labels(key.kind, "error").inc()
                raise
        metrics.RECONCILE_TOTAL.labels(key.kind, outcome).inc()
        return again

    async def _once(self, key: Key) -> tuple[str, float | None]:
        if key == FLEET:
            self._look_at_fleet()
            return "ok", None
        resource = _RESOURCES[key.kind]
        try:
            # Fresh from the server: a stale copy would make a job's children twice.
            obj = await self._client.get(resource, key.name, key.namespace)
        except NotFound:
            self._forget(key)
            return "gone", None
        now = datetime.now(UTC)
        plan = self._plan(key, obj, now)
        try:
            await self._executor.carry_out(resource, obj, plan)
        except Terminal as error:
            level = logging.INFO if error.reason is Reason.DELETING else logging.WARNING
            _log.log(level, "%s: %s", key, error, extra=about(obj))
            plan = self._after_refusal(key, obj, error, now)
            await self._executor.carry_out(resource, obj, plan)
            return str(error.reason), plan.requeue_seconds
        self._measure(key, plan)
        if key.kind == gpu_node.KIND:
            self._note_refusal(key.name, None)
        return "ok", plan.requeue_seconds

    def _plan(self, key: Key, obj: Mapping[str, Any], now: datetime) -> Plan:
        if key.kind == training_job.KIND:
            assert key.namespace is not None
            progress = self._poller.progress((key.namespace, key.name))
            view = self._caches.training_view(key.namespace, key.name, progress)
            return training_job.reconcile(obj, view, settings=self._settings.worker, now=now)
        cluster = self._caches.cluster_view()
        if key.kind == partition.KIND:
            return partition.reconcile(obj, cluster, refused=self._refused, now=now)
        return self._gpu_node_plan(obj)

    def _gpu_node_plan(self, obj: Mapping[str, Any]) -> Plan:
        view = self._caches.cluster_view()
        own = view.gpus_by_node.get(obj["metadata"]["name"], ())
        return gpu_node.reconcile(obj, gpus=own, owners=view.owners)

    def _after_refusal(self, key: Key, obj: Mapping[str, Any], error: Terminal, now: datetime) -> Plan:
        if key.kind == training_job.KIND:
            return training_job.blocked(obj, error, now=now)
        self._note_refusal(key.name, error.message)
        return Plan(requeue_seconds=30.0)

    def _note_refusal(self, name: str, why: str | None) -> None:
        """Why a GPUNode could not be written, or that it could: its partitions tell it, which have the
        conditions.
        """
        if self._refused.get(name) == why:
            return
        if why is None:
            del self._refused[name]
        else:
            self._refused[name] = why
        self._fleet_moved()

    def _measure(self, key: Key, plan: Plan) -> None:
        progress = (plan.status or {}).get("progress")
        if key.kind != training_job.KIND or progress is None or key.namespace is None:
            return
        labels = (key.namespace, key.name)
        self._measured.add(labels)
        for gauge, field in (
            (metrics.TRAINING_STEP, "step"),
            (metrics.TRAINING_STEPS, "steps"),
            (metrics.TRAINING_LOSS, "loss"),
        ):
            if progress.get(field) is not None:
                gauge.labels(*labels).set(progress[field])

    def _forget(self, key: Key) -> None:
        if key.kind == gpu_node.KIND:
            self._note_refusal(key.name, None)
        labels = (key.namespace or "", key.name)
        if key.kind != training_job.KIND or labels not in self._measured:
            return
        self._measured.discard(labels)
        for gauge in (metrics.TRAINING_STEP, metrics.TRAINING_STEPS, metrics.TRAINING_LOSS):
            gauge.remove(*labels)


_RESOURCES: Mapping[str, Resource] = {
    training_job.KIND: HETEROGENEOUS_TRAINING_JOBS,
    partition.KIND: MIG_PARTITIONS,
    gpu_node.KIND: GPU_NODES,
}


def _cluster_key(resource: Resource, obj: Mapping[str, Any]) -> Key:
    return Key(kind=resource.kind, namespace=None, name=obj["metadata"]["name"])


def _training_key(namespace: str, name: str) -> Key:
    return Key(kind=training_job.KIND, namespace=namespace, name=name)
