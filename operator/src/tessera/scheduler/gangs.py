"""The joint placement of pods that start together: all of them, or none.

The most demanding pod goes first, each to its best place; that is the answer almost always. When a later
pod finds no place, earlier choices are revised, depth first: another GPU, another start, another node,
until all fit, nothing is left to try, or the budget is used up. GPUs that nothing tells apart (same layout,
on nodes with the same free resources that pass the same filters) count as one choice, so that a cluster of
equal nodes is searched in a few steps.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from tessera.placement.gpu_sets import bits_of
from tessera.placement.request import Offer
from tessera.scheduler.actions import PodPlacement
from tessera.scheduler.barred import Barred
from tessera.scheduler.objects import Pod
from tessera.scheduler.placing import Placing
from tessera.scheduler.refusals import NotYet, Unserved
from tessera.scheduler.wanted import Wanted

MOST_TRIES = 500
"""Decisions for one gang in one round; about 50 ms."""


def place_together(
    pods: Sequence[Pod], placing: Placing, *, most_tries: int = MOST_TRIES
) -> tuple[PodPlacement, ...]:
    """A placement for each pod, in their order. Raises Unserved or NotYet, with the books as they were."""
    order = sorted((placing.wanted(pod) for pod in pods), key=_demand)
    search = _Search(placing, order, most_tries)
    refusal = search.greedy()
    if refusal is not None and not search.revise():
        if search.tries < most_tries:
            raise refusal
        raise Unserved(
            refusal.reason,
            f"{refusal.message}; the search for a joint arrangement ended after {most_tries} tries",
            profile=refusal.profile,
        )
    found = {placed.pod.uid: placed for placed in search.done}
    return tuple(found[pod.uid] for pod in pods)


def _demand(wanted: Wanted) -> tuple[object, ...]:
    """Sort key: the widest request first, and of equal ones that with the fewest places."""
    slices = 0
    places = 0
    for request in wanted.requests:
        widths = []
        for alternative in request.alternatives:
            for offer in alternative.offers:
                widths += [offer.geometry.placements[i].width * alternative.count for i in offer.placements]
                places += len(offer.placements) * (offer.gpus or 0).bit_count()
        slices += min(widths, default=0)
    return (-slices, places, wanted.pod.created, wanted.pod.key)


@dataclass
class _Search:
    placing: Placing
    order: list[Wanted]
    most_tries: int
    tries: int = 0
    done: list[PodPlacement] = field(default_factory=list)
    _signatures: dict[str, Hashable] = field(default_factory=dict)

    def greedy(self) -> Unserved | None:
        """Each pod to its best place. The refusal of the first pod that finds none, with everything given
        back.
        """
        try:
            for wanted in self.order:
                self.done.append(self.placing.place(wanted.pod))
        except Unserved as refused:
            self._give_back(0)
            return refused
        except NotYet:
            self._give_back(0)
            raise
        return None

    def revise(self) -> bool:
        """Search for any arrangement. False when there is none, or none was found in time."""
        verdicts = [self.placing.verdicts(wanted) for wanted in self.order]
        if self._members_are_alike(verdicts):
            # Whoever takes which of the places, the number of them is the same.
            return False
        self._sign(verdicts)
        return self._descend(0)

    def _members_are_alike(self, verdicts: list[dict[str, str | None]]) -> bool:
        first = self.order[0]
        slices = [a.count for request in first.requests for a in request.alternatives]
        return slices == [1] and all(
            [r.alternatives[0].offers for r in wanted.requests] == [first.requests[0].alternatives[0].offers]
            and [a.count for r in wanted.requests for a in r.alternatives] == [1]
            and wanted.pod.requests == first.pod.requests
            and verdict == verdicts[0]
            for wanted, verdict in zip(self.order, verdicts, strict=True)
        )

    def _descend(self, depth: int) -> bool:
        """Place the pods from `depth` on. False with all of those given back."""
        if depth == len(self.order):
            return True
        pod = self.order[depth].pod
        barred: Barred | None = None
        while self.tries < self.most_tries:
            self.tries += 1
            try:
                placed = self.placing.place(pod, barred=barred)
            except Unserved:
                return False
            self.done.append(placed)
            if self._descend(depth + 1):
                return True
            self._give_back(depth)
            if not placed.claims:
                return False
            barred = self._bar(barred or Barred(), placed)
        return False

    def _give_back(self, depth: int) -> None:
        while len(self.done) > depth:
            self.placing.undo(self.done.pop())

    def _bar(self, barred: Barred, placed: PodPlacement) -> Barred:
        choice = [self.placing.gpu_of(result) for one in placed.claims for result in one.results]
        if len(choice) > 1:
            barred.choices.add(frozenset(choice))
        else:
            ((gpu, index),) = choice
            barred.alike.append((self._alike(gpu), index))
        return barred

    def _alike(self, name: str) -> int:
        """The GPUs that are as good or bad as this one for every pod of the gang."""
        state = self.placing.state
        tried = state.gpu(name)
        assert tried is not None
        touched = {self.placing.node_of(placed) for placed in self.done}
        nodes = {tried.node}
        if tried.node not in touched:
            signature = self._signatures[tried.node]
            nodes |= {n for n, other in self._signatures.items() if other == signature and n not in touched}
        same = [
            gpu
            for gpu in state.gpus
            if gpu.node in nodes and gpu.geometry is tried.geometry and gpu.key == tried.key
        ]
        offers = self._offers()
        mine = _membership(offers, tried.number)
        return bits_of(gpu.number for gpu in same if _membership(offers, gpu.number) == mine)

    def _sign(self, verdicts: list[dict[str, str | None]]) -> None:
        """What tells nodes apart for this gang, before any of it is placed there."""
        placing = self.placing
        resources = sorted({name for wanted in self.order for name in wanted.pod.requests})
        offers = self._offers()
        gpus: dict[str, list[tuple[int, int, tuple[bool, ...]]]] = {}
        for gpu in placing.state.gpus:
            mark = (id(gpu.geometry), gpu.key, _membership(offers, gpu.number))
            gpus.setdefault(gpu.node, []).append(mark)
        zero = Fraction(0)
        for name, marks in gpus.items():
            node = placing.snapshot.nodes.get(name)
            used = placing.load.used(name)
            free = tuple(
                node.allocatable.get(r, zero) - used.get(r, zero) if node is not None else zero
                for r in resources
            )
            passes = tuple(verdict[name] for verdict in verdicts)
            self._signatures[name] = (tuple(sorted(marks)), free, passes)

    def _offers(self) -> list[Offer]:
        distinct = {
            id(offer): offer
            for wanted in self.order
            for request in wanted.requests
            for alternative in request.alternatives
            for offer in alternative.offers
        }
        return list(distinct.values())


def _membership(offers: Sequence[Offer], number: int) -> tuple[bool, ...]:
    return tuple(offer.gpus is None or bool(offer.gpus >> number & 1) for offer in offers)
