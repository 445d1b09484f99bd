"""One round of scheduling: a snapshot -> what to do. No I/O, no clock.

Pods are served by priority, then by age. Each one that waits for slices is placed by the engine over all GPUs
whose nodes pass its filters; what it gets counts at once for the next one in the same round. A gang is placed
as a whole or not at all. A pod that does not fit is not tried again before something has changed that could
help it, or half a minute has passed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from tessera.api import names
from tessera.api.reasons import Reason
from tessera.metrics import registry as metrics
from tessera.placement import explain
from tessera.placement.engine import Engine
from tessera.placement.policies import Policy
from tessera.placement.request import Feasible, Placement, Unplaceable
from tessera.scheduler.actions import Action, GiveUp, Place, PodPlacement, Protect, Refuse
from tessera.scheduler.allocation import ClaimPlacement, Result
from tessera.scheduler.filters import matches_terms, node_verdict
from tessera.scheduler.objects import Claim, Key, Node, Pod
from tessera.scheduler.occupancy import Holder, Occupancy, add_usage, expected_node, node_usage
from tessera.scheduler.requests import ClaimRequests, InvalidRequest, RequestReader
from tessera.scheduler.selectors import SelectorCache
from tessera.scheduler.snapshot import Snapshot
from tessera.scheduler.takeback import Avoidance, find_take_backs, identity, pinned_node

_RETRY_SECONDS = 30.0
_REASONS = {
    explain.UNKNOWN_PROFILE: Reason.UNKNOWN_PROFILE,
    explain.NO_NODE: Reason.UNPLACEABLE,
    explain.NO_ROOM: Reason.UNPLACEABLE,
}


class Unserved(Exception):
    """A pod cannot be placed now."""

    def __init__(self, reason: str, message: str, *, profile: str = "") -> None:
        self.reason = reason
        self.message = message
        self.profile = profile
        super().__init__(message)


class ClaimsNotMade(Exception):
    """kube-controller-manager has still to make a claim of the pod; nobody needs to be told."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """Pods that are placed together: one, or the members of a gang that has not started."""

    pods: tuple[Pod, ...]
    gang: str = ""

    def order(self) -> tuple[object, ...]:
        """Higher priority first, then older first."""
        return (-max(pod.priority for pod in self.pods), min((pod.created, pod.key) for pod in self.pods))


@dataclass(frozen=True, slots=True)
class _Attempt:
    """When a unit was refused, and what it and the world looked like."""

    world: tuple[object, ...]
    unit: tuple[object, ...]
    at: float

    def still_holds(self, now: _Attempt) -> bool:
        """Whether trying again would be of no use: nothing has changed, and it is not long ago."""
        return (self.world, self.unit) == (now.world, now.unit) and now.at - self.at < _RETRY_SECONDS


class Planner:
    """Decides round after round. Holds what may be lost at any time: ranks, compiled selectors, avoided
    nodes, attempts.
    """

    def __init__(self, policy: Policy, *, grace_seconds: float) -> None:
        self.engine = Engine(policy)
        self.occupancy = Occupancy()
        self.avoidance = Avoidance()
        self._grace_seconds = grace_seconds
        self._selectors = SelectorCache()
        self._reader = RequestReader(
            inventory=self.occupancy.inventory, state=self.occupancy.state, selectors=self._selectors
        )
        self._counted: set[str] = set()
        self._attempts: dict[str, _Attempt] = {}
        self._held: dict[str, tuple[str, str]] = {}
        self._usage: dict[str, dict[str, Fraction]] = {}
        self._nodes: Mapping[str, Node] = {}
        self._changes = 0
        self._round: dict[Key, ClaimPlacement] = {}
        self.waiting = 0
        """Pods that wait for a slice after the last round."""

    def plan(self, snapshot: Snapshot) -> list[Action]:
        """What to do now. Repeating it on the same snapshot gives the same but for the refusals, which are
        told once.
        """
        if self.occupancy.follow(snapshot):
            self._reader = RequestReader(
                inventory=snapshot.inventory, state=self.occupancy.state, selectors=self._selectors
            )
        self._follow_nodes(snapshot)
        self._notice_cleared(snapshot)
        actions: list[Action] = [
            Protect(claim)
            for claim in snapshot.claims.values()
            if claim.holds_ours and not claim.has_finalizer and not claim.deleting
        ]
        given_up = list(find_take_backs(snapshot, grace_seconds=self._grace_seconds))
        actions.extend(GiveUp(t.claim, t.pod, t.why) for t in given_up)
        stuck = {t.pod.key for t in given_up if t.pod is not None}
        self.waiting = 0
        self._round.clear()
        for unit in self._units(snapshot, stuck):
            actions.extend(self._serve(unit, snapshot))
        self._forget(snapshot)
        return actions

    # What has changed since the last round.

    def _follow_nodes(self, snapshot: Snapshot) -> None:
        if snapshot.nodes != self._nodes:
            self._nodes = snapshot.nodes
            self._changes += 1
        usage = node_usage(snapshot)
        zero = Fraction(0)
        if any(
            amount > usage.get(node, {}).get(name, zero)
            for node, on_node in self._usage.items()
            for name, amount in on_node.items()
        ):
            self._changes += 1
        self._usage = usage

    def _notice_cleared(self, snapshot: Snapshot) -> None:
        """An allocation that vanished under a pod that still waits did not work out there, whoever cleared
        it.
        """
        pods = {pod.uid: pod for pod in snapshot.pods.values()}
        held: dict[str, tuple[str, str]] = {}
        for claim in snapshot.claims.values():
            if claim.holds_ours and claim.reserved_for:
                held[claim.uid] = (claim.reserved_for[0], pinned_node(claim.allocated))
            elif claim.uid in self._held and claim.allocated is None:
                pod_uid, node = self._held[claim.uid]
                pod = pods.get(pod_uid)
                if pod is not None and not pod.node and not pod.gates and node:
                    self.avoidance.add(pod, node, now=snapshot.now)
        self._held = held

    def _forget(self, snapshot: Snapshot) -> None:
        pods = {pod.uid for pod in snapshot.pods.values()}
        self._attempts = {uid: attempt for uid, attempt in self._attempts.items() if uid in pods}
        self._counted &= {claim.uid for claim in snapshot.claims.values()}
        self.avoidance.keep_only({identity(pod) for pod in snapshot.pods.values()}, now=snapshot.now)

    # Who is served.

    def _units(self, snapshot: Snapshot, stuck: set[Key]) -> list[_Unit]:
        """Pods that need something from us, gangs together, in the order of service."""
        gangs: dict[Key, list[Pod]] = defaultdict(list)
        units: list[_Unit] = []
        for pod in snapshot.pods.values():
            if pod.deleting:
                continue
            if pod.gang is not None:
                gangs[pod.key[0], pod.gang.name].append(pod)
            elif pod.key not in stuck and _needs_us(pod, snapshot):
                units.append(_Unit((pod,)))
        for (_, name), members in gangs.items():
            needy = [pod for pod in members if pod.key not in stuck and _needs_us(pod, snapshot)]
            if any(not pod.gated for pod in members):
                # The gang has started: a member that needs us now is a replacement, served alone.
                units.extend(_Unit((pod,)) for pod in needy)
            elif needy:
                units.append(_Unit(tuple(members), gang=name))
        units.sort(key=_Unit.order)
        return units

    def _serve(self, unit: _Unit, snapshot: Snapshot) -> Iterator[Action]:
        if any(pod.held_by_others for pod in unit.pods):
            return
        attempt = _Attempt(
            world=(
                self.occupancy.releases,
                self._changes,
                self.avoidance.nodes(unit.pods[0], now=snapshot.now),
            ),
            unit=tuple(_appearance(pod, snapshot) for pod in unit.pods),
            at=snapshot.now,
        )
        last = self._attempts.get(unit.pods[0].uid)
        if last is not None and last.still_holds(attempt):
            self.waiting += len(unit.pods)
            return
        try:
            yield Place(self._place_unit(unit, snapshot))
            self._attempts.pop(unit.pods[0].uid, None)
        except ClaimsNotMade:
            self.waiting += len(unit.pods)
        except Unserved as refused:
            self.waiting += len(unit.pods)
            self._attempts[unit.pods[0].uid] = attempt
            yield from self._refuse(unit, refused, snapshot)

    def _refuse(self, unit: _Unit, refused: Unserved, snapshot: Snapshot) -> Iterator[Action]:
        metrics.PLACEMENTS_TOTAL.labels(refused.reason, self._known_profile(refused.profile)).inc()
        message = f"gang {unit.gang}: {refused.message}" if unit.gang else refused.message
        for pod in unit.pods:
            claims = [c for e in pod.claims if (c := snapshot.claim_of(pod, e.claim)) is not None and c.ours]
            if unit.gang:
                # A gang that cannot start must not keep others from starting.
                for claim in claims:
                    if claim.holds_ours and set(claim.reserved_for) <= {pod.uid}:
                        yield GiveUp(claim, pod, f"gang {unit.gang} cannot be placed as a whole")
            waiting = tuple(claim for claim in claims if claim.allocated is None)
            yield Refuse(pod, waiting, refused.reason, message)

    # Where it goes.

    def _place_unit(self, unit: _Unit, snapshot: Snapshot) -> tuple[PodPlacement, ...]:
        """All pods of a unit, or none. Raises Unserved or ClaimsNotMade, with the state as it was before."""
        if unit.gang:
            _check_gang(unit.pods)
        done: list[PodPlacement] = []
        try:
            for pod in unit.pods:
                done.append(self._place_pod(pod, snapshot))
        except (Unserved, ClaimsNotMade):
            for placed in done:
                self._undo(placed, snapshot)
            raise
        return tuple(done)

    def _place_pod(self, pod: Pod, snapshot: Snapshot) -> PodPlacement:
        claims = _claims_of(pod, snapshot)
        todo = [c for c in claims if c.ours and c.allocated is None and c.key not in self._round]
        if not todo:
            return PodPlacement(pod)
        for claim in todo:
            if claim.deleting:
                raise Unserved(
                    Reason.AWAITING_PLACEMENT,
                    f"ResourceClaim {claim.key[1]} is being deleted; wait, then recreate it",
                )
        try:
            read = [self._reader.read(claim) for claim in todo]
        except InvalidRequest as error:
            raise Unserved(Reason.INVALID_REQUEST, str(error)) from error
        requests = [request for one in read for request in one.requests]
        for claim, one in zip(todo, read, strict=True):
            self._count_arrival(claim, one)
        feasible = self._feasible(pod, claims, snapshot)
        with metrics.timed(metrics.PLACEMENT_SECONDS):
            answer = self.engine.place(
                self.occupancy.state,
                requests,
                feasible=feasible,
                constraints=[constraint for one in read for constraint in one.constraints],
            )
        if isinstance(answer, Unplaceable):
            raise Unserved(_REASONS[answer.reason], str(answer), profile=answer.profile)
        placed = PodPlacement(
            pod, tuple(self._claim_placement(c, one, answer) for c, one in zip(todo, read, strict=True))
        )
        self._take(placed, answer, snapshot)
        return placed

    def _feasible(self, pod: Pod, claims: Sequence[Claim], snapshot: Snapshot) -> Feasible:
        """The GPUs on nodes that may run the pod, and what excluded the others."""
        state = self.occupancy.state
        avoided = frozenset[str]() if pod.node else self.avoidance.nodes(pod, now=snapshot.now)
        pinned = [
            c.allocated.node_terms
            for c in claims
            if c.allocated is not None and c.allocated.node_terms is not None
        ]
        promised = {self._round[c.key].node for c in claims if c.key in self._round}
        passing: list[str] = []
        excluded: dict[str, int] = defaultdict(int)
        for name in state.nodes():
            node = snapshot.nodes.get(name)
            verdict: str | None
            if node is None:
                verdict = "node does not exist"
            elif not all(matches_terms(terms, node) for terms in pinned) or not promised <= {name}:
                verdict = "another claim of the pod is allocated elsewhere"
            elif name in avoided:
                verdict = "tried without success a short while ago"
            else:
                verdict = node_verdict(pod, node, used=self._usage.get(name, {}))
            if verdict is None:
                passing.append(name)
            else:
                excluded[verdict] += 1
        return Feasible(state.bits_of_nodes(passing), dict(excluded))

    def _claim_placement(
        self, claim: Claim, read: ClaimRequests, answer: Sequence[Placement]
    ) -> ClaimPlacement:
        results = []
        node = ""
        for placement in answer:
            if placement.request.startswith(f"{claim.uid}/"):
                device = self.occupancy.inventory.by_name[placement.gpu].devices[placement.index]
                name = placement.alternative.removeprefix(f"{claim.uid}/")
                results.append(Result(name, device.pool, device.name, read.tolerations[name]))
                node = placement.node
        return ClaimPlacement(claim, node, tuple(results))

    def _take(self, placed: PodPlacement, answer: Sequence[Placement], snapshot: Snapshot) -> None:
        """Count the decision at once, so that the next pod of the same round does not get the same room."""
        for one in placed.claims:
            self._round[one.claim.key] = one
            for result in one.results:
                device = self.occupancy.inventory.device(result.pool, result.device)
                assert device is not None
                holder = Holder(one.claim.uid, "/".join(one.claim.key), result.pool, result.device)
                self.occupancy.state.occupy(device.gpu, device.index, owner=holder)
        if _uncounted(placed.pod, snapshot):
            add_usage(self._usage, answer[0].node, placed.pod)
        for placement in answer:
            metrics.PLACEMENTS_TOTAL.labels(Reason.PLACED, placement.legal.profile).inc()

    def _undo(self, placed: PodPlacement, snapshot: Snapshot) -> None:
        for one in placed.claims:
            del self._round[one.claim.key]
            for result in one.results:
                holder = Holder(one.claim.uid, "/".join(one.claim.key), result.pool, result.device)
                self.occupancy.state.release(holder)
        if placed.claims and _uncounted(placed.pod, snapshot):
            add_usage(self._usage, placed.claims[0].node, placed.pod, sign=-1)

    def _count_arrival(self, claim: Claim, read: ClaimRequests) -> None:
        """Tell the policy once per claim what was asked for: by its first alternative, the smallest profile
        that would do.
        """
        if claim.uid in self._counted:
            return
        self._counted.add(claim.uid)
        for request in read.requests:
            first = request.alternatives[0]
            admitted = [o.geometry.placements[i] for o in first.offers for i in o.placements]
            if admitted:
                smallest = min(admitted, key=lambda p: (p.width, p.compute, p.profile))
                for _ in range(first.count):
                    self.engine.policy.record(smallest.profile)

    def _known_profile(self, label: str) -> str:
        """A profile for a metric label: only those that GPUs offer, so that users' text cannot grow the
        metric.
        """
        known = {p for g in self.occupancy.state.geometries() for p in g.profiles}
        return label if label in known else "other"


def _needs_us(pod: Pod, snapshot: Snapshot) -> bool:
    if pod.gated:
        return True
    claims = (snapshot.claim_of(pod, entry.claim) for entry in pod.claims)
    return any(claim is not None and claim.ours and claim.allocated is None for claim in claims)


def _claims_of(pod: Pod, snapshot: Snapshot) -> list[Claim]:
    """All claims of a pod. Raises ClaimsNotMade while one is still to be made, Unserved when one cannot be
    used.
    """
    claims = []
    for entry in pod.claims:
        claim = snapshot.claim_of(pod, entry.claim)
        if claim is None:
            if entry.from_template:
                raise ClaimsNotMade
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


def _check_gang(pods: Sequence[Pod]) -> None:
    """Raises Unserved unless all members agree on the size and are there."""
    sizes = {pod.gang.size for pod in pods if pod.gang is not None}
    size = sizes.pop() if len(sizes) == 1 else None
    if size is None:
        raise Unserved(
            Reason.INVALID_REQUEST,
            f"its pods do not agree on a size; give all the same number in {names.GANG_SIZE_ANNOTATION}",
        )
    if len(pods) < size:
        raise Unserved(
            Reason.AWAITING_PLACEMENT, f"{len(pods)} of its {size} pods exist; the others are waited for"
        )


def _uncounted(pod: Pod, snapshot: Snapshot) -> bool:
    """Whether the node's usage does not contain the pod yet."""
    return not pod.node and not expected_node(pod, snapshot)


def _appearance(pod: Pod, snapshot: Snapshot) -> tuple[object, ...]:
    """What of a pod and its claims a refusal depends on; the messages that we write ourselves are not part of
    it.
    """
    claims = tuple(
        None if claim is None else (claim.uid, claim.allocated, claim.deleting)
        for claim in (snapshot.claim_of(pod, entry.claim) for entry in pod.claims)
    )
    return (pod.uid, pod.gates, pod.node, claims)
