"""Carries out what a round decided: allocating, letting go, taking back, and telling why.

Every write of the scheduler to the API server goes through its pen (`pen`), which keeps what was written and
reads again what it is not sure of. What moves need is carried out in `move_writer`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable

from tessera.api import names
from tessera.api.reasons import Reason
from tessera.kube.client import KubeClient
from tessera.kube.events import EventRecorder, EventType
from tessera.kube.resources import PODS, RESOURCE_CLAIMS
from tessera.metrics import registry as metrics
from tessera.scheduler.actions import (
    Action,
    GiveUp,
    Place,
    PodPlacement,
    Protect,
    Refuse,
)
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
from tessera.scheduler.move_records import MOVED
from tessera.scheduler.move_writer import MoveWriter
from tessera.scheduler.objects import Claim, Pod
from tessera.scheduler.pen import Pen
from tessera.scheduler.snapshot import Written

_NEWS_SECONDS = 30.0
_GOOD_NEWS = frozenset({Reason.AWAITING_PLACEMENT, Reason.MAKING_ROOM})
"""Reasons to wait that nobody has to do anything about."""


class Writer:
    """`verify` raises LeadershipLost when this replica does not hold the Lease. Placeholders of moves are
    made in `namespace`.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        events: EventRecorder,
        verify: Callable[[], Awaitable[None]],
        namespace: str = names.SYSTEM_NAMESPACE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._pen = Pen(client, events=events, verify=verify)
        self._moves = MoveWriter(self._pen, namespace=namespace)
        self._clock = clock
        self._told: dict[str, tuple[str, str, float]] = {}

    @property
    def claims(self) -> Written:
        """Claims as last written."""
        return self._pen.claims

    @property
    def pods(self) -> Written:
        """Pods as last written."""
        return self._pen.pods

    async def settle(self) -> None:
        """Read again what we are not sure of. Raises Unreachable while that cannot be done, and
        LeadershipLost.
        """
        await self._pen.settle()
        await self._moves.settle()

    async def carry_out(self, actions: Iterable[Action], *, now: float) -> None:
        """Do all of it, side by side. Raises LeadershipLost; other failures are left for the next round."""
        results = await asyncio.gather(*(self._do(action, now) for action in actions), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _do(self, action: Action, now: float) -> None:
        match action:
            case Place():
                await self._place(action, now)
            case GiveUp(claim, pod, why):
                await self._give_up(claim, pod, why)
            case Protect(claim):
                await self._pen.write(
                    RESOURCE_CLAIMS, claim.key, lambda: self._pen.patch_claim(claim, metadata_patch(claim))
                )
            case Refuse():
                await self._refuse(action, now)
            case _:
                await self._moves.do(action, now)

    # Allocating.

    async def _place(self, place: Place, now: float) -> None:
        """A placeholder is deleted only when its slice has its new owner: when we are killed in between, the
        next leader still knows for whom it was held.
        """
        if not all(await asyncio.gather(*(self._moves.clear(target) for target in place.frees))):
            return
        everyone = [placement.pod for placement in place.pods]
        placed = await asyncio.gather(*(self._allocate_pod(pod, everyone, now) for pod in place.pods))
        if not all(placed):
            return
        await asyncio.gather(
            *(self._ungate(p.pod) for p in place.pods if p.pod.gated),
            *(self._moves.remove(target, MOVED) for target in place.frees),
        )

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
            # On the pod only: the claim's status says the same.
            self._pen.tell(placement.pod.raw, "Normal", Reason.PLACED, "Allocate", message)
        return all(done)

    async def _allocate(self, placement: ClaimPlacement, pod: Pod, together: list[Pod], now: float) -> bool:
        claim = placement.claim

        async def write() -> None:
            version = claim.resource_version
            if needs_metadata(claim):
                version = (await self._pen.patch_claim(claim, metadata_patch(claim)))["metadata"][
                    "resourceVersion"
                ]
            pods = consumers(claim, together)
            body = allocation_patch(placement, pods=pods, now=now, resource_version=version)
            await self._pen.patch_claim(claim, body, subresource="status")
            self._told.pop(claim.uid, None)
            self._told.pop(pod.uid, None)

        return await self._pen.write(RESOURCE_CLAIMS, claim.key, write)

    async def _share(self, claim: Claim, pod: Pod) -> bool:
        async def write() -> None:
            await self._pen.check_lease()
            body = share_patch(claim, pod)
            self._pen.claims.put(
                await self._pen.client.patch(
                    RESOURCE_CLAIMS, claim.key[1], namespace=claim.key[0], body=body, kind="json",
                    subresource="status",
                )
            )  # fmt: skip

        return await self._pen.write(RESOURCE_CLAIMS, claim.key, write)

    async def _ungate(self, pod: Pod) -> None:
        async def write() -> None:
            await self._pen.check_lease()
            body = ungate_patch(pod)
            self._pen.pods.put(
                await self._pen.client.patch(PODS, pod.key[1], namespace=pod.key[0], body=body, kind="json")
            )
            metrics.UNGATED_TOTAL.inc()

        await self._pen.write(PODS, pod.key, write)

    async def _give_up(self, claim: Claim, pod: Pod | None, why: str) -> None:
        async def write() -> None:
            await self._pen.check_lease()
            await self._pen.patch_claim(claim, take_back_patch(claim), subresource="status")
            metrics.TAKEBACKS_TOTAL.inc()

        if not await self._pen.write(RESOURCE_CLAIMS, claim.key, write):
            return
        message = f"allocation of claim {claim.key[1]} is taken back: {why}; another place is tried"
        self._pen.tell(claim.raw, "Warning", Reason.TAKEN_BACK, "TakeBack", message)
        if pod is not None:
            self._pen.tell(pod.raw, "Warning", Reason.TAKEN_BACK, "TakeBack", message)

    # Telling.

    async def _refuse(self, refusal: Refuse, now: float) -> None:
        if not self._is_news(refusal.pod.uid, refusal, now):
            return
        kind: EventType = "Normal" if refusal.reason in _GOOD_NEWS else "Warning"
        self._pen.tell(refusal.pod.raw, kind, refusal.reason, "Place", refusal.message)
        text = json.dumps({"reason": str(refusal.reason), "message": refusal.message}, ensure_ascii=False)
        for claim in refusal.claims:
            self._pen.tell(claim.raw, kind, refusal.reason, "Place", refusal.message)
            if claim.message != text:
                await self._note(claim, text)

    async def _note(self, claim: Claim, text: str) -> None:
        body = message_patch(claim, text)
        await self._pen.write(RESOURCE_CLAIMS, claim.key, lambda: self._pen.patch_claim(claim, body))

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
