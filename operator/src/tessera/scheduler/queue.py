"""Who waits, for what, and for how long: the numbers behind the queue's metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from tessera.metrics import registry as metrics
from tessera.scheduler.actions import PodPlacement
from tessera.scheduler.objects import Key, Pod
from tessera.scheduler.snapshot import Snapshot
from tessera.scheduler.units import Unit

AT_ONCE = "at_once"
LATER = "later"


@dataclass(slots=True)
class _Waiting:
    since: float
    profile: str = "unknown"


class Queue:
    """Pods that wait for a slice: until they are placed, or have changed and are not told to wait again."""

    def __init__(self) -> None:
        self._known: dict[str, _Waiting] = {}
        self._now = 0.0
        self._waits: dict[str, None] = {}
        self._judged: set[str] = set()

    @property
    def depth(self) -> int:
        """Pods that wait after this round."""
        return len(self._waits)

    @property
    def waiting(self) -> Collection[str]:
        """Their UIDs."""
        return self._waits.keys()

    def follow(self, snapshot: Snapshot, affected: Iterable[Key]) -> None:
        """A round begins, in which these pods look different."""
        self._now = snapshot.now
        for pod in (snapshot.pods[key] for key in affected if key in snapshot.pods):
            self._waits.pop(pod.uid, None)

    def still_waits(self, unit: Unit) -> None:
        """The unit goes on waiting, for what it was refused before."""
        for pod in unit.pods:
            self._known.setdefault(pod.uid, _Waiting(self._now))
            self._waits[pod.uid] = None

    def refused(self, unit: Unit, profile: str, asked: Callable[[Pod], Sequence[str]]) -> None:
        """The unit waits for room for this profile; `asked` says which ones a pod asks for, one for each
        slice, or none while that is not known.
        """
        self.still_waits(unit)
        for pod in unit.pods:
            self._known[pod.uid].profile = profile
            self._judge(pod.uid, asked(pod) or (profile,), LATER)

    def placed(self, placements: Sequence[PodPlacement], now: float) -> tuple[PodPlacement, ...]:
        """The placements with the time since when each pod has waited."""
        done = []
        for placed in placements:
            uid = placed.pod.uid
            self._waits.pop(uid, None)
            since = self._known[uid].since if uid in self._known else now
            done.append(replace(placed, waiting_since=since))
            self._judge(uid, [r.profile for c in placed.claims for r in c.results], AT_ONCE)
        return tuple(done)

    def forget(self, uids: Iterable[str]) -> None:
        """Pods that are gone."""
        for uid in uids:
            self._known.pop(uid, None)
            self._waits.pop(uid, None)
            self._judged.discard(uid)

    def show(self) -> None:
        """Set the gauges."""
        depth: Counter[str] = Counter()
        oldest: dict[str, float] = {}
        for uid in self._waits:
            waiting = self._known[uid]
            depth[waiting.profile] += 1
            oldest[waiting.profile] = max(oldest.get(waiting.profile, 0.0), self._now - waiting.since)
        clear_queue()
        metrics.PENDING_PODS.set(self.depth)
        for profile, count in depth.items():
            metrics.QUEUE_DEPTH.labels(profile).set(count)
            metrics.QUEUE_OLDEST_SECONDS.labels(profile).set(oldest[profile])

    def _judge(self, uid: str, profiles: Sequence[str], outcome: str) -> None:
        """Count the slices of a pod by its first answer: the share that is served at once is the acceptance
        of a profile.
        """
        if not profiles or uid in self._judged:
            return
        self._judged.add(uid)
        for profile in profiles:
            metrics.REQUESTS_TOTAL.labels(profile, outcome).inc()


def clear_queue() -> None:
    """Show nothing: this replica does not know."""
    metrics.PENDING_PODS.set(0)
    metrics.QUEUE_DEPTH.clear()
    metrics.QUEUE_OLDEST_SECONDS.clear()
