"""The operator's read side: one informer per kind, and the views that reconcile functions get.

Nothing is listed during a reconciliation; every view is built from these copies. The view of all GPUs costs
more than the others, half a millisecond for each GPU: it is built once per change of anything it is made
from, and then only the GPUs of the nodes that the change is about are read again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tessera.api import names
from tessera.api.heterogeneous_training_job import Progress
from tessera.api.reasons import Reason
from tessera.controllers.gpu_view import GPU, gpus_of, results_of
from tessera.controllers.node_trouble import is_silent, node_trouble
from tessera.controllers.partition import ClusterView
from tessera.controllers.plan import Key
from tessera.controllers.selection import owners
from tessera.controllers.training_job import KIND as TRAINING_JOB_KIND
from tessera.controllers.training_view import TrainingView, lack_gpus
from tessera.kube.client import KubeClient
from tessera.kube.informer import Informer
from tessera.kube.resources import (
    GPU_NODES,
    JOBS,
    MIG_PARTITIONS,
    NODES,
    PODS,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
    Resource,
)

Object = dict[str, Any]
MANAGED = f"{names.MANAGED_BY_LABEL}={names.MANAGED_BY_VALUE}"
SYNC_SECONDS = 30.0
"""How long the first lists may take, all together, before the process gives up and is started anew."""
OWNER_INDEX = "training-job"
DEVICE_INDEX = "device"
NODE_INDEX = "node"

_log = logging.getLogger(__name__)


class Caches:
    """Copies of everything the operator looks at.

    `on_job(key)` is called when something of a training job moved, `on_fleet()` when GPUs, nodes, claims or
    partitions did.
    """

    def __init__(
        self, client: KubeClient, *, on_job: Callable[[Key], None], on_fleet: Callable[[], None]
    ) -> None:
        self._on_job = on_job
        self._on_fleet = on_fleet
        self._view: ClusterView | None = None
        self._gpus: dict[str, tuple[GPU, ...]] = {}
        self._moved: set[str] = set()
        """Nodes of which something has changed since `_gpus` was brought up to date."""

        def follow(
            resource: Resource, *, label_selector: str | None = None, field_selector: str | None = None
        ) -> Informer:
            return Informer(
                client,
                resource,
                label_selector=label_selector,
                field_selector=field_selector,
                on_change=self._changed(resource),
            )

        self.jobs = follow(JOBS, label_selector=MANAGED)
        self.pods = follow(PODS, label_selector=MANAGED)
        self.templates = follow(RESOURCE_CLAIM_TEMPLATES, label_selector=MANAGED)
        self.claims = follow(RESOURCE_CLAIMS)
        self.slices = follow(RESOURCE_SLICES, field_selector=f"spec.driver={names.DRIVER}")
        self.nodes = follow(NODES)
        self.gpu_nodes = follow(GPU_NODES)
        self.partitions = follow(MIG_PARTITIONS)
        for informer in (self.jobs, self.pods, self.templates, self.claims):
            informer.add_index(OWNER_INDEX, _training_job_of)
        self.slices.add_index(DEVICE_INDEX, _devices_of)
        for informer in (self.slices, self.claims):
            informer.add_index(NODE_INDEX, _NODES_OF[informer.resource])

    def informers(self) -> tuple[Informer, ...]:
        """All of them."""
        return (
            self.jobs,
            self.pods,
            self.templates,
            self.claims,
            self.slices,
            self.nodes,
            self.gpu_nodes,
            self.partitions,
        )

    async def start(self, *, limit_seconds: float = SYNC_SECONDS) -> None:
        """Begin to follow, and wait for the first complete lists.

        Raises:
            TimeoutError: a list did not come in time; the message says which and why.
        """
        for informer in self.informers():
            informer.start()
        await asyncio.gather(*(informer.wait_synced(limit_seconds) for informer in self.informers()))

    async def stop(self) -> None:
        """Stop following."""
        await asyncio.gather(*(informer.stop() for informer in self.informers()))

    def trouble(self) -> str | None:
        """Why the copies may be stale; None while all is well."""
        for informer in self.informers():
            if not informer.synced:
                return f"{informer.resource.plural} are not listed yet: {informer.last_error or 'no answer'}"
            if informer.last_error is not None:
                return informer.last_error
        return None

    def training_view(self, namespace: str, name: str, progress: Progress | None) -> TrainingView:
        """What surrounds one training job."""
        value = f"{namespace}/{name}"
        claims = self.claims.by_index(OWNER_INDEX, value)
        return TrainingView(
            job=self.jobs.get(name, namespace),
            template=self.templates.get(name, namespace),
            pods=self.pods.by_index(OWNER_INDEX, value),
            claims=claims,
            devices=self._devices(claims),
            prepare_failures=self._prepare_failures(claims),
            node_trouble=self._node_trouble(claims),
            progress=progress,
        )

    def cluster_view(self) -> ClusterView:
        """All nodes, GPUs and their owners; built anew only after a change."""
        if self._view is None:
            for name in self._moved:
                self._read_again(name)
            self._moved.clear()
            gpus = tuple(gpu for name in sorted(self._gpus) for gpu in self._gpus[name])
            nodes = self.nodes.items()
            self._view = ClusterView(
                nodes=nodes,
                gpu_nodes={node["metadata"]["name"]: node for node in self.gpu_nodes.items()},
                gpus=gpus,
                owners=owners(self.partitions.items(), nodes, gpus),
            )
        return self._view

    def _read_again(self, name: str) -> None:
        gpu_node = self.gpu_nodes.get(name)
        if gpu_node is None:
            self._gpus.pop(name, None)
            return
        slices, claims = (informer.by_index(NODE_INDEX, name) for informer in (self.slices, self.claims))
        try:
            self._gpus[name] = gpus_of([gpu_node], slices, claims)
        except (KeyError, ValueError) as error:  # what one node's agent writes must not stop the others
            _log.error(
                "the GPUs of node %s are left out until its agent reports what can be read: %r", name, error
            )
            self._gpus.pop(name, None)

    def _devices(self, claims: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Mapping[str, Any]]:
        found: dict[tuple[str, str], Mapping[str, Any]] = {}
        for claim in claims:
            for result in results_of(claim):
                pool, name = result["pool"], result["device"]
                for resource_slice in self.slices.by_index(DEVICE_INDEX, f"{pool}/{name}"):
                    for device in resource_slice["spec"].get("devices") or ():
                        if device["name"] == name:
                            found[pool, name] = device
        return found

    def _prepare_failures(self, claims: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        """Claim UID -> what the agents of its nodes say of their last try."""
        found: dict[str, str] = {}
        for claim in claims:
            for node in {result["pool"] for result in results_of(claim)}:
                for failure in _failures_of(self.gpu_nodes.get(node)):
                    if failure["claim"]["uid"] == claim["metadata"]["uid"]:
                        found[failure["claim"]["uid"]] = failure["message"]
        return found

    def _node_trouble(self, claims: Iterable[Mapping[str, Any]]) -> tuple[Reason, str] | None:
        """Looked for only where a claim finds no GPU at all: it goes through all nodes."""
        if not lack_gpus(claims):
            return None
        return node_trouble({node["metadata"]["name"]: node for node in self.gpu_nodes.items()})

    def _prepare_moved(self, node: Object | None, old: Object | None) -> None:
        """Look at the training jobs whose claims' failures came, went or read otherwise."""
        for one, other in ((node, old), (old, node)):
            known = _failures_of(other)
            for failure in _failures_of(one):
                named = failure["claim"]
                claim = self.claims.get(named["name"], named["namespace"]) if failure not in known else None
                if claim is not None:
                    self._job_moved(claim)

    def _job_moved(self, obj: Object) -> None:
        for value in _training_job_of(obj):
            namespace, _, name = value.partition("/")
            self._on_job(Key(kind=TRAINING_JOB_KIND, namespace=namespace, name=name))

    def _changed(self, resource: Resource) -> Callable[[str, Object, Object | None], None]:
        of_jobs = resource in (JOBS, PODS, RESOURCE_CLAIM_TEMPLATES, RESOURCE_CLAIMS)
        of_fleet = resource in (RESOURCE_CLAIMS, RESOURCE_SLICES, NODES, GPU_NODES, MIG_PARTITIONS)
        nodes_of = _NODES_OF.get(resource)

        def on_change(kind: str, obj: Object, old: Object | None) -> None:
            if of_jobs:
                self._job_moved(obj)
            if resource is GPU_NODES:
                self._prepare_moved(None if kind == "DELETED" else obj, old)
            if of_fleet and not (resource is NODES and kind == "MODIFIED" and _looks_the_same(obj, old)):
                self._view = None
                if nodes_of is not None:
                    self._moved.update(*(nodes_of(one) for one in (obj, old) if one is not None))
                self._on_fleet()

        return on_change


def _looks_the_same(node: Object, old: Object | None) -> bool:
    """A node's heartbeat changes it every few seconds; only its labels and its silence concern us."""
    if old is None or is_silent(node) != is_silent(old):
        return False
    return bool(node["metadata"].get("labels") == old["metadata"].get("labels"))


def _failures_of(node: Object | None) -> Sequence[Object]:
    return ((node or {}).get("status") or {}).get("prepareFailures") or ()


def _training_job_of(obj: Object) -> list[str]:
    metadata = obj["metadata"]
    name = (metadata.get("labels") or {}).get(names.TRAINING_JOB_LABEL)
    return [f"{metadata['namespace']}/{name}"] if name else []


def _devices_of(resource_slice: Object) -> list[str]:
    spec = resource_slice["spec"]
    return [f"{spec['pool']['name']}/{device['name']}" for device in spec.get("devices") or ()]


_NODES_OF: Mapping[Resource, Callable[[Object], list[str]]] = {
    GPU_NODES: lambda gpu_node: [gpu_node["metadata"]["name"]],
    RESOURCE_SLICES: lambda resource_slice: [resource_slice["spec"]["pool"]["name"]],
    RESOURCE_CLAIMS: lambda claim: [result["pool"] for result in results_of(claim)],
}
"""On which nodes' GPUs an object bears."""
