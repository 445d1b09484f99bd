"""How the scheduler writes: what was written is remembered until the informers show it.

Allocations are fenced by an admission policy that reads our Lease. What nothing fences (ungating, taking
back, evicting, placeholders) asks for the Lease first. A write whose answer is lost, or that is refused
because the object changed, leaves us not knowing: the object is read again, from the store, before the next
round decides anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tessera.kube.client import KubeClient
from tessera.kube.errors import ApiError, Forbidden, NotFound, Unreachable
from tessera.kube.events import EventRecorder, EventType
from tessera.kube.resources import RESOURCE_CLAIMS, Resource
from tessera.scheduler.objects import Claim, Key
from tessera.scheduler.snapshot import Written

_log = logging.getLogger(__name__)

_CONCURRENT_WRITES = 16
_LEASE_CHECK_SECONDS = 0.25
"""Writes of one round share a look at the Lease; between the look and a write a process can be paused in any
case.
"""


class Pen:
    """Writes for whoever holds it. `verify` raises LeadershipLost when this replica does not hold the
    Lease.
    """

    def __init__(
        self, client: KubeClient, *, events: EventRecorder, verify: Callable[[], Awaitable[None]]
    ) -> None:
        self.client = client
        self.claims = Written()
        self.pods = Written()
        self._events = events
        self._verify = verify
        self._verified_at = float("-inf")
        self._lease_lock = asyncio.Lock()
        self._slots = asyncio.Semaphore(_CONCURRENT_WRITES)
        self._unsure: set[tuple[Resource, Key]] = set()

    async def settle(self) -> None:
        """Read again every object whose last write we are not sure of, and every created one that the
        informer has not shown yet. Raises Unreachable while that cannot be done.
        """
        unseen = {(RESOURCE_CLAIMS, key) for key in self.claims.unseen()}
        for resource, key in sorted(self._unsure | unseen, key=lambda u: (u[0].plural, u[1])):
            # Finished pods are not listed, so that a pod is never waited for.
            claims = resource is RESOURCE_CLAIMS
            written = self.claims if claims else self.pods
            try:
                obj = await self.client.get(resource, key[1], key[0])
            except NotFound:
                written.forget(key)
            else:
                written.put(obj, created=claims)
            self._unsure.discard((resource, key))

    async def write(self, resource: Resource, key: Key, write: Callable[[], Awaitable[Any]]) -> bool:
        """Run one write (or a chain of writes to one object). False when it failed; the object is then read
        again.
        """
        async with self._slots:
            try:
                await write()
            except NotFound:
                _log.info("%s %s is gone", resource.kind, "/".join(key))
            except Forbidden as error:
                # Most likely the fence: another replica leads. Else the message says what is missing.
                _log.error("%s %s: the API server refuses the write: %s", resource.kind, "/".join(key), error)
                self._unsure.add((resource, key))
                await self._verify()
            except (ApiError, Unreachable, TimeoutError) as error:
                _log.info("%s %s will be read again: %s", resource.kind, "/".join(key), error)
                self._unsure.add((resource, key))
            else:
                return True
        return False

    async def patch_claim(
        self, claim: Claim, body: Mapping[str, Any], *, subresource: str | None = None
    ) -> dict[str, Any]:
        """A merge patch of a claim, remembered."""
        obj = await self.client.patch(
            RESOURCE_CLAIMS, claim.key[1], namespace=claim.key[0], body=body, subresource=subresource
        )
        self.claims.put(obj)
        return obj

    async def check_lease(self, *, now: bool = False) -> None:
        """Before a write that nothing fences; `now`: a look of a moment ago is not enough. Raises
        LeadershipLost.
        """
        async with self._lease_lock:
            loop = asyncio.get_running_loop()
            if now or loop.time() - self._verified_at > _LEASE_CHECK_SECONDS:
                asked_at = loop.time()
                await self._verify()
                self._verified_at = asked_at

    def tell(self, obj: Any, kind: EventType, reason: str, action: str, message: str) -> None:
        """An event on the object, and the same in the log."""
        metadata = obj["metadata"]
        _log.info("%s %s/%s: %s: %s", obj["kind"], metadata["namespace"], metadata["name"], reason, message)
        self._events.emit(obj, type=kind, reason=reason, action=action, message=message)
