"""When a refused unit is tried again: when something changed that could help it, or half a minute passed.

On a full cluster most pods of the queue are refused in every round. Asking again for each of them after each
change anywhere would make the rounds as slow as the queue is long, so the answer of the last try stands
until the world or the unit itself looks different.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tessera.scheduler.objects import Pod
from tessera.scheduler.snapshot import Snapshot
from tessera.scheduler.units import Unit

RETRY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """When a unit was tried, and what it and the world looked like."""

    world: tuple[object, ...]
    unit: tuple[object, ...]
    at: float

    def still_holds(self, now: Attempt) -> bool:
        """Whether trying again would be of no use."""
        return (self.world, self.unit) == (now.world, now.unit) and now.at - self.at < RETRY_SECONDS


class Retries:
    """The last refusal of each unit, by the UID of its first pod."""

    def __init__(self) -> None:
        self._refused: dict[str, Attempt] = {}
        self._rules: tuple[object, ...] = ()
        self._changes = 0

    def follow(self, snapshot: Snapshot) -> None:
        """Notice what may help somebody: another node, class or reserve. Room that became free on GPUs and
        nodes is counted elsewhere.
        """
        rules = (snapshot.nodes, snapshot.classes, snapshot.reserves)
        if rules != self._rules:
            self._rules = rules
            self._changes += 1

    def attempt(self, unit: Unit, snapshot: Snapshot, *, world: tuple[object, ...]) -> Attempt:
        """The try that would be made now. `world` is what else an answer depends on."""
        looks = tuple(_appearance(pod, snapshot) for pod in unit.pods)
        return Attempt((self._changes, *world), (unit.started, *looks), snapshot.now)

    def is_useless(self, unit: Unit, attempt: Attempt) -> bool:
        """Whether the last refusal answers this try as well."""
        last = self._refused.get(unit.pods[0].uid)
        return last is not None and last.still_holds(attempt)

    def refused(self, unit: Unit, attempt: Attempt) -> None:
        """Remember a refusal."""
        self._refused[unit.pods[0].uid] = attempt

    def placed(self, unit: Unit) -> None:
        """The unit has what it wanted."""
        self._refused.pop(unit.pods[0].uid, None)

    def keep_only(self, uids: Collection[str]) -> None:
        """Forget pods that are gone."""
        self._refused = {uid: attempt for uid, attempt in self._refused.items() if uid in uids}


def _appearance(pod: Pod, snapshot: Snapshot) -> tuple[object, ...]:
    """What of a pod and its claims a refusal depends on; the messages that we write ourselves are not part of
    it.
    """
    claims = tuple(
        None if claim is None else (claim.uid, claim.allocated, claim.deleting)
        for claim in (snapshot.claim_of(pod, entry.claim) for entry in pod.claims)
    )
    return (pod.uid, pod.gates, pod.node, claims)
