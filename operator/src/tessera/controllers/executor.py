"""Carry out a plan: the only place of the operator that writes to the API server.

Children by server-side apply, then changes of fields, then the status once and only when it differs, then
the events that tell of it, then evictions, last the object's own deletion. Every step may be repeated, so a
crash between two of them costs nothing: the next reconciliation plans what is left.
"""

from __future__ import annotations

import logging
from typing import Any

from tessera.api.names import OPERATOR_FIELD_MANAGER
from tessera.api.reasons import Reason
from tessera.controllers.evictor import Evictor
from tessera.controllers.plan import Child, Object, Plan, Terminal
from tessera.kube.client import KubeClient
from tessera.kube.errors import ApiError, Forbidden, Invalid, NotFound
from tessera.kube.events import EventRecorder
from tessera.kube.logging import about
from tessera.kube.resources import Resource

_log = logging.getLogger(__name__)


class Executor:
    """Writes plans with one client; its field manager must be ``tessera-operator``."""

    def __init__(self, client: KubeClient, events: EventRecorder) -> None:
        if client.field_manager != OPERATOR_FIELD_MANAGER:
            raise ValueError(
                f"the operator writes as {OPERATOR_FIELD_MANAGER}, not as {client.field_manager}"
            )
        self._client = client
        self._events = events
        self._evictor = Evictor(client, events)

    async def carry_out(self, resource: Resource, obj: Object, plan: Plan) -> None:
        """Do everything that `plan` wants for `obj`.

        Raises:
            Terminal: a child cannot be made until somebody changes something; the status was not written.
            ApiError, Unreachable: try again. Conflict: the object has changed under a status that decides.
        """
        for child in plan.children:
            await self._ensure(child, obj)
        for change in plan.changes:
            await self._client.patch(
                change.resource, change.name, namespace=change.namespace, body=change.body, kind="merge"
            )
            _log.info("changed %s %s", change.resource.kind, change.name, extra=about(obj))
        if plan.status is not None and plan.status != (obj.get("status") or {}):
            await self._write_status(resource, obj, plan.status, decides=plan.decides)
        for item in plan.news:
            self._events.emit(
                obj, type=item.type, reason=item.reason, action=item.action, message=item.message
            )
        for eviction in plan.evictions:
            await self._evictor.evict(eviction, wanted_by=obj)
        if plan.delete:
            await self._delete(resource, obj)

    async def _ensure(self, child: Child, owner: Object) -> None:
        metadata = child.body["metadata"]
        if child.owned:
            await self._refuse_strangers(child, owner)
        try:
            await self._client.apply(child.resource, child.body)
        except (Invalid, Forbidden) as error:
            if _namespace_goes(error):
                raise Terminal(Reason.DELETING, "the namespace is being deleted") from error
            remedy = (
                "a change of the spec may be needed (then make a new object)"
                if child.owned
                else "the operator needs the rights and the CRDs of its chart"
            )
            raise Terminal(
                Reason.RECONCILE_ERROR,
                f"{child.resource.kind} {metadata['name']} was refused: {error.message}; it is tried again, "
                f"and {remedy}",
            ) from error
        _log.info("applied %s %s", child.resource.kind, metadata["name"], extra=about(owner))

    async def _refuse_strangers(self, child: Child, owner: Object) -> None:
        """An apply would take over any object of that name: look first whose it is."""
        metadata = child.body["metadata"]
        try:
            present = await self._client.get(child.resource, metadata["name"], metadata.get("namespace"))
        except NotFound:
            return
        owners: list[dict[str, Any]] = present["metadata"].get("ownerReferences") or []
        if any(reference.get("uid") == owner["metadata"]["uid"] for reference in owners):
            return
        what = f"{child.resource.kind} {metadata['name']}"
        if any(reference.get("name") == owner["metadata"]["name"] for reference in owners):
            why = "belongs to an earlier object of this name and is being removed; this one starts after that"
        else:
            why = "exists and does not belong to this object; delete it, or give this object another name"
        raise Terminal(Reason.NAME_TAKEN, f"{what} {why}")

    async def _write_status(self, resource: Resource, obj: Object, status: Object, *, decides: bool) -> None:
        metadata = obj["metadata"]
        identity = {"name": metadata["name"], "uid": metadata["uid"]}
        if decides:
            identity["resourceVersion"] = metadata["resourceVersion"]
        if metadata.get("namespace"):
            identity["namespace"] = metadata["namespace"]
        await self._client.apply(resource, {"metadata": identity, "status": status}, subresource="status")

    async def _delete(self, resource: Resource, obj: Object) -> None:
        metadata = obj["metadata"]
        try:
            await self._client.delete(
                resource,
                metadata["name"],
                namespace=metadata.get("namespace"),
                uid=metadata["uid"],
                propagation="Background",
            )
        except NotFound:
            _log.debug("%s was deleted by somebody else", metadata["name"])


def _namespace_goes(error: ApiError) -> bool:
    return any(cause.get("reason") == "NamespaceTerminating" for cause in error.causes)
