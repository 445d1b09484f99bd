"""The API server's side of `scheduler_rounds`: objects, watches, and what others do with a pod, at once.

As cheap as possible, because its time is counted too: objects are never copied deeply, nothing is validated,
and kube-controller-manager, kube-scheduler and the kubelet are a few lines. The objects have the size of real
ones, with their managed fields.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator
from typing import Any

from bench.scheduler_at_scale.cluster import simulated_gpus
from bench.scheduler_at_scale.requests import draw, pod, template_name, templates
from tessera.agent.devices import Owner, slices_for
from tessera.api import names
from tessera.kube.client import KubeClient, ObjectList, WatchEvent
from tessera.kube.errors import NotFound
from tessera.kube.resources import EVENTS, LEASES, NODES, PODS, RESOURCE_CLAIMS, RESOURCE_SLICES, Resource

Object = dict[str, Any]
Key = tuple[str, str]
NAMESPACE = "bench"
CPU_OF_NODE, MEMORY_OF_NODE, PODS_OF_NODE = "128", "1Ti", "250"
SPECS = {t["metadata"]["name"]: t["spec"]["spec"] for t in templates()}
MANAGED: list[Object] = [
    {
        "manager": manager,
        "operation": "Update",
        "apiVersion": "v1",
        "time": "2026-11-21T12:00:00Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:spec": {f'k:{{"name":"{n}"}}': {".": {}, f"f:{n}": {}} for n in range(12)}},
    }
    for manager in ("kube-controller-manager", "bench")
]


class Store:
    """All objects by resource, and the queues of those who watch them."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[Key, Object]] = {}
        self.watchers: dict[str, list[asyncio.Queue[tuple[str, Object]]]] = {}
        self.unbound: set[Key] = set()
        self.all_bound = asyncio.Event()
        self.writes = 0
        self.events = 0
        self._versions = itertools.count(1)
        self._pods = itertools.count()

    # The API.

    @property
    def version(self) -> str:
        """Newer than everything that is there."""
        return str(next(self._versions))

    def of(self, resource: Resource) -> dict[Key, Object]:
        """The objects of a resource."""
        return self.objects.setdefault(resource.plural, {})

    def put(self, resource: Resource, obj: Object) -> Object:
        """Store a new version, and tell it."""
        metadata = {"uid": str(uuid.uuid4()), "managedFields": MANAGED} | obj["metadata"]
        obj = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            **obj,
            "metadata": metadata | {"resourceVersion": self.version},
        }
        key = (metadata.get("namespace", ""), metadata["name"])
        kind = "MODIFIED" if key in self.of(resource) else "ADDED"
        self.of(resource)[key] = obj
        for queue in self.watchers.get(resource.plural, ()):
            queue.put_nowait((kind, obj))
        return obj

    def remove(self, resource: Resource, key: Key) -> None:
        """Delete an object, and tell it."""
        obj = self.of(resource).pop(key)
        for queue in self.watchers.get(resource.plural, ()):
            queue.put_nowait(("DELETED", obj))

    def patch(self, resource: Resource, key: Key, body: Any) -> Object:
        """The patches that a scheduler sends: the status of a claim, or one gate less."""
        old = self.of(resource).get(key)
        if old is None:
            raise NotFound(404, "NotFound", f"{resource.plural} {key} not found")
        self.writes += 1
        if resource is RESOURCE_CLAIMS:
            if "status" in body:
                return self.put(resource, {**old, "status": body["status"]})
            return self.put(resource, {**old, "metadata": {**old["metadata"], **body["metadata"]}})
        new = self.put(resource, {**old, "spec": {**old["spec"], "schedulingGates": []}})
        asyncio.get_running_loop().call_soon(self._bind, key)
        return new

    # Everybody else.

    def add_nodes(self, count: int, *, gpus: int) -> None:
        """Ready nodes with their published GPUs."""
        for number in range(count):
            name = f"node-{number:04}"
            status = {
                "allocatable": {"cpu": CPU_OF_NODE, "memory": MEMORY_OF_NODE, "pods": PODS_OF_NODE},
                "conditions": [{"type": "Ready", "status": "True"}],
            }
            labels = {"kubernetes.io/os": "linux"}
            made = self.put(NODES, {"metadata": {"name": name, "labels": labels}, "status": status})
            owner = Owner(name, made["metadata"]["uid"])
            for at, item in enumerate(slices_for(owner, simulated_gpus(name, gpus), generation=1)):
                item["metadata"].setdefault("name", f"{name}-{at}")
                self.put(RESOURCE_SLICES, item)

    def add_pods(self, count: int) -> None:
        """Gated pods of the mix, with their claims."""
        first = next(self._pods)
        for request in draw(count, prefix=f"p{first}", seed=first):
            assert request.profile is not None
            body = pod(request, gated=True)
            body["metadata"] |= {"namespace": NAMESPACE, "creationTimestamp": "2026-11-21T12:00:00Z"}
            made = self.put(PODS, body | {"status": {"phase": "Pending"}})
            key = (NAMESPACE, request.name)
            self.unbound.add(key)
            owner = {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": request.name,
                "uid": made["metadata"]["uid"],
                "controller": True,
            }
            claim = f"{request.name}-slice-x"
            self.put(
                RESOURCE_CLAIMS,
                {
                    "metadata": {
                        "name": claim,
                        "namespace": NAMESPACE,
                        "finalizers": [names.CLAIM_FINALIZER],
                        "ownerReferences": [owner],
                    },
                    "spec": SPECS[template_name(request.profile)],
                },
            )
            status = {"name": names.POD_CLAIM_NAME, "resourceClaimName": claim}
            self.put(
                PODS, self.of(PODS)[key] | {"status": {"phase": "Pending", "resourceClaimStatuses": [status]}}
            )
        self.all_bound.clear()

    def _bind(self, key: Key) -> None:
        ungated = self.of(PODS)[key]
        claim = self.of(RESOURCE_CLAIMS)[NAMESPACE, f"{key[1]}-slice-x"]
        node = claim["status"]["allocation"]["devices"]["results"][0]["pool"]
        bound = self.put(PODS, {**ungated, "spec": {**ungated["spec"], "nodeName": node}})
        self.put(PODS, {**bound, "status": {**bound["status"], "phase": "Running"}})
        self.unbound.discard(key)
        if not self.unbound:
            self.all_bound.set()


class StoreClient(KubeClient):
    """A client in the same process: what is measured is the scheduler without HTTP and JSON."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        found = self._store.of(resource).get((namespace or "", name))
        if found is None:
            raise NotFound(404, "NotFound", f"{resource.plural} {name} not found")
        return found

    async def list(self, resource: Resource, namespace: str | None = None, **more: Any) -> ObjectList:
        return ObjectList(list(self._store.of(resource).values()), self._store.version)

    async def create(self, resource: Resource, obj: Any, **more: Any) -> Object:
        if resource is EVENTS:
            self._store.events += 1
            return dict(obj)
        return self._store.put(resource, dict(obj))

    async def replace(self, resource: Resource, obj: Any, **more: Any) -> Object:
        assert resource is LEASES
        return self._store.put(resource, dict(obj))

    async def patch(
        self, resource: Resource, name: str, *, namespace: str | None = None, body: Any, **more: Any
    ) -> Object:
        # An answer takes time; meanwhile others have their turn.
        await asyncio.sleep(0)
        return (
            dict(body) if resource is EVENTS else self._store.patch(resource, (namespace or "", name), body)
        )

    async def watch(
        self, resource: Resource, namespace: str | None = None, **more: Any
    ) -> AsyncIterator[WatchEvent]:
        queue: asyncio.Queue[tuple[str, Object]] = asyncio.Queue()
        watchers = self._store.watchers.setdefault(resource.plural, [])
        watchers.append(queue)
        try:
            while True:
                kind, obj = await queue.get()
                yield WatchEvent(kind, obj)
        finally:
            watchers.remove(queue)
