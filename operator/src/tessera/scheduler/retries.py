"""When a refused unit is tried again: when something changed that could help it, or half a minute passed.

On a full cluster most pods of the queue are refused in every round. Asking again for each of them after each
change anywhere would make the rounds as slow as the queue is long, so the answer of the last try stands
until the world or the unit itself looks different. When the world does, of pods that ask the same of the same
nodes one is asked: while it is refused, the others would be too.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import count

from tessera.scheduler.changes import Changes
from tessera.scheduler.objects import Key, Pod
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


@dataclass(slots=True)
class _Refusal:
    """The last refusal of a unit. `until` (seconds since the epoch) it holds without a look at the unit, in
    a world that looks like `world`. `question` is what it has in common with other units, None: nothing.
    """

    attempt: Attempt
    world: tuple[object, ...]
    until: float
    question: int | None


class Retries:
    """The last refusal of each unit, by the UID of its first pod."""

    def __init__(self) -> None:
        self._refused: dict[str, _Refusal] = {}
        self._rules: tuple[object, ...] = ()
        self._changes = 0
        self._questions: dict[Hashable, int] = {}
        self._numbers = count()
        self._world: tuple[object, ...] = ()
        self._now = 0.0
        self._answered: set[int] = set()

    def follow(self, snapshot: Snapshot, changes: Changes, affected: Iterable[Key]) -> None:
        """Notice what may help somebody: another node, class, reserve or GPU, and for `affected` pods that
        they or their claims have changed. Room that became free on GPUs and nodes is counted elsewhere.
        """
        rules = (snapshot.classes, snapshot.reserves, snapshot.inventory)
        if changes.nodes or rules != self._rules:
            self._rules = rules
            self._changes += 1
            self._questions.clear()
        for pod in (snapshot.pods[key] for key in affected if key in snapshot.pods):
            if pod.uid in self._refused:
                self._refused[pod.uid].until = float("-inf")

    def begin(self, *, world: tuple[object, ...], now: float) -> None:
        """A round begins in this `world` (what else all answers depend on)."""
        self._world = (self._changes, *world)
        self._now = now
        self._answered.clear()

    def sleeps(self, unit: Unit) -> bool:
        """Whether the unit need not even be looked at: nothing has changed for it and in the world, or
        another unit has just been refused that asks the same of the same nodes.
        """
        last = self._refused.get(unit.pods[0].uid)
        if last is None or self._now >= last.until:
            return False
        if last.question in self._answered:
            last.world = self._world
        return last.world == self._world

    def attempt(self, unit: Unit, snapshot: Snapshot, *, special: tuple[object, ...]) -> Attempt:
        """The try that would be made now. `special` is what its answer depends on beside the world."""
        looks = tuple(_appearance(pod, snapshot) for pod in unit.pods)
        return Attempt((*self._world, *special), (unit.started, *looks), self._now)

    def is_useless(self, unit: Unit, attempt: Attempt) -> bool:
        """Whether the last refusal answers this try as well."""
        last = self._refused.get(unit.pods[0].uid)
        return last is not None and last.attempt.still_holds(attempt)

    def refused(
        self, unit: Unit, attempt: Attempt, *, until: float = float("-inf"), question: Hashable = None
    ) -> None:
        """Remember a refusal. `until` it stands in the same world, 30 s at most; by default the unit is
        looked at in every round.
        """
        number = None
        if question is not None:
            number = self._questions.get(question)
            if number is None:
                number = self._questions[question] = next(self._numbers)
            self._answered.add(number)
        until = min(until, attempt.at + RETRY_SECONDS)
        self._refused[unit.pods[0].uid] = _Refusal(attempt, self._world, until, number)

    def placed(self, unit: Unit) -> None:
        """The unit has what it wanted."""
        self._refused.pop(unit.pods[0].uid, None)

    def forget(self, uids: Iterable[str]) -> None:
        """Pods that are gone."""
        for uid in uids:
            self._refused.pop(uid, None)


def _appearance(pod: Pod, snapshot: Snapshot) -> tuple[object, ...]:
    """What of a pod and its claims a refusal depends on; the messages that we write ourselves are not part of
    it.
    """
    claims = tuple(
        None if claim is None else (claim.uid, claim.allocated, claim.deleting)
        for claim in (snapshot.claim_of(pod, entry.claim) for entry in pod.claims)
    )
    return (pod.uid, pod.gates, pod.node, claims)
