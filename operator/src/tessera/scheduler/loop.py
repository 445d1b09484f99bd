"""The scheduler process: wait for the Lease, look, decide, write, again.

A new leader waits two seconds before it looks, so that the last write of the old one has arrived, then lists
everything from the store (never from a cache), and only then writes. A round is: take a snapshot, plan, carry
out, and wait for the next change. Rounds never overlap, so what a round has written is part of the next one's
snapshot.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tessera.api import names
from tessera.kube.client import KubeClient
from tessera.kube.errors import ApiError, Unreachable
from tessera.kube.events import EventRecorder
from tessera.kube.lease import LeaderElector, LeadershipLost
from tessera.metrics import registry as metrics
from tessera.placement.policies import POLICIES
from tessera.placement.queue_order import QueueOrder
from tessera.scheduler.following import Following
from tessera.scheduler.gauges import StateGauges, clear_state, show_rations, show_reserves
from tessera.scheduler.lease_notes import read_note
from tessera.scheduler.planner import GANG_TIME_LIMIT_SECONDS, Planner
from tessera.scheduler.queue import clear_queue
from tessera.scheduler.snapshot import SnapshotReader
from tessera.scheduler.writer import Writer

_log = logging.getLogger(__name__)

_TICK_SECONDS = 2.0
_GATHER_SECONDS = 0.02
_GAUGE_SECONDS = 5.0
_STUCK_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How this process schedules.

    `lease_namespace`: where the Lease is, and the placeholders of moves.
    `takeback_grace_seconds`: how long an ungated pod may stay unscheduled before its slice is taken back.
    `gang_time_limit_seconds`: how long a gang may take to come together before that is told as an error.
    `queue_order`: who is served first, and after which wait a place is reserved for whom fits nowhere.
    `settle_seconds`: how long a new leader waits before it looks.
    """

    lease_namespace: str
    identity: str
    policy: str = "default"
    takeback_grace_seconds: float = 30.0
    gang_time_limit_seconds: float = GANG_TIME_LIMIT_SECONDS
    queue_order: QueueOrder = field(default_factory=QueueOrder)
    settle_seconds: float = 2.0
    lease_seconds: float = 15.0
    renew_deadline_seconds: float = 10.0
    retry_seconds: float = 2.0


class Scheduler:
    """One replica. `run` takes part in the election for ever and schedules while it leads."""

    def __init__(
        self,
        client: KubeClient,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._settings = settings
        self._clock = clock
        self._monotonic = monotonic
        self._elector = LeaderElector(
            client,
            namespace=settings.lease_namespace,
            name=names.SCHEDULER_LEASE,
            identity=settings.identity,
            clock=monotonic,
            lease_seconds=settings.lease_seconds,
            renew_deadline_seconds=settings.renew_deadline_seconds,
            retry_seconds=settings.retry_seconds,
        )
        self._changed = asyncio.Event()
        self._round_ended_at: float | None = None
        self._trouble: str | None = None

    async def run(self) -> None:
        """Returns only by cancellation."""
        while True:
            await self._elector.run(self._lead)
            self._round_ended_at = None
            # The trouble was a leader's; as a candidate this replica is as good as any other.
            self._trouble = None
            _log.warning("%s does not lead any more", self._settings.identity)

    async def alive(self) -> str | None:
        """For `/healthz`: a leader whose rounds have stopped should be restarted."""
        if self._round_ended_at is None:
            return None
        silence = self._monotonic() - self._round_ended_at
        return f"no round has ended for {silence:.0f} s" if silence >= _STUCK_SECONDS else None

    async def ready(self) -> str | None:
        """For `/readyz`: a candidate that waits is ready; a leader is when it can reach the API server."""
        return self._trouble

    async def _lead(self) -> None:
        await asyncio.sleep(self._settings.settle_seconds)
        follow = Following(self._client, self._changed.set)
        self._trouble = "the cluster is not listed yet"
        try:
            await follow.start()
            _log.info("the cluster is listed; scheduling begins")
            await self._rounds(follow)
        except LeadershipLost as error:
            _log.warning("%s", error)
        except (TimeoutError, ApiError, Unreachable) as error:
            _log.error("the cluster cannot be listed: %s; the Lease is given back", error)
        finally:
            await follow.stop()
            # What a leader showed must not stand beside the next leader's numbers.
            clear_queue()
            clear_state()

    async def _rounds(self, follow: Following) -> None:
        events = EventRecorder(self._client, component="scheduler", instance=self._settings.identity)
        writer = Writer(
            self._client,
            events=events,
            verify=self._elector.verify,
            namespace=self._settings.lease_namespace,
            clock=self._clock,
        )
        planner, reader = await self._new_planner(), SnapshotReader()
        await follow.read_devices(reader)
        gauges, gauges_at = StateGauges(), float("-inf")
        # From here on: the first round may be the one that hangs.
        self._round_ended_at = self._monotonic()
        while True:
            planning_seconds = 0.0
            self._changed.clear()
            try:
                await writer.settle()
                news = await follow.news(pods=writer.pods, claims=writer.claims)
                started = self._monotonic()
                snapshot = reader.update(news, now=self._clock())
                actions = planner.plan(snapshot)
                planning_seconds = self._monotonic() - started
                if planner.unfinished:
                    self._changed.set()
                await writer.carry_out(actions, now=snapshot.now)
                metrics.PENDING_PODS.set(planner.waiting)
                if started - gauges_at >= _GAUGE_SECONDS:
                    gauges.show(planner.occupancy.state, planner.engine.policy)
                    show_reserves(planner.reserves)
                    show_rations(planner.moving.rations(now=snapshot.now))
                    planner.queue.show()
                    writer.forget_all_but(set(planner.index.keys))
                    gauges_at = started
                self._trouble = None
            except (ApiError, Unreachable) as error:
                self._trouble = f"the API server does not answer as it should: {error}"
                _log.warning("%s", self._trouble)
            except LeadershipLost:
                raise
            except Exception:
                # The edge of the loop: a defect must not become a crash loop that stops all scheduling.
                metrics.UNHANDLED_ERRORS_TOTAL.labels("scheduler round").inc()
                self._trouble = "a round failed by a defect; see the log"
                _log.exception("a round failed; the next one starts from all objects as they are")
                # Nobody knows how far the books got.
                planner, reader = await self._new_planner(), SnapshotReader()
                follow.start_over()
                await follow.read_devices(reader)
            self._round_ended_at = self._monotonic()
            await self._wait(at_least=max(_GATHER_SECONDS, planning_seconds))

    async def _new_planner(self) -> Planner:
        """One that knows nothing but who has left in the last hour. Raises ApiError and Unreachable."""
        planner = Planner(
            POLICIES[self._settings.policy](),
            grace_seconds=self._settings.takeback_grace_seconds,
            gang_time_limit_seconds=self._settings.gang_time_limit_seconds,
            namespace=self._settings.lease_namespace,
            order=self._settings.queue_order,
        )
        planner.moving.remember(await read_note(self._client, namespace=self._settings.lease_namespace))
        return planner

    async def _wait(self, *, at_least: float) -> None:
        """Until something changes, at most one tick; a burst of changes is gathered into one round, and
        planning takes at most half of the time.
        """
        try:
            async with asyncio.timeout(_TICK_SECONDS):
                await self._changed.wait()
        except TimeoutError:
            return
        await asyncio.sleep(at_least)
