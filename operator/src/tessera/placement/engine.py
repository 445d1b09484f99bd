"""The choice of a place for slices: one global minimum over all GPUs of the cluster.

One slice: every bucket of every offered geometry is ranked once; the best rank wins, then the lowest GPU,
then the lowest start. When a selector admits several profiles, the smallest one (memory slices, then
compute slices) that can be placed is taken, so that a request for "at least 20 GiB" never takes a whole GPU
because that happens to leave no fragment behind.

Several slices (all requests of one pod): all on one node or none. On each node they are placed largest
first, each at its best rank, stepping back when a later one does not fit, so that a fit is found whenever
there is one; the node with the least sum of ranks wins, then the lowest GPU.

The engine only decides. It never changes the state; the caller occupies what it has accepted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from tessera.placement.explain import explain
from tessera.placement.geometry import Geometry
from tessera.placement.policies import Policy, Rank
from tessera.placement.request import (
    Alternative,
    Constraint,
    Feasible,
    Offer,
    Placement,
    Request,
    Unplaceable,
)
from tessera.placement.state import ClusterState, Gpu, numbers

_MOST_COMBINATIONS = 512
"""Alternatives of several requests multiply; beyond this the later ones are not tried (a claim may have 32
requests of 8).
"""


@dataclass(frozen=True, slots=True)
class _Want:
    request: str
    alternative: Alternative


class Engine:
    """Places requests by a policy. Keeps the ranks that it computed until the policy's version changes."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._ranks: dict[tuple[Geometry, int, tuple[int, ...]], tuple[Rank, int] | None] = {}
        self._version = policy.version

    def place(
        self,
        state: ClusterState,
        requests: Sequence[Request],
        *,
        feasible: Feasible | None = None,
        constraints: Sequence[Constraint] = (),
    ) -> tuple[Placement, ...] | Unplaceable:
        """One placement per requested slice, in the order of the requests, or why there is none.

        All placements of one call are on one node. `feasible` restricts the GPUs (None: all of the state).
        """
        if self._version != self.policy.version:
            self._ranks.clear()
            self._version = self.policy.version
        allowed = state.all_bits() if feasible is None else feasible.gpus
        options = [request.alternatives for request in requests]
        for tried, combination in enumerate(product(*options)):
            if tried == _MOST_COMBINATIONS:
                break
            wants = [
                _Want(request.name, alternative)
                for request, alternative in zip(requests, combination, strict=True)
                for _ in range(alternative.count)
            ]
            found = self._place_wants(state, wants, allowed, constraints)
            if found is not None:
                return found
        return explain(state, requests, feasible=feasible, allowed=allowed)

    def _place_wants(
        self, state: ClusterState, wants: list[_Want], allowed: int, constraints: Sequence[Constraint]
    ) -> tuple[Placement, ...] | None:
        if len(wants) == 1 and not constraints:
            best = self._best_gpu(state, wants[0].alternative.offers, allowed)
            return None if best is None else (_placement(wants[0], state.gpus[best[0]], best[1]),)
        return self._best_node(state, wants, allowed, constraints)

    def _best_gpu(
        self, state: ClusterState, offers: tuple[Offer, ...], allowed: int
    ) -> tuple[int, int] | None:
        """The global minimum for one slice: (GPU number, placement index)."""
        best_rank: Rank | None = None
        best: tuple[int, int] | None = None
        tied: list[tuple[int, int]] = []
        for offer in offers:
            gpus = allowed if offer.gpus is None else allowed & offer.gpus
            for key, bucket in state.buckets(offer.geometry).items():
                ranked = self._ranked(offer, key)
                if ranked is None or (best_rank is not None and ranked[0] > best_rank):
                    continue
                usable = bucket & gpus
                if not usable:
                    continue
                if best_rank is None or ranked[0] < best_rank:
                    best_rank, best, tied = ranked[0], None, []
                if self.policy.chance is not None:
                    tied.append((usable, ranked[1]))
                    continue
                lowest = (usable & -usable).bit_length() - 1
                if best is None or lowest < best[0]:
                    best = (lowest, ranked[1])
        if self.policy.chance is not None and tied:
            choices = sorted((number, index) for usable, index in tied for number in numbers(usable))
            return self.policy.chance.choice(choices)
        return best

    def _ranked(self, offer: Offer, key: int) -> tuple[Rank, int] | None:
        """The best placement of an offer on a GPU with this key, as (rank, index); None when none fits."""
        name = (offer.geometry, key, offer.placements)
        try:
            return self._ranks[name]
        except KeyError:
            ranked = self._ranks[name] = self._rank_all(offer, key)
            return ranked

    def _rank_all(self, offer: Offer, key: int) -> tuple[Rank, int] | None:
        geometry = offer.geometry
        best: tuple[Rank, int, int] | None = None
        for index in offer.placements:
            if not geometry.fits(key, index):
                continue
            legal = geometry.placements[index]
            rank = (legal.width, legal.compute, *self.policy.rank(geometry, key, index))
            if best is None or (rank, legal.start) < best[:2]:
                best = (rank, legal.start, index)
        return None if best is None else (best[0], best[2])

    def _best_node(
        self, state: ClusterState, wants: list[_Want], allowed: int, constraints: Sequence[Constraint]
    ) -> tuple[Placement, ...] | None:
        """All wants on one node: the node with the least sum of ranks."""
        # Largest first; the order of the answer is restored at the end.
        order = sorted(range(len(wants)), key=lambda i: (-_width(wants[i].alternative), i))
        able = [self._able(state, want.alternative.offers, allowed) for want in wants]
        best: tuple[Rank, int] | None = None
        best_found: list[Placement | None] | None = None
        for bits in _nodes_of(state, able):
            local = {number: state.gpus[number].key for number in numbers(bits & allowed)}
            found: list[Placement | None] = [None] * len(wants)
            total = self._fill(state, wants, order, local, found, constraints)
            if total is None:
                continue
            ranked = (total, min(local))
            if best is None or ranked < best:
                best, best_found = ranked, found
        if best_found is None:
            return None
        return tuple(placement for placement in best_found if placement is not None)

    def _able(self, state: ClusterState, offers: tuple[Offer, ...], allowed: int) -> int:
        """The GPUs on which one slice of these offers fits."""
        bits = 0
        for offer in offers:
            gpus = allowed if offer.gpus is None else allowed & offer.gpus
            for key, bucket in state.buckets(offer.geometry).items():
                if bucket & gpus and self._ranked(offer, key) is not None:
                    bits |= bucket & gpus
        return bits

    def _fill(
        self,
        state: ClusterState,
        wants: list[_Want],
        order: list[int],
        local: dict[int, int],
        found: list[Placement | None],
        constraints: Sequence[Constraint],
    ) -> Rank | None:
        """Place the wants in `order` on the GPUs of `local` (number -> key), by depth-first search. Returns
        the sum of ranks.
        """
        dead: set[tuple[int, tuple[int, ...]]] = set()

        def descend(depth: int) -> Rank | None:
            if depth == len(order):
                return ()
            # With constraints a dead end depends on the placements themselves, not only on the keys that
            # they leave.
            here = (depth, tuple(local.values()))
            if not constraints and here in dead:
                return None
            want = wants[order[depth]]
            for rank, number, index in self._choices(state, want.alternative.offers, local):
                gpu = state.gpus[number]
                before = local[number]
                found[order[depth]] = _placement(want, gpu, index)
                if all(allows([p for p in found if p is not None]) for allows in constraints):
                    local[number] = gpu.geometry.with_placed(before, index)
                    rest = descend(depth + 1)
                    local[number] = before
                    if rest is not None:
                        return _add(rank, rest)
                found[order[depth]] = None
            dead.add(here)
            return None

        return descend(0)

    def _choices(
        self, state: ClusterState, offers: tuple[Offer, ...], local: dict[int, int]
    ) -> list[tuple[Rank, int, int]]:
        """Every placement of the offers that fits on the local GPUs, best first."""
        choices: list[tuple[Rank, int, int, int]] = []
        for number, key in local.items():
            geometry = state.gpus[number].geometry
            for offer in offers:
                if offer.geometry is not geometry or not (offer.gpus is None or offer.gpus >> number & 1):
                    continue
                for index in offer.placements:
                    if geometry.fits(key, index):
                        legal = geometry.placements[index]
                        rank = (legal.width, legal.compute, *self.policy.rank(geometry, key, index))
                        choices.append((rank, number, legal.start, index))
        choices.sort()
        return [(rank, number, index) for rank, number, _, index in choices]


def _placement(want: _Want, gpu: Gpu, index: int) -> Placement:
    return Placement(
        request=want.request,
        alternative=want.alternative.name,
        gpu=gpu.name,
        node=gpu.node,
        index=index,
        legal=gpu.geometry.placements[index],
    )


def _width(alternative: Alternative) -> int:
    return max((o.geometry.placements[i].width for o in alternative.offers for i in o.placements), default=0)


def _nodes_of(state: ClusterState, able: list[int]) -> Iterator[int]:
    """The GPUs of each node that has an able GPU for every want, in the order of their first able GPU."""
    seen: set[str] = set()
    for number in numbers(min(able, key=int.bit_count, default=0)):
        node = state.gpus[number].node
        if node in seen:
            continue
        seen.add(node)
        bits = state.bits_of_nodes((node,))
        if all(bits & fits for fits in able):
            yield bits


def _add(a: Rank, b: Rank) -> Rank:
    return tuple(x + y for x, y in zip(a, b, strict=True)) if b else a
