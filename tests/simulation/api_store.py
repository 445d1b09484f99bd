"""An API server small enough to be deterministic: objects, versions, patches, watches' history, and the rules
of resource.k8s.io/v1 and of our admission policies that the scheduler relies on.

The rules are those that were tried on Kubernetes 1.36: an allocation cannot be changed once it is set, only
cleared; a patch with a resourceVersion is refused when the object changed since; at most 256 consumers, each
once; a finalizer holds a deleted object; only the holder of the Lease may allocate.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any

from tessera.api import names
from tessera.kube.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    TooManyRequests,
)
from tessera.kube.resources import PODS, RESOURCE_CLAIMS, Resource

Object = dict[str, Any]
Key = tuple[str, str, str]
"""(plural, namespace, name)."""


class Store:
    """All objects. `after_write` is called with every event, before anybody else may act."""

    def __init__(self) -> None:
        self.objects: dict[Key, Object] = {}
        self.history: list[tuple[int, str, str, Object]] = []
        self.after_write: list[Callable[[str, Object, Object | None], None]] = []
        self.lease_holder: Callable[[], str] = lambda: ""
        self.may_be_disrupted: Callable[[Object], bool] = lambda pod: True
        """The PodDisruptionBudgets."""
        self.after_eviction: list[Callable[[Object, str], None]] = []
        """Called with the pod and with who had it evicted, before it is deleted."""
        self.wakers: dict[asyncio.Event, None] = {}
        """Set with every change, for watches that wait for one."""
        self._versions = itertools.count(1)
        self._uids = itertools.count(1)
        self._forgotten = 0

    # Reading.

    def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        found = self.objects.get((resource.plural, namespace or "", name))
        if found is None:
            raise NotFound(404, "NotFound", f"{resource.plural} {name} not found")
        return copy.deepcopy(found)

    def all(self, resource: Resource) -> list[Object]:
        """The objects themselves, which are never changed after they were written; copy before you do."""
        return [o for (plural, _, _), o in self.objects.items() if plural == resource.plural]

    @property
    def version(self) -> int:
        return self.history[-1][0] if self.history else 0

    def changes(self, resource: Resource, since: int) -> Iterator[tuple[int, str, Object]]:
        """Events after a version. Raises Gone when they are forgotten."""
        if since < self._forgotten:
            raise Gone(410, "Expired", "too old resource version")
        first = bisect_right(self.history, since, key=lambda entry: entry[0])
        for version, plural, kind, obj in self.history[first:]:
            if plural == resource.plural:
                yield version, kind, obj

    def forget(self) -> None:
        """Compaction: older versions cannot be watched from any more."""
        self._forgotten = self.version

    # Writing.

    def create(self, resource: Resource, obj: Object, namespace: str | None = None) -> Object:
        obj = copy.deepcopy(obj)
        metadata = obj.setdefault("metadata", {})
        if resource.namespaced:
            metadata.setdefault("namespace", namespace or "default")
        obj |= {"apiVersion": resource.api_version, "kind": resource.kind}
        key = (resource.plural, metadata.get("namespace", ""), metadata["name"])
        if key in self.objects:
            raise AlreadyExists(409, "AlreadyExists", f"{key} exists")
        metadata["uid"] = f"uid-{next(self._uids)}"
        return self._commit(key, obj, None, "ADDED")

    def replace(self, resource: Resource, obj: Object) -> Object:
        metadata = obj["metadata"]
        key = (resource.plural, metadata.get("namespace", ""), metadata["name"])
        old = self._current(key)
        if metadata.get("resourceVersion") not in (None, old["metadata"]["resourceVersion"]):
            raise Conflict(409, "Conflict", f"{key} has changed")
        return self._commit(key, copy.deepcopy(obj), old, "MODIFIED")

    def patch(
        self,
        resource: Resource,
        name: str,
        namespace: str | None,
        body: Any,
        *,
        kind: str = "merge",
        subresource: str | None = None,
        writer: str = "",
    ) -> Object:
        key = (resource.plural, namespace or "", name)
        old = self._current(key)
        patched = _json_patch(old, body) if kind == "json" else merge(old, body)
        for field in ("uid", "resourceVersion"):
            if patched["metadata"].get(field) != old["metadata"].get(field):
                raise Conflict(409, "Conflict", f"{key}: {field} does not match")
        # A patch of a subresource changes nothing else, and the other way round.
        new = old | {"metadata": dict(old["metadata"])}
        if subresource == "status":
            new["status"] = patched.get("status", {})
        else:
            new |= {field: value for field, value in patched.items() if field != "status"}
        if resource is RESOURCE_CLAIMS:
            _check_claim(old, new, writer=writer, holder=self.lease_holder)
        return self._commit(key, new, old, "MODIFIED")

    def update(self, resource: Resource, obj: Object) -> Object:
        """A write of somebody who reads and writes in one moment."""
        metadata = obj["metadata"]
        key = (resource.plural, metadata.get("namespace", ""), metadata["name"])
        return self._commit(key, copy.deepcopy(obj), self._current(key), "MODIFIED")

    def evict(self, name: str, namespace: str, *, uid: str | None, writer: str = "") -> None:
        pod = self._current((PODS.plural, namespace, name))
        if uid not in (None, pod["metadata"]["uid"]):
            raise Conflict(409, "Conflict", f"{name}: uid does not match")
        if not self.may_be_disrupted(pod):
            cause = {"reason": "DisruptionBudget", "message": "it would violate the pod's disruption budget"}
            raise TooManyRequests(429, "TooManyRequests", "no", {"details": {"causes": [cause]}})
        for told in self.after_eviction:
            told(pod, writer)
        self.delete(PODS, name, namespace)

    def delete(
        self, resource: Resource, name: str, namespace: str | None = None, *, uid: str | None = None
    ) -> None:
        key = (resource.plural, namespace or "", name)
        old = self._current(key)
        if uid not in (None, old["metadata"]["uid"]):
            raise Conflict(409, "Conflict", f"{key}: uid does not match")
        if old["metadata"].get("finalizers"):
            if "deletionTimestamp" not in old["metadata"]:
                marked = copy.deepcopy(old)
                marked["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
                self._commit(key, marked, old, "MODIFIED")
            return
        self._remove(key, old)

    def _current(self, key: Key) -> Object:
        found = self.objects.get(key)
        if found is None:
            raise NotFound(404, "NotFound", f"{key} not found")
        return found

    def _remove(self, key: Key, old: Object) -> None:
        del self.objects[key]
        gone = old | {"metadata": dict(old["metadata"])}
        version = next(self._versions)
        gone["metadata"]["resourceVersion"] = str(version)
        self.history.append((version, key[0], "DELETED", gone))
        self._tell("DELETED", gone, old)

    def _commit(self, key: Key, new: Object, old: Object | None, kind: str) -> Object:
        if old is not None and _same(old, new):
            return old
        version = next(self._versions)
        new["metadata"] = new["metadata"] | {"resourceVersion": str(version)}
        if "deletionTimestamp" in new["metadata"] and not new["metadata"].get("finalizers"):
            self.objects[key] = new
            self._remove(key, new)
            return new
        self.objects[key] = new
        self.history.append((version, key[0], kind, new))
        self._tell(kind, new, old)
        return new

    def _tell(self, kind: str, new: Object, old: Object | None) -> None:
        for told in self.after_write:
            told(kind, new, old)
        for waker in self.wakers:
            waker.set()


def _same(old: Object, new: Object) -> bool:
    def bare(obj: Object) -> Object:
        return obj | {"metadata": {k: v for k, v in obj["metadata"].items() if k != "resourceVersion"}}

    return bare(old) == bare(new)


def _check_claim(old: Object, new: Object, *, writer: str, holder: Callable[[], str]) -> None:
    before = (old.get("status") or {}).get("allocation")
    after = (new.get("status") or {}).get("allocation")
    consumers = [c["uid"] for c in (new.get("status") or {}).get("reservedFor") or ()]
    if before is not None and after is not None and before != after:
        raise Invalid(422, "Invalid", "status.allocation: field is immutable")
    if len(consumers) > 256 or len(set(consumers)) != len(consumers):
        raise Invalid(422, "Invalid", "status.reservedFor: too many or duplicate")
    if consumers and after is None:
        raise Invalid(422, "Invalid", "status.reservedFor: must not be set without an allocation")
    if before is None and after is not None:
        if names.CLAIM_FINALIZER not in (new["metadata"].get("finalizers") or ()):
            raise AssertionError("an allocation without the finalizer would leak")
        if writer != holder():
            raise Forbidden(403, "Forbidden", f"{writer} does not hold the Lease")


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = copy.deepcopy(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge(result.get(name), value)
    return result


def _json_patch(target: Object, operations: Any) -> Object:
    """RFC 6902, as far as the scheduler uses it: test, add, remove."""
    result = copy.deepcopy(target)
    for operation in operations:
        *way, last = operation["path"].split("/")[1:]
        holder: Any = result
        try:
            for part in way:
                holder = holder[int(part)] if isinstance(holder, list) else holder[part]
            if isinstance(holder, list) and last != "-":
                last = int(last)
            if operation["op"] == "test":
                if holder[last] != operation["value"]:
                    raise KeyError(last)
            elif operation["op"] == "remove":
                del holder[last]
            elif last == "-":
                holder.append(operation["value"])
            else:
                holder[last] = operation["value"]
        except (KeyError, IndexError, TypeError) as error:
            raise Invalid(422, "Invalid", f"the JSON patch does not apply: {operation['path']}") from error
    return result
