"""Who is served, and in which order: pods by priority, then by age, and the members of a gang together.
Where the scheduler is to serve by smallest work, the planner orders these units anew.

A gang is declared by annotations on its pods. Before it has started, all of its members are one unit: it is
placed when they all exist and all fit, or not at all. Once a member has lost its gate the gang runs; members
that need something after that are replacements, and those that exist are placed together, without waiting
for others, since the rest of the gang may have finished long ago.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from tessera.api import names
from tessera.api.reasons import Reason
from tessera.placement.queue_order import Waiting
from tessera.scheduler.objects import Claim, Key, Pod
from tessera.scheduler.refusals import NotYet, Unserved
from tessera.scheduler.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Unit:
    """Pods that are placed together: one, or members of a gang."""

    pods: tuple[Pod, ...]
    gang: str = ""
    started: bool = False
    """Whether a member of the gang has been let go already."""

    def order(self) -> tuple[object, ...]:
        """Higher priority first, then older first."""
        return (-max(pod.priority for pod in self.pods), min((pod.created, pod.key) for pod in self.pods))

    def waiting(self, slices: int) -> Waiting:
        """As the rules of the queue see it, when it asks for so many memory slices."""
        runs = [pod.longest_run_seconds for pod in self.pods]
        known = [seconds for seconds in runs if seconds is not None]
        return Waiting(
            name=self.pods[0].uid,
            since=min(pod.created for pod in self.pods),
            slices=slices,
            priority=max(pod.priority for pod in self.pods),
            seconds=max(known) if len(known) == len(runs) else None,
        )

    def age_seconds(self, now: float) -> float:
        """Since the oldest pod was made."""
        return now - min(pod.created for pod in self.pods)

    def time_limit_seconds(self, default: float) -> float | None:
        """How long the gang may take to come together: what its pods say, else the default. None: for ever
        (no gang, or one that has started).
        """
        if not self.gang or self.started:
            return None
        said = [pod.gang.timeout_seconds for pod in self.pods if pod.gang and pod.gang.timeout_seconds]
        return min(said, default=default)


Owner = tuple[str, str, str]
"""Whom a unit belongs to: (namespace, pod, "") or (namespace, "", gang)."""


def owner_of(pod: Pod) -> Owner:
    """The pod itself, or its gang."""
    return (pod.key[0], pod.key[1], "") if pod.gang is None else (pod.key[0], "", pod.gang.name)


def units_of(owner: Owner, members: Iterable[Key], snapshot: Snapshot, stuck: Collection[Key]) -> list[Unit]:
    """What the pods of one owner need from us now; `stuck` ones wait until they were taken back."""
    pods = [pod for pod in (snapshot.pods[key] for key in sorted(members)) if not pod.deleting]
    needy = [pod for pod in pods if pod.key not in stuck and needs_us(pod, snapshot)]
    gang = owner[2]
    if not gang or not needy:
        return [Unit((pod,)) for pod in needy]
    if all(pod.gated for pod in pods):
        return [Unit(tuple(pods), gang=gang)]
    # A bound pod waits on its node already; it must not wait for others.
    bound = [Unit((pod,)) for pod in needy if pod.node]
    waiting = tuple(pod for pod in needy if not pod.node)
    return [*bound, Unit(waiting, gang=gang, started=True)] if waiting else bound


def needs_us(pod: Pod, snapshot: Snapshot) -> bool:
    """Whether the pod has our gate, or a claim of ours without an allocation."""
    if pod.gated:
        return True
    claims = (snapshot.claim_of(pod, entry.claim) for entry in pod.claims)
    return any(claim is not None and claim.ours and claim.allocated is None for claim in claims)


def claims_of(pod: Pod, snapshot: Snapshot) -> list[Claim]:
    """All claims of a pod. Raises NotYet while one is still to be made, Unserved when one cannot be used."""
    claims = []
    for entry in pod.claims:
        claim = snapshot.claim_of(pod, entry.claim)
        if claim is None:
            if entry.from_template:
                raise NotYet
            raise Unserved(
                Reason.AWAITING_PLACEMENT,
                f"ResourceClaim {pod.key[0]}/{entry.claim} does not exist; create it",
            )
        if entry.from_template and claim.owner_uid != pod.uid:
            raise Unserved(
                Reason.INVALID_REQUEST,
                f"ResourceClaim {'/'.join(claim.key)} was not made for this pod; delete it, another is made",
            )
        claims.append(claim)
    return claims


def check_gang(unit: Unit) -> None:
    """Raises Unserved unless the members of a gang that has not started agree on its size and are there."""
    if not unit.gang or unit.started:
        return
    sizes = {pod.gang.size for pod in unit.pods if pod.gang is not None}
    size = sizes.pop() if len(sizes) == 1 else None
    if size is None:
        raise Unserved(
            Reason.INVALID_REQUEST,
            f"its pods do not agree on a size; give all the same number in {names.GANG_SIZE_ANNOTATION}",
        )
    if len(unit.pods) < size:
        raise Unserved(
            Reason.AWAITING_PLACEMENT, f"{len(unit.pods)} of its {size} pods exist; the others are waited for"
        )


def unit_claims(unit: Unit, snapshot: Snapshot) -> Sequence[tuple[Pod, Claim]]:
    """Each pod of the unit with each claim of ours that it has and that exists."""
    return [
        (pod, claim)
        for pod in unit.pods
        for entry in pod.claims
        if (claim := snapshot.claim_of(pod, entry.claim)) is not None and claim.ours
    ]
