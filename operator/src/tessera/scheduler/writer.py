"""Carries out what a round decided: every write of the scheduler to the API server is in this module.

Allocations are fenced by an admission policy that reads our Lease. What nothing fences (ungating, taking
back) asks for the Lease first. A write whose answer is lost, or that is refused because the object changed,
leaves us not knowing: the object is read again, from the store, before the next round decides anything.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from tessera.api.reasons import Reason
from tessera.kube.client import KubeClient
from tessera.kube.errors import ApiError, Forbidden, NotFound, Unreachable
from tessera.kube.events import EventRecorder, EventType
from tessera.kube.resources import PODS, RESOURCE_CLAIMS, Resource
from tessera.metrics import registry as metrics
from tessera.scheduler.actions import Action, GiveUp, Place, PodPlacement, Protect, Refuse
from tessera.scheduler.allocation import (
    ClaimPlacement,
    allocation_patch,
    consumers,
    message_patch,
    metadata_patch,
    needs_metadata,
    share_patch,
    take_back_patch,
    ungate_patch,
)
from tessera.scheduler.objects import Claim, Key, Pod
from tessera.scheduler.snapshot import Written

_log = logging.getLogger(__name__)

_CONCURRENT_WRITES = 16
_LEASE_CHECK_SECONDS = 0.25
"""Ungates of one round share a look at the Lease; between the look and a write a process can be paused in any
case.
"""
_NEWS_SECONDS = 30.0


class Writer:
    """The scheduler's pen. `verify` raises LeadershipLost when this replica does not hold the Lease."""

    def __init__(
        self,
        client: KubeClient,
        *,
        events: EventRecorder,
        verify: Callable[[], Awaitable[None]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.claims = Written()
        self.pods = Written()
        self._client = client
        self._events = events
        self._verify = verify
        self._clock = clock
        self._verified_at = float("-inf")
        self._lease_lock = asyncio.Lock()
        self._slots = asyncio.Semaphore(_CONCURRENT_WRITES)
        self._unsure: set[tuple[Resource, Key]] = set()
        self._told: dict[str, tuple[str, str, float]] = {}

    async def settle(self) -> None:
        """Read again every object whose last write we are not sure of. Raises Unreachable while that cannot
        be done.
        """
        for resource, key in sorted(self._unsure, key=lambda u: (u[0].plural, u[1])):
            try:
                obj = await self._client.get(resource, key[1], key[0])
            except NotFound:
                pass
            else:
                (self.claims if resource is RESOURCE_CLAIMS else self.pods).put(obj)
            self._unsure.discard((resource, key))

    async def carry_out(self, actions: Iterable[Action], *, now: float) -> None:
        """Do all of it, side by side. Raises LeadershipLost; other failures are left for the next round."""
        results = await asyncio.gather(*(self._do(action, now) for action in actions), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _do(self, action: Action, now: float) -> None:
        match action:
            case Place(pods):
                everyone = [placement.pod for placement in pods]
                placed = await asyncio.gather(*(self._allocate_pod(pod, everyone, now) for pod in pods))
                if all(placed):
                    await asyncio.gather(*(self._ungate(p.pod) for p in pods if p.pod.gated))
            case GiveUp(claim, pod, why):
                await self._give_up(claim, pod, why)
            case Protect(claim):
                await self._write(
                    RESOURCE_CLAIMS, claim.key, lambda: self._patch_claim(claim, metadata_patch(claim))
                )
            case Refuse():
                await self._refuse(action, now)

    # Allocating.

    async def _allocate_pod(self, placement: PodPlacement, together: list[Pod], now: float) -> bool:
        """All claims of a pod; `together` are the pods that are placed with it and may share them."""
        done = await asyncio.gather(
            *(self._allocate(claim, placement.pod, together, now) for claim in placement.claims),
            *(self._share(claim, placement.pod) for claim in placement.shares),
        )
        if placement.claims and all(done):
            waited = max(0.0, self._clock() - placement.waiting_since)
            for profile in {r.profile for c in placement.claims for r in c.results}:
                metrics.PLACED_AFTER_SECONDS.labels(profile).observe(waited)
            devices = ", ".join(r.device for c in placement.claims for r in c.results)
            message = f"{devices} on node {placement.claims[0].node}"
            self._tell(placement.pod.raw, "Normal", Reason.PLACED, "Allocate", message)
            for claim in placement.claims:
                self._tell(
                    claim.claim.raw,
                    "Normal",
                    Reason.PLACED,
                    "Allocate",
                    f"{message}, for pod {placement.pod.key[1]}",
                )
        return all(done)

    async def _allocate(self, placement: ClaimPlacement, pod: Pod, together: list[Pod], now: float) -> bool:
        claim = placement.claim

        async def write() -> None:
            version = claim.resource_version
            if needs_metadata(claim):
                version = (await self._patch_claim(claim, metadata_patch(claim)))["metadata"][
                    "resourceVersion"
                ]
            pods = consumers(claim, together)
            body = allocation_patch(placement, pods=pods, now=now, resource_version=version)
            await self._patch_claim(claim, body, subresource="status")
            self._told.pop(claim.uid, None)
            self._told.pop(pod.uid, None)

        return await self._write(RESOURCE_CLAIMS, claim.key, write)

    async def _share(self, claim: Claim, pod: Pod) -> bool:
        async def write() -> None:
            await self._check_lease()
            body = share_patch(claim, pod)
            self.claims.put(
                await self._client.patch(
                    RESOURCE_CLAIMS, claim.key[1], namespace=claim.key[0], body=body, kind="json",
                    subresource="status",
                )
            )  # fmt: skip

        return await self._write(RESOURCE_CLAIMS, claim.key, write)

    async def _ungate(self, pod: Pod) -> None:
        async def write() -> None:
            await self._check_lease()
            body = ungate_patch(pod)
            self.pods.put(
                await self._client.patch(PODS, pod.key[1], namespace=pod.key[0], body=body, kind="json")
            )
            metrics.UNGATED_TOTAL.inc()

        await self._write(PODS, pod.key, write)

    async def _give_up(self, claim: Claim, pod: Pod | None, why: str) -> None:
        async def write() -> None:
            await self._check_lease()
            await self._patch_claim(claim, take_back_patch(claim), subresource="status")
            metrics.TAKEBACKS_TOTAL.inc()

        if not await self._write(RESOURCE_CLAIMS, claim.key, write):
            return
        message = f"allocation of claim {claim.key[1]} is taken back: {why}; another place is tried"
        self._tell(claim.raw, "Warning", Reason.TAKEN_BACK, "TakeBack", message)
        if pod is not None:
            self._tell(pod.raw, "Warning", Reason.TAKEN_BACK, "TakeBack", message)

    # Telling.

    async def _refuse(self, refusal: Refuse, now: float) -> None:
        if not self._is_news(refusal.pod.uid, refusal, now):
            return
        kind: EventType = "Normal" if refusal.reason == Reason.AWAITING_PLACEMENT else "Warning"
        self._tell(refusal.pod.raw, kind, refusal.reason, "Place", refusal.message)
        text = json.dumps({"reason": str(refusal.reason), "message": refusal.message}, ensure_ascii=False)
        for claim in refusal.claims:
            self._tell(claim.raw, kind, refusal.reason, "Place", refusal.message)
            if claim.message != text:
                await self._note(claim, text)

    async def _note(self, claim: Claim, text: str) -> None:
        body = message_patch(claim, text)
        await self._write(RESOURCE_CLAIMS, claim.key, lambda: self._patch_claim(claim, body))

    def _is_news(self, uid: str, refusal: Refuse, now: float) -> bool:
        """A new reason at once, new words for the same reason only every half minute: free room changes all
        the time.
        """
        reason, message, at = self._told.get(uid, ("", "", 0.0))
        if reason == refusal.reason and (message == refusal.message or now - at < _NEWS_SECONDS):
            return False
        self._told[uid] = (refusal.reason, refusal.message, now)
        return True

    def forget_all_but(self, uids: set[str]) -> None:
        """Drop what was told about objects that are gone."""
        self._told = {uid: told for uid, told in self._told.items() if uid in uids}

    def _tell(self, obj: Any, kind: EventType, reason: str, action: str, message: str) -> None:
        metadata = obj["metadata"]
        _log.info("%s %s/%s: %s: %s", obj["kind"], metadata["namespace"], metadata["name"], reason, message)
        self._events.emit(obj, type=kind, reason=reason, action=action, message=message)

    # Writing.

    async def _patch_claim(
        self, claim: Claim, body: dict[str, Any], *, subresource: str | None = None
    ) -> dict[str, Any]:
        obj = await self._client.patch(
            RESOURCE_CLAIMS, claim.key[1], namespace=claim.key[0], body=body, subresource=subresource
        )
        self.claims.put(obj)
        return obj

    async def _check_lease(self) -> None:
        async with self._lease_lock:
            loop = asyncio.get_running_loop()
            if loop.time() - self._verified_at > _LEASE_CHECK_SECONDS:
                asked_at = loop.time()
                await self._verify()
                self._verified_at = asked_at

    async def _write(self, resource: Resource, key: Key, write: Callable[[], Awaitable[Any]]) -> bool:
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
