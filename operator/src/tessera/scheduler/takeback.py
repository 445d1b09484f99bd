"""Giving up placements that do not work out.

We choose the node, kube-scheduler has the last word, and it knows rules that we do not (volumes, topology
spread, other drivers' devices). A pod that it cannot bind would sit on its slice for ever. So after a grace
time the slice is taken back, the node is remembered for that pod, and the next best is tried. kube-scheduler
clears some allocations itself; that counts the same.

A pod may also come to its node just after its slice was withdrawn there, as by a fixed layout. It cannot
leave the node any more, which may have another slice for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from tessera.api import names
from tessera.kube.conditions import find_condition
from tessera.scheduler.changes import Changes
from tessera.scheduler.index import Index
from tessera.scheduler.move_records import is_placeholder
from tessera.scheduler.objects import Allocated, Claim, Key, Pod
from tessera.scheduler.snapshot import Snapshot

ORPHAN_SECONDS = 60.0
_FIRST_AVOIDANCE_SECONDS = 60.0
_LONGEST_AVOIDANCE_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class TakeBack:
    """A claim that is to lose its allocation, the pod it was made for (None: nobody uses it), and why."""

    claim: Claim
    pod: Pod | None
    why: str


def find_take_backs(
    snapshot: Snapshot,
    index: Index,
    *,
    grace_seconds: float,
    gone: Mapping[Key, float],
    namespace: str = names.SYSTEM_NAMESPACE,
) -> Iterator[TakeBack]:
    """Allocations whose pod was not scheduled within the grace time, those whose devices are `gone` for as
    long (since when, in seconds since 1970) and cannot be prepared, and allocations that nobody uses.
    Placeholders of moves, in the scheduler's `namespace`, have a deadline of their own.
    """
    stuck: list[tuple[Pod, list[Claim]]] = []
    for pod in (snapshot.pods[key] for key in index.unscheduled):
        claims = [
            claim
            for entry in pod.claims
            if (claim := snapshot.claim_of(pod, entry.claim)) is not None and claim.holds_ours
        ]
        if is_stuck(pod, claims, now=snapshot.now, grace_seconds=grace_seconds):
            stuck.append((pod, claims))
    uids = {pod.uid for pod, _ in stuck}
    given_up: set[tuple[str, str]] = set()
    for pod, claims in stuck:
        node = pinned_node(claims[0].allocated)
        for claim in claims:
            # A claim works for those of its consumers that are not stuck.
            if set(claim.reserved_for) <= uids and claim.key not in given_up:
                given_up.add(claim.key)
                yield TakeBack(
                    claim, pod, f"the pod could not be scheduled on node {node} for {grace_seconds:.0f} s"
                )
    for key in sorted(key for key, since in gone.items() if snapshot.now - since >= grace_seconds):
        claim = snapshot.claims[key]
        users = [snapshot.pods[index.keys[uid]] for uid in claim.reserved_for if uid in index.keys]
        if users and len(users) == len(claim.reserved_for) and all(_waits_on_its_node(pod) for pod in users):
            node = pinned_node(claim.allocated)
            yield TakeBack(
                claim, users[0], f"node {node} has not given the device and does not offer it any more"
            )
    for claim in (snapshot.claims[key] for key in index.unreserved if not index.is_used(key)):
        if (
            claim.allocated is not None
            and snapshot.now - claim.allocated.since >= ORPHAN_SECONDS
            and not is_placeholder(claim, namespace)
        ):
            yield TakeBack(claim, None, "no pod uses the claim")


def is_stuck(pod: Pod, claims: list[Claim], *, now: float, grace_seconds: float) -> bool:
    """Whether an ungated pod with its slices allocated has been refused by kube-scheduler for longer than the
    grace time.
    """
    if not claims or pod.gates or pod.node or pod.deleting or pod.unschedulable_since is None:
        return False
    # The condition keeps the time of its first refusal; a later allocation deserves its own grace time.
    since = max([pod.unschedulable_since, *(c.allocated.since for c in claims if c.allocated is not None)])
    return now - since >= grace_seconds


def _waits_on_its_node(pod: Pod) -> bool:
    """Whether the pod is bound and to stay, and no container of it was ever made, for which its slices are
    prepared.
    """
    status = pod.raw.get("status") or {}
    containers = [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ]
    return (
        bool(pod.node)
        and not pod.deleting
        and not any(container.get("containerID") for container in containers)
    )


def pinned_node(allocated: Allocated | None) -> str:
    """The node that an allocation is bound to by name, or ""."""
    for term in (allocated.node_terms if allocated is not None else None) or ():
        for requirement in term.get("matchFields") or ():
            if requirement.get("key") == "metadata.name" and requirement.get("operator") == "In":
                values = requirement.get("values") or []
                if len(values) == 1:
                    return str(values[0])
    return ""


def identity(pod: Pod) -> tuple[str, ...]:
    """Who a pod is across replacements: (Job UID, completion index) for an Indexed Job's pod, else the pod
    itself.

    Together with the pod claim name it names a claim across replacements.
    """
    return (
        ("job", pod.job_uid, pod.completion_index)
        if pod.job_uid and pod.completion_index
        else ("pod", pod.uid)
    )


@dataclass(frozen=True, slots=True)
class _Avoided:
    """Until when (seconds since 1970) a node is avoided, for how long, how often it was, and what
    kube-scheduler had said of the pod by then.
    """

    until: float
    seconds: float
    times: int
    why: str


class Avoidance:
    """Nodes that did not work out for a pod, each for a while: one minute, then twice as long each time, 15
    minutes at most.
    """

    def __init__(self) -> None:
        self._until: dict[tuple[str, ...], dict[str, _Avoided]] = {}

    def add(self, pod: Pod, node: str, *, now: float) -> None:
        """The node did not work out for this pod (nor, for a while, will it for the pod's replacement)."""
        nodes = self._until.setdefault(identity(pod), {})
        times = nodes[node].times if node in nodes else 0
        seconds = min(_LONGEST_AVOIDANCE_SECONDS, _FIRST_AVOIDANCE_SECONDS * 2.0**times)
        nodes[node] = _Avoided(now + seconds, seconds, times + 1, _refusal_of(pod))

    def nodes(self, pod: Pod, *, now: float) -> frozenset[str]:
        """The nodes to avoid now."""
        return frozenset(n for n, one in self._until.get(identity(pod), {}).items() if one.until > now)

    def next_end(self, pod: Pod, *, now: float) -> float:
        """When the first of the nodes is not avoided any more; infinite when none is avoided."""
        ends = (one.until for one in self._until.get(identity(pod), {}).values() if one.until > now)
        return min(ends, default=float("inf"))

    def explain(self, pod: Pod, *, now: float) -> str:
        """Why the pod's nodes are avoided, in kube-scheduler's words, and when the first is tried again.

        The time is a time of day, which stays true while the message stands. "" when none is avoided.
        """
        avoided = {n: one for n, one in self._until.get(identity(pod), {}).items() if one.until > now}
        if not avoided:
            return ""
        node, first = min(avoided.items(), key=lambda item: (item[1].until, item[0]))
        why = f": {first.why}" if first.why else " and gave no reason"
        others = f" (and {len(avoided) - 1} more)" if len(avoided) > 1 else ""
        at = datetime.fromtimestamp(first.until, UTC).strftime("%H:%M:%S UTC")
        return (
            f"kube-scheduler could not bind the pod on node {node}{others}{why}; put that right; the next "
            f"try is at {at}, {first.seconds:.0f} s after the last"
        )

    def forget(self, alive: Callable[[], set[tuple[str, ...]]], *, now: float) -> None:
        """Forget pods that are gone, once their last avoidance is over (a replacement may come). `alive` is
        asked only when there is something to forget.
        """
        over = [who for who, nodes in self._until.items() if all(one.until <= now for one in nodes.values())]
        living = alive() if over else set()
        for who in over:
            if who not in living:
                del self._until[who]


class Clearings:
    """For whom each allocation was made. One that vanishes under a pod that still waits did not work out
    there, whoever cleared it.
    """

    def __init__(self) -> None:
        self._held: dict[Key, _Held] = {}

    def follow(self, snapshot: Snapshot, changes: Changes, index: Index, avoidance: Avoidance) -> None:
        """Bring the books up to the snapshot, and let the pods avoid the nodes that did not work out."""
        for key in changes.claims:
            claim, before = snapshot.claims.get(key), self._held.pop(key, None)
            if claim is None:
                continue
            if claim.holds_ours and claim.reserved_for:
                self._held[key] = _Held(claim.uid, claim.reserved_for, pinned_node(claim.allocated))
            elif before is not None and claim.uid == before.claim_uid and claim.allocated is None:
                self._avoid(before, snapshot, index, avoidance)

    @staticmethod
    def _avoid(before: _Held, snapshot: Snapshot, index: Index, avoidance: Avoidance) -> None:
        for pod in (snapshot.pods[index.keys[uid]] for uid in before.consumers if uid in index.keys):
            if before.node and not pod.node and not pod.gates:
                avoidance.add(pod, before.node, now=snapshot.now)


@dataclass(frozen=True, slots=True)
class _Held:
    claim_uid: str
    consumers: tuple[str, ...]
    node: str


def _refusal_of(pod: Pod) -> str:
    """What kube-scheduler says on the pod about why it is not bound."""
    condition = find_condition((pod.raw.get("status") or {}).get("conditions"), "PodScheduled")
    if condition is None or condition.get("status") != "False":
        return ""
    return str(condition.get("message") or "").strip().rstrip(".")
