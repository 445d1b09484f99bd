"""A local copy of a list of objects that follows the API server.

One task lists the objects, swaps the whole copy in, and watches from there. When the watch ends it resumes
where it stopped; when the server no longer remembers that point (`Gone`) it lists again and tells the
difference as if it had been watched. So a listener sees every state that lasts, though not every state
between, and readers never see half a list.

`on_change` must not block and should only put a key into a work queue: it runs between two lines of the
watch.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from tessera.kube.backoff import Backoff
from tessera.kube.client import KubeClient
from tessera.kube.errors import ApiError, Gone, Unreachable
from tessera.kube.resources import Resource
from tessera.metrics import registry as metrics

Object = dict[str, Any]
Key = tuple[str, str]
OnChange = Callable[[str, Object, Object | None], None]
IndexFunction = Callable[[Object], Iterable[str]]

_log = logging.getLogger(__name__)


def key_of(obj: Object) -> Key:
    """(namespace or "", name) of an object."""
    metadata = obj["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


class Informer:
    """Follows one resource.

    `on_change(kind, object, old)` gets ADDED, MODIFIED or DELETED; `old` is None for ADDED.
    """

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        on_change: OnChange | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self.resource = resource
        self._client = client
        self._namespace = namespace
        self._label_selector = label_selector
        self._field_selector = field_selector
        self._on_change = on_change
        self._backoff = backoff or Backoff(first_seconds=0.5, limit_seconds=30.0)
        self._objects: dict[Key, Object] = {}
        self._index_functions: dict[str, IndexFunction] = {}
        self._indexes: dict[str, dict[str, set[Key]]] = {}
        self._resource_version: str | None = None
        self._synced = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.last_error: str | None = None
        """Why the copy cannot be refreshed now; None while all is well."""

    def add_index(self, name: str, function: IndexFunction) -> None:
        """Keep the objects findable by the values that `function` returns for them.

        Call it before `start`.
        """
        self._index_functions[name] = function
        self._indexes[name] = defaultdict(set)
        for key, obj in self._objects.items():
            self._index(key, obj, add=True)

    def start(self) -> None:
        """Begin to follow, in a task of the running loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow(), name=f"informer {self.resource.plural}")

    async def wait_synced(self, timeout_seconds: float | None = None) -> None:
        """Wait for the first complete list.

        Raises TimeoutError with the last error when it does not come in time.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._synced.wait()
        except TimeoutError:
            why = self.last_error or "no answer yet"
            raise TimeoutError(
                f"{self.resource.plural} were not listed in {timeout_seconds} s: {why}"
            ) from None

    def stop(self) -> asyncio.Future[Any]:
        """Stop following. The copy stays readable; await the result to know that the task has ended."""
        if self._task is None:
            done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done
        self._task.cancel()
        return asyncio.gather(self._task, return_exceptions=True)

    @property
    def synced(self) -> bool:
        """Whether a complete list was read at least once."""
        return self._synced.is_set()

    def get(self, name: str, namespace: str | None = None) -> Object | None:
        """The object of that name, None when there is none.

        Do not change what you get: it is the copy itself.
        """
        return self._objects.get((namespace or "", name))

    def items(self) -> list[Object]:
        """All objects, in no order."""
        return list(self._objects.values())

    def by_index(self, index: str, value: str) -> list[Object]:
        """The objects for which the index function of that name returned `value`."""
        return [self._objects[key] for key in sorted(self._indexes[index].get(value, ()))]

    async def _follow(self) -> None:
        failures = 0
        while True:
            try:
                if self._resource_version is None:
                    await self._list()
                failures = 0
                self.last_error = None
                await self._watch()
                # A server that ends watches at once must not make us spin.
                await asyncio.sleep(self._backoff.delay(0) / 5)
                continue
            except Gone:
                _log.info("watch of %s is too old; listing again", self.resource.plural)
                self._resource_version = None
            except Unreachable as error:
                # A dead watch loses nothing: resume from the last resourceVersion.
                self.last_error = str(error)
                _log.info("%s", error)
            except ApiError as error:
                told = self.last_error
                self.last_error = f"cannot follow {self.resource.plural}: {error}"
                # A CRD that is not installed yet, or a missing right, lasts: say it once.
                _log.log(logging.WARNING if self.last_error != told else logging.DEBUG, "%s", self.last_error)
                self._resource_version = None
            except Exception:
                metrics.UNHANDLED_ERRORS_TOTAL.labels(f"informer {self.resource.plural}").inc()
                _log.exception("informer of %s failed; listing again", self.resource.plural)
                self._resource_version = None
            await asyncio.sleep(self._backoff.delay(failures))
            failures += 1

    async def _list(self) -> None:
        found = await self._client.list(
            self.resource,
            self._namespace,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
        )
        old, new = self._objects, {key_of(obj): obj for obj in found.items}
        self._objects = new
        for name in self._indexes:
            self._indexes[name] = defaultdict(set)
        for key, obj in new.items():
            self._index(key, obj, add=True)
        self._resource_version = found.resource_version
        self._synced.set()
        for kind, obj, before in difference(old, new):
            self._tell(kind, obj, before)

    async def _watch(self) -> None:
        async for event in self._client.watch(
            self.resource,
            self._namespace,
            resource_version=self._resource_version,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
        ):
            if event.type != "BOOKMARK":
                self._take(event.type, event.object)
            self._resource_version = event.object["metadata"]["resourceVersion"]

    def _take(self, kind: str, obj: Object) -> None:
        key = key_of(obj)
        before = self._objects.get(key)
        if before is not None:
            self._index(key, before, add=False)
        if kind == "DELETED":
            self._objects.pop(key, None)
            self._tell("DELETED", obj, before)
            return
        self._objects[key] = obj
        self._index(key, obj, add=True)
        self._tell("ADDED" if before is None else "MODIFIED", obj, before)

    def _index(self, key: Key, obj: Object, *, add: bool) -> None:
        for name, function in self._index_functions.items():
            index = self._indexes[name]
            for value in function(obj):
                if add:
                    index[value].add(key)
                    continue
                index[value].discard(key)
                if not index[value]:
                    del index[value]

    def _tell(self, kind: str, obj: Object, before: Object | None) -> None:
        if self._on_change is None:
            return
        try:
            self._on_change(kind, obj, before)
        except Exception:
            # One listener's defect must not stop the copy from following.
            metrics.UNHANDLED_ERRORS_TOTAL.labels(f"on_change {self.resource.plural}").inc()
            _log.exception("on_change of %s failed for %s", self.resource.plural, key_of(obj))


def difference(old: dict[Key, Object], new: dict[Key, Object]) -> list[tuple[str, Object, Object | None]]:
    """What a watch would have said between two lists: deletions first, so that a re-made object is told as
    two changes.
    """
    changes: list[tuple[str, Object, Object | None]] = []
    for key, before in old.items():
        after = new.get(key)
        if after is None or after["metadata"].get("uid") != before["metadata"].get("uid"):
            changes.append(("DELETED", before, before))
    for key, after in new.items():
        was = old.get(key)
        if was is None or was["metadata"].get("uid") != after["metadata"].get("uid"):
            changes.append(("ADDED", after, None))
        elif was["metadata"].get("resourceVersion") != after["metadata"].get("resourceVersion"):
            changes.append(("MODIFIED", after, was))
    return changes
