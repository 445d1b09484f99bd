"""Who uses which claim, and which pods and claims may need something: kept from round to round.

Most pods of a cluster run and most claims are in use, round after round. What a round has to look at is here:
the units to serve in their order, pods that kube-scheduler refuses, claims that nobody has reserved, claims
without the finalizer, claims with records of moves, pods of Indexed Jobs by their place in the Job. A pod is
looked at again when it or one of its claims has changed, and for the members of a gang when any of them has.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TypeVar

from tessera.scheduler.changes import Changes
from tessera.scheduler.objects import Claim, Key, Pod
from tessera.scheduler.snapshot import Snapshot
from tessera.scheduler.units import Owner, Unit, owner_of, units_of

Name = TypeVar("Name")


@dataclass(frozen=True, slots=True)
class Affected:
    """Pods that may look different now, for themselves or by a claim, and the UIDs of those that are gone."""

    pods: tuple[Key, ...]
    gone: tuple[str, ...]


class Index:
    """The books about one snapshot after the other."""

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {}
        """Pods by UID."""
        self.unscheduled: dict[Key, None] = {}
        """Pods without a gate and without a node that kube-scheduler has refused."""
        self.unreserved: dict[Key, None] = {}
        """Claims that hold devices of ours, with no consumer written on them."""
        self.unprotected: dict[Key, None] = {}
        """Claims that hold devices of ours without the finalizer."""
        self.recorded: dict[Key, None] = {}
        """Claims on which something about moves is written."""
        self._pods: dict[Key, Pod] = {}
        self._of_job: dict[tuple[str, str], dict[Key, None]] = {}
        self._users: dict[Key, dict[Key, None]] = {}
        self._members: dict[Owner, dict[Key, None]] = {}
        self._units: dict[Owner, tuple[Unit, ...]] = {}
        self._order: list[tuple[tuple[object, ...], Unit]] = []

    @classmethod
    def of(cls, snapshot: Snapshot) -> Index:
        """The books about one snapshot alone."""
        index = cls()
        index.follow(snapshot, snapshot.changes_since(None))
        return index

    def follow(self, snapshot: Snapshot, changes: Changes) -> Affected:
        """Bring the books up to the snapshot."""
        affected = dict.fromkeys(changes.pods)
        gone: list[str] = []
        owners: dict[Owner, None] = {}
        for key in changes.pods:
            before, pod = self._pods.get(key), snapshot.pods.get(key)
            if before is not None:
                owners[owner_of(before)] = None
                self._drop(before)
                if pod is None or pod.uid != before.uid:
                    gone.append(before.uid)
            if pod is not None:
                self._add(pod)
        for key in changes.claims:
            self._judge(key, snapshot.claims.get(key))
            affected.update(self._users.get(key, {}))
        for key in affected:
            if key in self._pods:
                owners[owner_of(self._pods[key])] = None
        for owner in owners:
            self._put(owner, snapshot)
        return Affected(tuple(affected), tuple(gone))

    def units(self, snapshot: Snapshot, stuck: Collection[Key] = ()) -> list[Unit]:
        """Pods that need something from us, by priority, then by age; `stuck` ones wait until their slices
        were taken back. The snapshot is the one that was followed last.
        """
        owners = {owner_of(self._pods[key]) for key in stuck}
        if not owners:
            return [unit for _, unit in self._order]
        left_out = {unit.order() for owner in owners for unit in self._units.get(owner, ())}
        units = [unit for order, unit in self._order if order not in left_out]
        for owner in owners:
            units += units_of(owner, self._members[owner], snapshot, stuck)
        return sorted(units, key=Unit.order)

    def users(self, claim: Key) -> Iterable[Key]:
        """The pods that name the claim."""
        return self._users.get(claim, {})

    def of_job(self, job_uid: str, completion_index: str) -> Iterable[Key]:
        """The pods of an Indexed Job with this completion index."""
        return self._of_job.get((job_uid, completion_index), {})

    def is_used(self, claim: Key) -> bool:
        """Whether a pod names the claim."""
        return claim in self._users

    # One object.

    def _add(self, pod: Pod) -> None:
        self._pods[pod.key] = pod
        self.keys[pod.uid] = pod.key
        for claim in _claims_named(pod):
            self._users.setdefault(claim, {})[pod.key] = None
        self._members.setdefault(owner_of(pod), {})[pod.key] = None
        if place := _place_in_job(pod):
            self._of_job.setdefault(place, {})[pod.key] = None
        if pod.unschedulable_since is not None and not (pod.gates or pod.node or pod.deleting):
            self.unscheduled[pod.key] = None

    def _drop(self, pod: Pod) -> None:
        del self._pods[pod.key]
        del self.keys[pod.uid]
        for claim in _claims_named(pod):
            _discard(self._users, claim, pod.key)
        _discard(self._members, owner_of(pod), pod.key)
        if place := _place_in_job(pod):
            _discard(self._of_job, place, pod.key)
        self.unscheduled.pop(pod.key, None)

    def _judge(self, key: Key, claim: Claim | None) -> None:
        holds = claim is not None and claim.holds_ours
        _keep(self.recorded, key, claim is not None and bool(claim.move or claim.room))
        _keep(self.unreserved, key, holds and claim is not None and not claim.reserved_for)
        _keep(
            self.unprotected,
            key,
            holds and claim is not None and not claim.has_finalizer and not claim.deleting,
        )

    def _put(self, owner: Owner, snapshot: Snapshot) -> None:
        units = tuple(units_of(owner, self._members.get(owner, {}), snapshot, ()))
        before = self._units.pop(owner, ())
        if units:
            self._units[owner] = units
        if units == before:
            return
        for unit in before:
            at = bisect_left(self._order, (unit.order(),))
            del self._order[at]
        for unit in units:
            insort(self._order, (unit.order(), unit), key=lambda entry: entry[0])


def _place_in_job(pod: Pod) -> tuple[str, str] | None:
    """The Indexed Job and the completion index of a pod, or None."""
    return (pod.job_uid, pod.completion_index) if pod.job_uid and pod.completion_index else None


def _claims_named(pod: Pod) -> dict[Key, None]:
    return {(pod.key[0], entry.claim): None for entry in pod.claims if entry.claim is not None}


def _discard(sets: dict[Name, dict[Key, None]], name: Name, member: Key) -> None:
    """Take a member out of one of the sets; empty sets are not kept."""
    members = sets[name]
    del members[member]
    if not members:
        del sets[name]


def _keep(among: dict[Key, None], key: Key, keep: bool) -> None:
    if keep:
        among[key] = None
    else:
        among.pop(key, None)
