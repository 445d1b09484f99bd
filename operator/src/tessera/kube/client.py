"""The one client of the API server: raw dicts in, raw dicts out.

Objects stay the JSON that the server sent, because decoding them into classes costs twenty times more than
`json.loads` and hides fields that we do not know. Typed views are made at the edges by `tessera.api`.

Retries follow one rule: a request is sent again only when the server cannot have acted on it twice. That is
every request it refused with 429 or that never left this machine (connection refused), and, when an answer
got lost on the way, reads, deletes and server-side applies, which may be repeated freely.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import aiohttp

from tessera.kube.backoff import Backoff
from tessera.kube.credentials import Credentials, load_credentials
from tessera.kube.errors import ApiError, Gone, Unreachable, error_from_status
from tessera.kube.resources import PODS, Resource
from tessera.metrics import registry as metrics

Object = dict[str, Any]
PatchKind = Literal["merge", "json", "strategic"]
Propagation = Literal["Foreground", "Background", "Orphan"]

REQUEST_TIMEOUT_SECONDS = 30.0
# The server sends a bookmark about every minute to a quiet watch; longer silence means that the connection
# is dead.
WATCH_INACTIVITY_SECONDS = 75.0
WATCH_SERVER_SECONDS = 300
PAGE_SIZE = 500
MAX_ATTEMPTS = 6

_PATCH_TYPES: dict[str, str] = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}
_log = logging.getLogger(__name__)


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


class _Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    content: bytes

    def body(self) -> Any:
        if "json" in self.headers.get("Content-Type", ""):
            return json.loads(self.content)
        return self.content.decode(errors="replace")


class KubeClient:
    """Talks to one API server as one user. Make it with `connect`, end it with `close` or `async with`."""

    def __init__(
        self, credentials: Credentials, *, user_agent: str = "tessera", field_manager: str = "tessera"
    ) -> None:
        self.field_manager = field_manager
        self._credentials = credentials
        self._user_agent = user_agent
        self._backoff = Backoff(first_seconds=0.2, limit_seconds=5.0)
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    async def connect(
        cls,
        kubeconfig: Path | str | None = None,
        context: str | None = None,
        *,
        user_agent: str = "tessera",
        field_manager: str = "tessera",
    ) -> KubeClient:
        """A client for the given kubeconfig, else the pod's service account, else the default kubeconfig.

        Opens no connection yet. Raises TesseraError when there are no usable credentials.
        """
        credentials = await asyncio.to_thread(load_credentials, kubeconfig=kubeconfig, context=context)
        return cls(credentials, user_agent=user_agent, field_manager=field_manager)

    @property
    def server(self) -> str:
        """The API server's URL."""
        return self._credentials.server

    @property
    def default_namespace(self) -> str:
        """The namespace of the kubeconfig's context, or of the pod we run in."""
        return self._credentials.namespace

    async def close(self) -> None:
        """Close all connections. The client cannot be used afterwards."""
        if self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> KubeClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # Reading.

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        """One object, read from the store (never from a stale cache). Raises NotFound."""
        path = _object_path(resource, name, namespace)
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
        params = _selectors(label_selector, field_selector)
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
        params = _selectors(label_selector, field_selector)
        params |= {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_SERVER_SECONDS)}
        if resource_version is not None:
            params["resourceVersion"] = resource_version
        url = self._credentials.server + resource.path(namespace=namespace)
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=REQUEST_TIMEOUT_SECONDS, sock_read=inactivity_seconds
        )
        for fresh in (False, True):
            headers = await self._headers(fresh=fresh)
            try:
                async with self._connection().get(
                    url, params=params, headers=headers, timeout=timeout, **self._transport()
                ) as answer:
                    metrics.API_REQUESTS_TOTAL.labels("watch", resource.plural, str(answer.status)).inc()
                    if answer.status == 401 and not fresh:
                        continue
                    if answer.status >= 400:
                        raise _error(_Answer(answer.status, answer.headers, await answer.read()))
                    async for event in _events(answer.content, resource):
                        yield event
                    return
            except (aiohttp.ClientError, TimeoutError) as error:
                raise self._unreachable(f"watch {resource.plural}", error) from error

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
        space = _namespace(resource, obj, namespace)
        return await self._json(
            "POST",
            resource.path(namespace=space),
            resource,
            params=self._write_params(strict, dry_run),
            body=obj,
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
        path = _object_path(resource, _name(obj), _namespace(resource, obj, namespace), subresource)
        return await self._json("PUT", path, resource, params=self._write_params(strict, dry_run), body=obj)

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
        path = _object_path(resource, _name(obj), _namespace(resource, obj, namespace), subresource)
        params = self._write_params(strict, dry_run) | {"force": "true" if force else "false"}
        whole = {"apiVersion": resource.api_version, "kind": resource.kind} | dict(obj)
        return await self._json(
            "PATCH", path, resource, params=params, body=whole, patch="apply", verb="apply"
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
        path = _object_path(resource, name, namespace, subresource)
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
            _object_path(resource, name, namespace),
            resource,
            body=_delete_options(uid, resource_version, propagation, grace_seconds),
        )

    async def evict(
        self, name: str, *, namespace: str, uid: str | None = None, grace_seconds: int | None = None
    ) -> None:
        """Ask for a pod's eviction.

        Raises TooManyRequests, without a retry, when a disruption budget forbids it now.
        """
        body: Object = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
            "deleteOptions": _delete_options(uid, None, None, grace_seconds),
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
        answer = await self._send(
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
        answer = await self._send(
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

    async def _send(
        self,
        method: str,
        path: str,
        *,
        verb: str,
        plural: str,
        params: Mapping[str, str] | None,
        body: Any,
        content_type: str,
        attempts: int = MAX_ATTEMPTS,
    ) -> _Answer:
        repeatable = method in ("GET", "DELETE") or verb == "apply"
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        fresh = False
        for attempt in range(attempts):
            last = attempt == attempts - 1
            try:
                answer = await self._once(method, path, verb, plural, params, data, content_type, fresh)
            except (aiohttp.ClientError, TimeoutError) as error:
                metrics.API_REQUESTS_TOTAL.labels(verb, plural, "unreachable").inc()
                never_sent = isinstance(error, aiohttp.ClientConnectorError)
                if last or not (repeatable or never_sent) or isinstance(error, TimeoutError):
                    raise self._unreachable(f"{verb} {path}", error) from error
                await asyncio.sleep(self._backoff.delay(attempt))
                continue
            if answer.status < 400:
                return answer
            error_answer = _error(answer)
            if answer.status == 401 and not fresh and not last:
                # The token may have been rotated since we read it.
                fresh = True
                continue
            overloaded = answer.status == 429 or (answer.status in (502, 503, 504) and repeatable)
            if last or not overloaded:
                raise error_answer
            asked = error_answer.retry_after_seconds or 0.0
            await asyncio.sleep(max(asked, self._backoff.delay(attempt)))
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _once(
        self,
        method: str,
        path: str,
        verb: str,
        plural: str,
        params: Mapping[str, str] | None,
        data: bytes | None,
        content_type: str,
        fresh: bool,
    ) -> _Answer:
        headers = await self._headers(fresh=fresh)
        if data is not None:
            headers["Content-Type"] = content_type
        started = time.perf_counter()
        async with self._connection().request(
            method,
            self._credentials.server + path,
            params=params,
            data=data,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS),
            **self._transport(),
        ) as answer:
            content = await answer.read()
        metrics.API_REQUEST_SECONDS.labels(verb, plural).observe(time.perf_counter() - started)
        metrics.API_REQUESTS_TOTAL.labels(verb, plural, str(answer.status)).inc()
        for warning in answer.headers.getall("Warning", []):
            _log.warning("the API server warns about %s %s: %s", verb, path, warning)
        return _Answer(answer.status, answer.headers, content)

    def _connection(self) -> aiohttp.ClientSession:
        if self._session is None:
            # No limit of connections: each open watch holds one, and a limit would let watches starve writes.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), auto_decompress=True
            )
        return self._session

    def _transport(self) -> dict[str, Any]:
        extra: dict[str, Any] = {"proxy": self._credentials.proxy, "allow_redirects": False}
        if self._credentials.tls is not None:
            extra |= {"ssl": self._credentials.tls, "server_hostname": self._credentials.server_hostname}
        return extra

    async def _headers(self, *, fresh: bool) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": self._user_agent}
        authorization = await self._credentials.authorization(fresh=fresh)
        if authorization is not None:
            headers["Authorization"] = authorization
        return headers

    def _write_params(self, strict: bool, dry_run: bool) -> dict[str, str]:
        params = {"fieldManager": self.field_manager, "fieldValidation": "Strict" if strict else "Warn"}
        if dry_run:
            params["dryRun"] = "All"
        return params

    def _unreachable(self, what: str, error: BaseException) -> Unreachable:
        # The connector's own text shows the TLS context's address in memory; the system's error is what matters.
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        reason = str(cause) or f"no answer in time ({type(error).__name__})"
        return Unreachable(
            f"no answer from the API server {self.server} to '{what}'",
            reason,
            "Check that the cluster runs (`tessera local status`) and that the kubeconfig points at it",
        )


async def _events(stream: aiohttp.StreamReader, resource: Resource) -> AsyncIterator[WatchEvent]:
    # Lines are cut by hand: the stream's own readline refuses lines above 128 KiB, an object may have 1.5
    # MiB.
    pending = bytearray()
    async for chunk in stream.iter_any():
        pending += chunk
        while (end := pending.find(b"\n")) >= 0:
            line = bytes(pending[:end])
            del pending[: end + 1]
            if not line.strip():
                continue
            event = json.loads(line)
            if event["type"] == "ERROR":
                status = event["object"]
                raise error_from_status(int(status.get("code") or 500), status)
            event["object"].setdefault("apiVersion", resource.api_version)
            event["object"].setdefault("kind", resource.kind)
            yield WatchEvent(event["type"], event["object"])


def _error(answer: _Answer) -> ApiError:
    try:
        body = json.loads(answer.content)
    except ValueError:
        body = None
    text = "" if isinstance(body, dict) else answer.content.decode(errors="replace")[:500]
    error = error_from_status(answer.status, body if isinstance(body, dict) else {}, text)
    header = answer.headers.get("Retry-After", "")
    if header.isdigit():
        error.retry_after_seconds = float(header)
    return error


def _selectors(label_selector: str | None, field_selector: str | None) -> dict[str, str]:
    params: dict[str, str] = {}
    if label_selector:
        params["labelSelector"] = label_selector
    if field_selector:
        params["fieldSelector"] = field_selector
    return params


def _delete_options(
    uid: str | None, resource_version: str | None, propagation: Propagation | None, grace_seconds: int | None
) -> Object:
    options: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
    preconditions = {"uid": uid, "resourceVersion": resource_version}
    if any(preconditions.values()):
        options["preconditions"] = {key: value for key, value in preconditions.items() if value}
    if propagation is not None:
        options["propagationPolicy"] = propagation
    if grace_seconds is not None:
        options["gracePeriodSeconds"] = grace_seconds
    return options


def _name(obj: Mapping[str, Any]) -> str:
    name = (obj.get("metadata") or {}).get("name")
    if not name:
        raise ValueError(f"the {obj.get('kind', 'object')} has no metadata.name")
    return str(name)


def _namespace(resource: Resource, obj: Mapping[str, Any], namespace: str | None) -> str | None:
    space = namespace or (obj.get("metadata") or {}).get("namespace")
    if resource.namespaced and not space:
        raise ValueError(f"a {resource.kind} needs a namespace: give namespace= or set metadata.namespace")
    return space


def _object_path(resource: Resource, name: str, namespace: str | None, subresource: str | None = None) -> str:
    if resource.namespaced and not namespace:
        raise ValueError(f"{resource.kind} {name} needs a namespace")
    return resource.path(namespace=namespace, name=name, subresource=subresource)
