"""Carries out what was decided about moves: placeholders, rooms, evictions, the note on the Lease.

Each action is small and may be repeated at any time: a placeholder that is there already is read and used
when it is ours, one that is gone is gone, a pod that may not be evicted stays and the next rounds see it.
"""

from __future__ import annotations

import logging

from tessera.api.reasons import Reason
from tessera.kube.client import Object
from tessera.kube.errors import AlreadyExists, ApiError, NotFound, Unreachable
from tessera.kube.resources import JOBS, PODS, RESOURCE_CLAIMS, Resource
from tessera.metrics import registry as metrics
from tessera.scheduler.actions import (
    AskForReplacement,
    Evict,
    FreeTarget,
    HoldTarget,
    KeepRoom,
    MoveAction,
    NoteDepartures,
)
from tessera.scheduler.allocation import take_back_patch
from tessera.scheduler.lease_notes import LeaseNotes
from tessera.scheduler.move_bodies import (
    hold_patch,
    is_same_hold,
    let_go_patch,
    placeholder,
    release_patch,
    room_patch,
)
from tessera.scheduler.move_endings import why_none_comes
from tessera.scheduler.move_records import (
    COMPACTION,
    NO_REPLACEMENT,
    PREEMPTED,
    ROOM,
    MoveRecord,
    RoomRecord,
    read_move,
)
from tessera.scheduler.objects import Claim
from tessera.scheduler.pen import Pen

_log = logging.getLogger(__name__)

_REFUSALS_SECONDS = 30.0
"""A refusal is told at most once in this time to each waiting pod; it is asked again more often."""


class MoveWriter:
    """Writes placeholders into `namespace`, with the scheduler's pen."""

    def __init__(self, pen: Pen, *, namespace: str) -> None:
        self._pen = pen
        self._namespace = namespace
        self._notes = LeaseNotes(pen, namespace=namespace)
        self._refusals_told: dict[str, float] = {}

    async def do(self, action: MoveAction, now: float) -> None:
        """One action. Raises LeadershipLost; other failures are left for the next round."""
        match action:
            case HoldTarget():
                await self._hold(action, now)
            case KeepRoom(claim, record):
                await self._keep_room(claim, record)
            case Evict():
                await self._evict(action, now)
            case FreeTarget(claim, outcome):
                await self.remove(claim, outcome)
            case AskForReplacement(claim, record):
                await self._ask_for_replacement(claim, record)
            case NoteDepartures(text):
                await self._notes.note(text)

    async def settle(self) -> None:
        """Write again what could not be written. Raises LeadershipLost."""
        await self._notes.settle()

    # Placeholders.

    async def _hold(self, hold: HoldTarget, now: float) -> None:
        async def write() -> None:
            obj = await self._made(hold)
            if obj is None or (obj.get("status") or {}).get("allocation"):
                return
            self._pen.claims.put(
                await self._pen.client.patch(
                    RESOURCE_CLAIMS, hold.name, namespace=self._namespace,
                    body=hold_patch(obj, hold, now=now), subresource="status",
                )
            )  # fmt: skip

        await self._pen.write(RESOURCE_CLAIMS, (self._namespace, hold.name), write)

    async def _made(self, hold: HoldTarget) -> Object | None:
        """The placeholder, made now or before; None when its name is taken by something else."""
        await self._pen.check_lease()
        try:
            obj = await self._pen.client.create(
                RESOURCE_CLAIMS, placeholder(hold, namespace=self._namespace), namespace=self._namespace
            )
        except AlreadyExists:
            # Made before: by a leader that was killed, or by us and the answer was lost.
            obj = await self._pen.client.get(RESOURCE_CLAIMS, hold.name, self._namespace)
        self._pen.claims.put(obj, created=True)
        if is_same_hold(obj, hold):
            return obj
        _log.error(
            "ResourceClaim %s/%s is not the placeholder that is wanted there; the move waits for its end",
            self._namespace,
            hold.name,
        )
        return None

    async def clear(self, claim: Claim) -> bool:
        """Take the slice from a placeholder, for the replacement that is to have it now."""
        if claim.allocated is None:
            return True

        async def write() -> None:
            await self._pen.check_lease()
            await self._pen.patch_claim(claim, take_back_patch(claim), subresource="status")

        return await self._pen.write(RESOURCE_CLAIMS, claim.key, write)

    async def remove(self, claim: Claim, outcome: str) -> None:
        """Delete a placeholder and count what became of its move.

        The first of the three writes decides. What follows is done by kube-controller-manager too, so that a
        placeholder whose writer is killed in between holds nothing for long.
        """

        async def write() -> None:
            await self._pen.check_lease()
            try:
                await self._pen.client.delete(
                    RESOURCE_CLAIMS, claim.key[1], namespace=claim.key[0], uid=claim.uid
                )
                if claim.allocated is not None:
                    await self._pen.patch_claim(claim, release_patch(claim), subresource="status")
                await self._pen.patch_claim(claim, let_go_patch(claim))
            except NotFound:
                _log.info("placeholder %s is gone", "/".join(claim.key))
            self._pen.claims.remove(claim.raw)

        if await self._pen.write(RESOURCE_CLAIMS, claim.key, write):
            record = read_move(claim.move)
            kind = ROOM if record is None or record.compaction is None else COMPACTION
            metrics.MOVES_TOTAL.labels(outcome, kind).inc()

    async def _ask_for_replacement(self, claim: Claim, record: MoveRecord) -> None:
        """Free the target when nobody will come. What cannot be read keeps it until its deadline."""
        namespace, name, _ = record.victim_pod
        try:
            pod = await self._found(PODS, name, namespace)
            job = await self._found(JOBS, record.job_name, namespace) if record.job_name else None
        except (ApiError, Unreachable, TimeoutError) as error:
            _log.info("whether pod %s/%s is replaced cannot be read: %s", namespace, name, error)
            return
        why = why_none_comes(record, pod=pod, job=job)
        if why:
            _log.info("placeholder %s is freed: %s", "/".join(claim.key), why)
            await self.remove(claim, NO_REPLACEMENT)

    async def _found(self, resource: Resource, name: str, namespace: str) -> Object | None:
        try:
            return await self._pen.client.get(resource, name, namespace)
        except NotFound:
            return None

    # Rooms and evictions.

    async def _keep_room(self, claim: Claim, record: RoomRecord | None) -> None:
        async def write() -> None:
            await self._pen.check_lease()
            await self._pen.patch_claim(claim, room_patch(claim, record))

        await self._pen.write(RESOURCE_CLAIMS, claim.key, write)

    async def _evict(self, evict: Evict, now: float) -> None:
        pod = evict.pod

        async def write() -> None:
            await self._pen.check_lease()
            try:
                await self._pen.client.evict(pod.key[1], namespace=pod.key[0], uid=pod.uid)
            except ApiError as error:
                if not error.disruption_budget:
                    raise
                _log.info("pod %s may not be evicted now: %s", "/".join(pod.key), error)
                self._tell_refusal(evict, error, now)
                return
            if evict.reason == Reason.PREEMPTED:
                metrics.MOVES_TOTAL.labels(PREEMPTED, ROOM).inc()
            self._pen.tell(pod.raw, "Normal", evict.reason, "Evict", evict.why)

        await self._pen.write(PODS, pod.key, write)

    def _tell_refusal(self, evict: Evict, error: ApiError, now: float) -> None:
        """Tell the waiting pod, if there is one, what keeps its room."""
        waiting = evict.waiting
        told = {uid: at for uid, at in self._refusals_told.items() if now - at < _REFUSALS_SECONDS}
        if waiting is not None and waiting.uid not in told:
            told[waiting.uid] = now
            victim = "/".join(evict.pod.key)
            message = (
                f"pod {victim}, which is to make room for this one, may not be evicted for now: "
                f"its PodDisruptionBudget refuses ({error.disruption_budget}); it is asked again"
            )
            self._pen.tell(waiting.raw, "Warning", Reason.EVICTION_REFUSED, "Evict", message)
        self._refusals_told = told
