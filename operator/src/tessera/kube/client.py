"""The one client of the API server: raw dicts in, raw dicts out.

Objects stay the JSON that the server sent, because decoding them into classes costs twenty times more than
`json.loads` and hides fields that we do not know. Typed views are made at the edges by `tessera.api`. How
requests are sent, and when they are sent again, is told in `transport.py`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

from tessera.kube.credentials import Credentials, load_credentials
from tessera.kube.errors import Gone, error_from_status
from tessera.kube.request_parts import (
    Propagation,
    delete_options,
    name_of,
    namespace_of,
    object_path,
    selectors,
    typed,
)
from tessera.kube.resources import PODS, Resource
from tessera.kube.transport import MAX_ATTEMPTS, Transport

Object = dict[str, Any]
PatchKind = Literal["merge", "json", "strategic"]

# The server sends a bookmark about every minute to a quiet watch; longer silence means a dead connection.
WATCH_INACTIVITY_SECONDS = 75.0
WATCH_SERVER_SECONDS = 300
PAGE_SIZE = 500

_PATCH_TYPES: dict[str, str] = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}


class ObjectList(NamedTuple):
    """All objects of a list, and the resourceVersion from which a watch continues it."""

    items: list[Object]
    resource_version: str


class WatchEvent(NamedTuple):
    """One line of a watch: ADDED, MODIFIED, DELETED or BOOKMARK (an object that has only a
    resourceVersion).
    """

    type: str
    object: Object


class KubeClient:
    """Talks to one API server as one user. Make it with `connect`, end it with `close` or `async with`."""

    def __init__(
        self, credentials: Credentials, *, user_agent: str = "tessera", field_manager: str = "tessera"
    ) -> None:
        self.field_manager = field_manager
        self._transport = Transport(credentials, user_agent=user_agent)

    @classmethod
    async def connect(
        cls,
        kubeconfig: Path | str | None = None,
        context: str | None = None,
        *,
        user_agent: str = "tessera",
        field_manager: str = "tessera",
    ) -> Self:
        """A client for the given kubeconfig, else the pod's service account, else the default kubeconfig.

        Opens no connection yet. Raises TesseraError when there are no usable credentials.
        """
        credentials = await asyncio.to_thread(load_credentials, kubeconfig=kubeconfig, context=context)
        return cls(credentials, user_agent=user_agent, field_manager=field_manager)

    @property
    def server(self) -> str:
        """The API server's URL."""
        return self._transport.credentials.server

    @property
    def default_namespace(self) -> str:
        """The namespace of the kubeconfig's context, or of the pod we run in."""
        return self._transport.credentials.namespace

    async def close(self) -> None:
        """Close all connections. The client cannot be used afterwards."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # Reading.

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        """One object, read from the store (never from a stale cache). Raises NotFound."""
        path = object_path(resource, name, namespace)
        return await self._json("GET", path, resource)

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        resource_version: str | None = None,
    ) -> ObjectList:
        """All objects (of all namespaces when `namespace` is None), in pages of 500.

        Unset `resource_version` means most recent. Restarts once when the server forgets its page mark.
        """
        try:
            return await self._list_pages(
                resource, namespace, label_selector, field_selector, resource_version
            )
        except Gone:
            return await self._list_pages(resource, namespace, label_selector, field_selector, None)

    async def _list_pages(
        self,
        resource: Resource,
        namespace: str | None,
        label_selector: str | None,
        field_selector: str | None,
        resource_version: str | None,
    ) -> ObjectList:
        params = selectors(label_selector, field_selector)
        params["limit"] = str(PAGE_SIZE)
        if resource_version is not None:
            params["resourceVersion"] = resource_version
        items: list[Object] = []
        while True:
            page = await self._json(
                "GET", resource.path(namespace=namespace), resource, params=params, verb="list"
            )
            for item in page.get("items") or []:
                # Items of a list come without these two.
                item.setdefault("apiVersion", resource.api_version)
                item.setdefault("kind", resource.kind)
                items.append(item)
            following = page["metadata"].get("continue")
            if not following:
                return ObjectList(items, page["metadata"].get("resourceVersion", ""))
            params["continue"] = following
            params.pop("resourceVersion", None)

    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        inactivity_seconds: float = WATCH_INACTIVITY_SECONDS,
    ) -> AsyncIterator[WatchEvent]:
        """Changes after `resource_version`, over one connection, bookmarks included.

        Ends when the server ends the watch (after some minutes) and raises Unreachable when nothing, not
        even a bookmark, came for `inactivity_seconds`: then watch again from the last resourceVersion seen.
        Raises Gone when that one is too old: list again.
        """
        params = selectors(label_selector, field_selector)
        params |= {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_SERVER_SECONDS)}
        if resource_version is not None:
            params["resourceVersion"] = resource_version
        async for line in self._transport.lines(
            resource.path(namespace=namespace),
            verb="watch",
            plural=resource.plural,
            params=params,
            inactivity_seconds=inactivity_seconds,
        ):
            event = json.loads(line)
            if event["type"] == "ERROR":
                status = event["object"]
                raise error_from_status(int(status.get("code") or 500), status)
            event["object"].setdefault("apiVersion", resource.api_version)
            event["object"].setdefault("kind", resource.kind)
            yield WatchEvent(event["type"], event["object"])

    # Writing.

    async def create(
        self,
        resource: Resource,
        obj: Mapping[str, Any],
        *,
        namespace: str | None = None,
        strict: bool = False,
        dry_run: bool = False,
    ) -> Object:
        """Create an object.

        `strict` refuses unknown and doubled fields; `dry_run` only asks. Raises AlreadyExists, Invalid.
        """
        space = namespace_of(resource, obj, namespace)
        return await self._json(
            "POST",
            resource.path(namespace=space),
            resource,
            params=self._write_params(strict, dry_run),
            body=typed(resource, obj),
        )

    async def replace(
        self,
        resource: Resource,
        obj: Mapping[str, Any],
        *,
        namespace: str | None = None,
        subresource: str | None = None,
        strict: bool = False,
        dry_run: bool = False,
    ) -> Object:
        """Write a whole object.

        With `metadata.resourceVersion` set, raises Conflict when it changed since.
        """
        path = object_path(resource, name_of(obj), namespace_of(resource, obj, namespace), subresource)
        return await self._json(
            "PUT", path, resource, params=self._write_params(strict, dry_run), body=typed(resource, obj)
        )

    async def apply(
        self,
        resource: Resource,
        obj: Mapping[str, Any],
        *,
        namespace: str | None = None,
        subresource: str | None = None,
        force: bool = True,
        strict: bool = False,
        dry_run: bool = False,
    ) -> Object:
        """Server-side apply as this client's field manager: the object holds exactly the fields that we own.

        Without `force`, raises Conflict when another manager owns one of them.
        """
        path = object_path(resource, name_of(obj), namespace_of(resource, obj, namespace), subresource)
        params = self._write_params(strict, dry_run) | {"force": "true" if force else "false"}
        return await self._json(
            "PATCH", path, resource, params=params, body=typed(resource, obj), patch="apply", verb="apply"
        )

    async def patch(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str | None = None,
        body: Mapping[str, Any] | Sequence[Any],
        kind: PatchKind = "merge",
        subresource: str | None = None,
        dry_run: bool = False,
    ) -> Object:
        """Change an object by a patch.

        Put `metadata.resourceVersion` into a merge patch to demand that nothing changed since.
        """
        path = object_path(resource, name, namespace, subresource)
        return await self._json(
            "PATCH", path, resource, params=self._write_params(False, dry_run), body=body, patch=kind
        )

    async def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: Propagation | None = None,
        grace_seconds: int | None = None,
    ) -> None:
        """Delete an object. Raises NotFound, and Conflict when `uid` or `resource_version` do not match."""
        await self._json(
            "DELETE",
            object_path(resource, name, namespace),
            resource,
            body=delete_options(uid, resource_version, propagation, grace_seconds),
        )

    async def evict(
        self, name: str, *, namespace: str, uid: str | None = None, grace_seconds: int | None = None
    ) -> None:
        """Ask for a pod's eviction.

        Raises ApiError, without a retry; its `disruption_budget` says whether one forbids it now.
        """
        body: Object = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
            "deleteOptions": delete_options(uid, None, None, grace_seconds),
        }
        path = PODS.path(namespace=namespace, name=name, subresource="eviction")
        await self._json("POST", path, PODS, body=body, verb="evict", attempts=1)

    async def raw(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Any:
        """Any request; the answer decoded when it is JSON, else its text.

        Raises ApiError and Unreachable as all others do.
        """
        answer = await self._transport.send(
            method,
            path,
            verb=method.lower(),
            plural="raw",
            params=params,
            body=body,
            content_type=content_type,
        )
        return answer.body()

    # The wire.

    async def _json(
        self,
        method: str,
        path: str,
        resource: Resource,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        patch: str | None = None,
        verb: str | None = None,
        attempts: int = MAX_ATTEMPTS,
    ) -> Object:
        answer = await self._transport.send(
            method,
            path,
            verb=verb or {"POST": "create", "PUT": "replace"}.get(method, method.lower()),
            plural=resource.plural,
            params=params,
            body=body,
            content_type=_PATCH_TYPES[patch] if patch else "application/json",
            attempts=attempts,
        )
        decoded = answer.body()
        return decoded if isinstance(decoded, dict) else {}

    def _write_params(self, strict: bool, dry_run: bool) -> dict[str, str]:
        params = {"fieldManager": self.field_manager, "fieldValidation": "Strict" if strict else "Warn"}
        if dry_run:
            params["dryRun"] = "All"
        return params
