"""Where the pods of one round go: one decision after the other, each of which counts for the next.

Made anew for each round from the snapshot. What a decision takes (room on a GPU, CPU and memory of a node)
is taken from the same books that the next decision reads, and can be given back, so that pods that must be
placed together are placed by trying.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

from tessera.api import names
from tessera.api.reasons import Reason
from tessera.metrics import registry as metrics
from tessera.placement.engine import Engine
from tessera.placement.explain import NO_ROOM
from tessera.placement.request import Feasible, Placement, Unplaceable
from tessera.scheduler.actions import PodPlacement
from tessera.scheduler.allocation import ClaimPlacement, Result
from tessera.scheduler.barred import Barred, Only
from tessera.scheduler.filters import matches_terms
from tessera.scheduler.node_load import NO_NODE, NodeLoad, shape_of
from tessera.scheduler.objects import Claim, Key, Pod
from tessera.scheduler.occupancy import Holder, Occupancy
from tessera.scheduler.refusals import AVOIDED, REASONS, NotYet, Unserved, words_of
from tessera.scheduler.requests import ClaimRequests, InvalidRequest, RequestReader
from tessera.scheduler.reserves import Reserves
from tessera.scheduler.snapshot import Snapshot
from tessera.scheduler.takeback import Avoidance, pinned_node
from tessera.scheduler.units import claims_of
from tessera.scheduler.wanted import Wanted

MOST_CONSUMERS = 256
"""The API's limit of `status.reservedFor`."""


class Placing:
    """One round's books."""

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        engine: Engine,
        occupancy: Occupancy,
        reader: RequestReader,
        reserves: Reserves,
        avoidance: Avoidance,
        load: NodeLoad,
    ) -> None:
        self.snapshot = snapshot
        self.state = occupancy.state
        self.reserves = reserves
        self.load = load
        self._engine = engine
        self._inventory = occupancy.inventory
        self._reader = reader
        self._avoidance = avoidance
        self._promised: dict[Key, ClaimPlacement] = {}
        self._settled: set[Key] = set()
        self._counted: set[str] = set()
        self._refused: dict[Hashable, Unserved] = {}
        self.refused_for: dict[str, Hashable] = {}
        """By the UID of a pod that was refused: what it asked, if others may ask the same."""
        self._promised_last: list[Key] = []
        self._sharers: dict[Key, int] = defaultdict(int)

    def place(self, pod: Pod, *, barred: Barred | None = None, only: Only | None = None) -> PodPlacement:
        """Decide for one pod and take what it gets. Raises Unserved or NotYet, with the books unchanged.

        `barred` are choices that must not be made again, `only` is the place that is kept for the pod.
        """
        return self._place(self.wanted(pod), barred, only)

    def _place(self, wanted: Wanted, barred: Barred | None, only: Only | None) -> PodPlacement:
        pod, shares = wanted.pod, self._shares(wanted)
        if not wanted.todo:
            if shares or self._is_promised(wanted):
                self._check_shared_node(wanted)
            return self._take(PodPlacement(pod, shares=shares))
        answer = self._choose(wanted, barred) if only is None else self._choose_kept(wanted, only)
        claims = tuple(
            self._claim_placement(claim, one, answer)
            for claim, one in zip(wanted.todo, wanted.read, strict=True)
        )
        return self._take(PodPlacement(pod, claims, shares))

    def place_alone(self, wanted: Wanted) -> PodPlacement:
        """As `place`, for a pod that is not tried together with others. While such pods are served room only
        shrinks, so that the next one that asks the same of the same nodes has the same answer.
        """
        question = self.question(wanted)
        try:
            if question in self._refused:
                raise self._refused[question]
            return self._place(wanted, None, None)
        except Unserved as refused:
            if question is not None:
                self._refused[question] = refused
                self.refused_for[wanted.pod.uid] = question
            raise

    def _question(self, wanted: Wanted) -> Hashable:
        asked = tuple(
            (a.label, a.offers, a.count) for request in wanted.requests for a in request.alternatives
        )
        return (shape_of(wanted.pod), len(wanted.requests), asked) if asked else None

    def node_of(self, placed: PodPlacement) -> str:
        """The node that a decision brings the pod to; "" when it does not choose one."""
        if placed.claims:
            return placed.claims[0].node
        if placed.shares:
            return pinned_node(placed.shares[0].allocated)
        keys = [(placed.pod.key[0], entry.claim or "") for entry in placed.pod.claims]
        return next((self._promised[key].node for key in keys if key in self._promised), "")

    def undo(self, placed: PodPlacement) -> None:
        """Give back what `place` took."""
        for one in placed.claims:
            del self._promised[one.claim.key]
            for result in one.results:
                self.state.release(_holder(one, result))
        for claim in placed.shares:
            self._sharers[claim.key] -= 1
        if placed.pod.uid in self._counted:
            self._counted.discard(placed.pod.uid)
            self.load.remove(placed.pod, undone=True)

    def settle(self) -> None:
        """What was promised so far is going to be written; pods that share it wait until it is."""
        self._settled.update(key for key in self._promised_last if key in self._promised)
        self._promised_last.clear()

    def wanted(self, pod: Pod) -> Wanted:
        """What the pod asks for. Raises Unserved and NotYet."""
        claims = claims_of(pod, self.snapshot)
        if any(claim.key in self._settled for claim in claims):
            raise NotYet
        todo = [c for c in claims if c.ours and c.allocated is None and c.key not in self._promised]
        for claim in todo:
            if claim.deleting:
                raise Unserved(
                    Reason.AWAITING_PLACEMENT,
                    f"ResourceClaim {claim.key[1]} is being deleted; wait, then recreate it",
                )
        try:
            read = [self.read(claim) for claim in todo]
        except InvalidRequest as error:
            raise Unserved(Reason.INVALID_REQUEST, str(error)) from error
        return Wanted(pod, tuple(claims), tuple(todo), tuple(read))

    def feasible(self, wanted: Wanted) -> Feasible:
        """The GPUs on nodes that may run the pod, and what excluded the others."""
        if not self._is_special(wanted):
            shape = self.load.fit(wanted.pod)
            return Feasible(shape.gpus, {name: count for name, count in shape.excluded.items() if count})
        verdicts = self.verdicts(wanted)
        passing = [name for name, verdict in verdicts.items() if verdict is None]
        excluded = Counter(verdict for verdict in verdicts.values() if verdict is not None)
        return Feasible(self.state.bits_of_nodes(passing), dict(excluded))

    def verdicts(self, wanted: Wanted) -> dict[str, str | None]:
        """GPU node -> the filter that excludes it for the pod, or None."""
        pod = wanted.pod
        if pod.node:
            return {name: self.load.verdict(pod, name) for name in self.state.nodes()}
        verdicts = dict(self.load.fit(pod).verdicts)
        counted_on = self.load.node_of(pod)
        if counted_on in verdicts:
            verdicts[counted_on] = self.load.verdict(pod, counted_on)
        pinned = wanted.node_terms
        promised = self._promised_nodes(wanted)
        for name in self._avoidance.nodes(pod, now=self.snapshot.now):
            if verdicts.get(name, NO_NODE) != NO_NODE:
                verdicts[name] = AVOIDED
        if pinned or promised:
            for name in verdicts:
                node = self.snapshot.nodes.get(name)
                here = node is not None and all(matches_terms(terms, node) for terms in pinned)
                if node is not None and not (here and promised <= {name}):
                    verdicts[name] = "another claim of the pod is allocated elsewhere"
        return verdicts

    def _is_special(self, wanted: Wanted) -> bool:
        """Whether more than what its shape says decides where the pod may go."""
        pod = wanted.pod
        return bool(
            pod.node
            or wanted.node_terms
            or self.load.node_of(pod)
            or self._promised_nodes(wanted)
            or self._avoidance.nodes(pod, now=self.snapshot.now)
        )

    def _promised_nodes(self, wanted: Wanted) -> set[str]:
        return {self._promised[c.key].node for c in wanted.claims if c.key in self._promised}

    def gpu_of(self, result: Result) -> tuple[str, int]:
        """The GPU's name and the placement's index of a decision."""
        device = self._inventory.device(result.pool, result.device)
        assert device is not None
        return device.gpu, device.index

    # Choosing.

    def _choose(self, wanted: Wanted, barred: Barred | None) -> tuple[Placement, ...]:
        requests, constraints = wanted.requests, wanted.constraints
        feasible = self.feasible(wanted)
        asked, within = requests, constraints
        # A bound pod cannot go anywhere else, so nothing is kept from it.
        if not wanted.pod.node:
            asked, limits = self.reserves.respect(requests)
            within = [*constraints, *limits]
        if barred is not None:
            asked, limits = barred.remove_from(asked)
            within = [*within, *limits]
        with metrics.timed(metrics.PLACEMENT_SECONDS):
            answer = self._engine.place(self.state, asked, feasible=feasible, constraints=within)
            if not isinstance(answer, Unplaceable):
                return answer
            # What is barred or reserved would be missing in the answer's explanation.
            unlimited = self._engine.place(self.state, requests, feasible=feasible, constraints=constraints)
        if isinstance(unlimited, Unplaceable):
            avoided = self._avoidance.explain(wanted.pod, now=self.snapshot.now)
            raise Unserved(
                REASONS[unlimited.reason],
                words_of(unlimited, feasible, avoided=avoided),
                profile=unlimited.profile,
                lacks_room=unlimited.reason == NO_ROOM,
            )
        profile = unlimited[0].legal.profile
        raise Unserved(
            Reason.UNPLACEABLE,
            f"the room that is left for {profile} is reserved: {self.reserves.blame(requests)}; wait for "
            "running work to end, ask for a reserved profile, or lower spec.dynamic.reserves",
            profile=profile,
        )

    def _choose_kept(self, wanted: Wanted, only: Only) -> tuple[Placement, ...]:
        """The place that is kept for the pod; when it was opened, the reserves were looked at. The index is
        into the geometry of that GPU.
        """
        geometry = self.state.gpus[only.gpu].geometry
        asked = [only.narrow(request, geometry) for request in wanted.requests]
        answer = self._engine.place(
            self.state, asked, feasible=self.feasible(wanted), constraints=wanted.constraints
        )
        if isinstance(answer, Unplaceable):
            raise Unserved(REASONS[answer.reason], str(answer), profile=answer.profile)
        return answer

    def read(self, claim: Claim) -> ClaimRequests:
        """What a claim asks for. Raises InvalidRequest."""
        return self._reader.read(claim, self.snapshot.classes)

    def device_at(self, gpu: str, index: int) -> tuple[str, str]:
        """(Pool, device) of a placement on a GPU."""
        device = self._inventory.by_name[gpu].devices[index]
        return device.pool, device.name

    def place_of(self, pool: str, device: str) -> Only | None:
        """The place that a device is, or None when it is not published (any more)."""
        found = self._inventory.device(pool, device)
        gpu = None if found is None else self.state.gpu(found.gpu)
        return None if found is None or gpu is None else Only(gpu.number, found.index)

    def question(self, wanted: Wanted) -> Hashable:
        """What has the same answer for equal pods."""
        return None if self._is_special(wanted) or wanted.constraints else self._question(wanted)

    def _shares(self, wanted: Wanted) -> tuple[Claim, ...]:
        """Allocated claims of ours that the pod is to use beside others. Raises Unserved when one is full, or
        when its slice is one to which nobody may come: it would never become free.
        """
        if not wanted.pod.gated:
            return ()
        shares = tuple(c for c in wanted.claims if c.holds_ours and wanted.pod.uid not in c.reserved_for)
        for claim in shares:
            if len(claim.reserved_for) + self._sharers[claim.key] >= MOST_CONSUMERS:
                raise Unserved(
                    Reason.UNPLACEABLE,
                    f"ResourceClaim {claim.key[1]} is used by {MOST_CONSUMERS} pods, which is the most that "
                    "the API allows; use another claim for further pods",
                )
            self._refuse_barred(claim)
        return shares

    def _refuse_barred(self, claim: Claim) -> None:
        for pool, name in claim.allocated.devices if claim.allocated is not None else ():
            device = self._inventory.device(pool, name)
            if device is None:
                why = "is not published any more"
            elif taints := [taint for taint in device.taints if names.bars_everybody(taint.key)]:
                why = f"takes nobody new ({taints[0].key}={taints[0].value})"
            else:
                continue
            raise Unserved(
                Reason.UNPLACEABLE,
                f"ResourceClaim {claim.key[1]}, which the pod shares, holds device {name} of node {pool}, "
                f"which {why}; the claim is placed anew when the pods that use it have ended",
            )

    def _check_shared_node(self, wanted: Wanted) -> None:
        """Raises Unserved when the pod cannot run on the node of the claims that it shares."""
        verdicts = self.verdicts(wanted)
        if wanted.pod.node or None in verdicts.values():
            return
        node = next(
            (pinned_node(c.allocated) for c in wanted.claims if c.holds_ours),
            next((self._promised[c.key].node for c in wanted.claims if c.key in self._promised), ""),
        )
        why = verdicts.get(node) or "no GPU of it is published"
        raise Unserved(
            Reason.UNPLACEABLE,
            f"the claim that the pod shares is on node {node}, which the pod cannot use: {why}; free room "
            "there, or give the pod a claim of its own",
        )

    def _is_promised(self, wanted: Wanted) -> bool:
        return any(c.key in self._promised for c in wanted.claims)

    def _claim_placement(
        self, claim: Claim, read: ClaimRequests, answer: Sequence[Placement]
    ) -> ClaimPlacement:
        results = []
        node = ""
        for placement in answer:
            if placement.request.startswith(f"{claim.uid}/"):
                device = self._inventory.by_name[placement.gpu].devices[placement.index]
                name = placement.alternative.removeprefix(f"{claim.uid}/")
                tolerations = read.tolerations[name]
                results.append(Result(name, device.pool, device.name, tolerations, placement.legal.profile))
                node = placement.node
        return ClaimPlacement(claim, node, tuple(results), self.snapshot.classes)

    # Taking.

    def _take(self, placed: PodPlacement) -> PodPlacement:
        node = self.node_of(placed)
        for one in placed.claims:
            self._promised[one.claim.key] = one
            self._promised_last.append(one.claim.key)
            for result in one.results:
                gpu, index = self.gpu_of(result)
                self.state.occupy(gpu, index, owner=_holder(one, result))
        for claim in placed.shares:
            self._sharers[claim.key] += 1
        if node and not self.load.node_of(placed.pod):
            self._counted.add(placed.pod.uid)
            self.load.put(placed.pod, node)
        return placed


def _holder(placement: ClaimPlacement, result: Result) -> Holder:
    claim = placement.claim
    return Holder(claim.uid, "/".join(claim.key), result.pool, result.device)
