"""Leader election by a Lease: at most one replica acts, and it knows when it may no longer.

A candidate takes the Lease when it is free, or when the holder has not renewed it for the lease time *as
measured by the candidate's own monotonic clock since it saw the last change*; no clocks are compared
between machines. The holder renews, and gives up at the renew deadline, which is shorter, so it stops
before another may start. Every write carries the resourceVersion that was read, so of two candidates one
wins.

A paused process is the hard case: it wakes up long after its deadline and still believes. `is_leader`
compares the clock at the moment of asking, so it is false at once; the task of `on_started` is cancelled as
soon as the loop runs; and `verify()` asks the API server, for writes that nothing else fences. (Allocations
are fenced by an admission policy that reads the same Lease.)
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tessera.api.errors import TesseraError
from tessera.kube.client import KubeClient
from tessera.kube.conditions import micro_timestamp
from tessera.kube.errors import AlreadyExists, ApiError, Conflict, NotFound, Unreachable
from tessera.kube.resources import LEASES
from tessera.metrics import registry as metrics

_log = logging.getLogger(__name__)


class LeadershipLost(TesseraError):
    """This replica does not hold the Lease (any more); what it was about to do belongs to another."""


class LeaderElector:
    """Takes part in the election for one Lease.

    `identity` is the pod's name: the admission policies compare it.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        lease_seconds: float = 15,
        renew_deadline_seconds: float = 10,
        retry_seconds: float = 2,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not retry_seconds < renew_deadline_seconds < lease_seconds:
            raise ValueError("a Lease needs retry_seconds < renew_deadline_seconds < lease_seconds")
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._lease_seconds = lease_seconds
        self._renew_deadline_seconds = renew_deadline_seconds
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._valid_until: float | None = None
        self._seen: tuple[str, Any] | None = None
        self._seen_at = 0.0
        self._runs_out_at = 0.0
        # A replica that stands by says so: one that never led would not show the metric at all.
        metrics.LEADER.labels(name).set(0)

    @property
    def is_leader(self) -> bool:
        """Whether the Lease is ours and its renew deadline is not past, at this moment."""
        return self._valid_until is not None and self._clock() < self._valid_until

    async def verify(self) -> None:
        """Ask the API server whether the Lease is still ours.

        Raises LeadershipLost, or the error of the request.
        """
        lease = await self._client.get(LEASES, self._name, self._namespace)
        holder = (lease.get("spec") or {}).get("holderIdentity") or "nobody"
        if holder != self._identity or not self.is_leader:
            why = f"it is held by {holder}" if holder != self._identity else "it was not renewed in time"
            raise LeadershipLost(
                f"{self._identity} no longer leads by Lease {self._namespace}/{self._name}",
                why,
                "Nothing was written; the new leader goes on",
            )

    async def run(self, on_started: Callable[[], Awaitable[None]]) -> None:
        """Wait for the Lease, run `on_started` while it is ours, return when it is lost or the work is done.

        `on_started` is cancelled, and has ended, before this returns. The Lease is given back when we stop
        of our own will (`on_started` ended, or this was cancelled), so that another replica need not wait
        for it to run out.
        """
        await self._acquire()
        _log.info("%s leads by Lease %s/%s", self._identity, self._namespace, self._name)
        metrics.LEADER.labels(self._name).set(1)
        work = asyncio.ensure_future(on_started())
        renewal = asyncio.create_task(self._renew_until_lost(), name=f"renew {self._name}")
        try:
            await asyncio.wait({work, renewal}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost = renewal.done()
            metrics.LEADER.labels(self._name).set(0)
            work.cancel()
            # The work ends before the renewal does, so that it never runs on past the Lease; the deadline
            # still holds.
            await asyncio.gather(work, return_exceptions=True)
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)
            if not lost:
                await self._release()
            self._valid_until = None
        for task in (work, renewal):
            # An error of the work, or a defect of the renewal, must not look like a lost Lease.
            if not task.cancelled():
                task.result()

    async def _acquire(self) -> None:
        while True:
            try:
                if await self._try_acquire():
                    return
            except (Conflict, AlreadyExists):
                _log.debug("another replica was faster with Lease %s", self._name)
            except (ApiError, Unreachable, TimeoutError) as error:
                _log.warning("cannot take Lease %s/%s: %s", self._namespace, self._name, error)
            await asyncio.sleep(self._until_next_try())

    def _until_next_try(self) -> float:
        """Seconds: the retry time, or less when the holder's time runs out before; candidates spread out."""
        retry = self._retry_seconds * random.uniform(1.0, 1.2)
        left = self._runs_out_at - self._clock()
        return left + 0.1 * retry if 0 < left < retry else retry

    async def _renew_until_lost(self) -> None:
        """Returns when the Lease is lost: taken by another, or not renewed before the deadline."""
        assert self._valid_until is not None
        while True:
            await asyncio.sleep(min(self._retry_seconds, max(0.0, self._valid_until - self._clock())))
            left = self._valid_until - self._clock()
            if left <= 0:
                _log.error("Lease %s/%s was not renewed in time; stopping", self._namespace, self._name)
                return
            try:
                async with asyncio.timeout(left):
                    if not await self._try_acquire():
                        _log.error("Lease %s/%s was taken by another; stopping", self._namespace, self._name)
                        return
            except (ApiError, Unreachable, TimeoutError) as error:
                # A Conflict is decided by the next read; all else may pass before the deadline.
                _log.warning("cannot renew Lease %s/%s yet: %r", self._namespace, self._name, error)

    async def _try_acquire(self) -> bool:
        """Take or renew the Lease if we may.

        False when another holds it. Raises the error of a request that failed.
        """
        # Counted from before the request: what we may assume must end before what others assume.
        asked_at = self._clock()
        try:
            lease = await self._client.get(LEASES, self._name, self._namespace)
        except NotFound:
            await self._client.create(LEASES, self._fresh_lease())
            self._valid_until = asked_at + self._renew_deadline_seconds
            return True
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        record = (holder, spec.get("renewTime"))
        if record != self._seen:
            self._seen, self._seen_at = record, asked_at
        duration = float(spec.get("leaseDurationSeconds") or self._lease_seconds)
        self._runs_out_at = self._seen_at + duration
        if holder not in ("", self._identity) and asked_at < self._runs_out_at:
            return False
        await self._client.replace(LEASES, self._taken(lease, changed_hands=holder != self._identity))
        self._valid_until = asked_at + self._renew_deadline_seconds
        return True

    def _fresh_lease(self) -> dict[str, Any]:
        now = micro_timestamp()
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": max(1, round(self._lease_seconds)),
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": 0,
            },
        }

    def _taken(self, lease: dict[str, Any], *, changed_hands: bool) -> dict[str, Any]:
        now = micro_timestamp()
        spec = dict(lease.get("spec") or {})
        spec |= {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._lease_seconds)),
            "renewTime": now,
        }
        if changed_hands:
            spec |= {"acquireTime": now, "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1}
        return lease | {"spec": spec}

    async def _release(self) -> None:
        if not self.is_leader:
            return
        try:
            async with asyncio.timeout(self._retry_seconds):
                lease = await self._client.get(LEASES, self._name, self._namespace)
                spec = lease.get("spec") or {}
                if spec.pop("holderIdentity", None) == self._identity:
                    await self._client.replace(LEASES, lease | {"spec": spec})
        except (ApiError, Unreachable, TimeoutError) as error:
            why = str(error) or f"no answer within {self._retry_seconds:g} s"
            _log.warning("Lease %s/%s was not given back: %s", self._namespace, self._name, why)
