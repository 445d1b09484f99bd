"""Several slices at once: all on one node, or none.

On each node the slices are placed largest first, each at its best rank, stepping back when a later one does
not fit, so that a fit is found whenever there is one. The node with the least sum of ranks wins, then the
one with the lowest GPU. Nodes whose GPUs have the same layouts are the same to the policy; only the first
of them is worked out.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from tessera.placement.gpu_sets import Filter, filter_of, filter_of_given, numbers, union_bits
from tessera.placement.policies import Rank
from tessera.placement.ranking import Ranking
from tessera.placement.request import Alternative, Constraint, Placement, placement_on
from tessera.placement.state import ClusterState, Gpu

Ranked = Sequence[tuple[Ranking, Filter | None]]
"""The offers of one want: their rankings, and the GPUs for which each holds."""


@dataclass(frozen=True, slots=True)
class Want:
    """One slice that is asked for."""

    request: str
    alternative: Alternative


def placement_of(want: Want, gpu: Gpu, index: int) -> Placement:
    """The answer for a want: this placement on this GPU."""
    return placement_on(gpu, index, request=want.request, alternative=want.alternative.name)


def place_on_one_node(
    state: ClusterState,
    wants: Sequence[Want],
    ranked: Sequence[Ranked],
    *,
    allowed: int | None,
    constraints: Sequence[Constraint],
) -> tuple[Placement, ...] | None:
    """One placement per want, in their order, all on the best node; None when no node has room for all.

    `ranked` are the offers per want, `allowed` the GPUs that may be used (None: all).
    """
    # Largest first; the order of the answer is restored at the end.
    order = sorted(range(len(wants)), key=lambda i: (-_width(wants[i].alternative), i))
    search = _Search(state, wants, ranked, order, constraints)
    may_use = filter_of_given(allowed)
    best: tuple[Rank, int] | None = None
    best_found: tuple[Placement, ...] | None = None
    known: dict[Hashable, int] = {}
    for node in _nodes_of(state, [_able(offers) for offers in ranked]):
        local = {
            number: state.gpus[number].layout
            for number in state.numbers_of_node(node)
            if may_use is None or may_use.admits(number)
        }
        # A constraint may look at the GPUs themselves, so that no two nodes are the same to it.
        looks = None if constraints else _appearance(state, ranked, local)
        if looks is not None and known.get(looks, len(state.gpus)) < min(local):
            continue
        found = search.fill(local)
        if looks is not None:
            known[looks] = min(local)
        if found is None:
            continue
        total, placements = found
        if best is None or (total, min(local)) < best:
            best, best_found = (total, min(local)), placements
    return best_found


class _Search:
    """Depth-first search for a joint placement on one node."""

    def __init__(
        self,
        state: ClusterState,
        wants: Sequence[Want],
        ranked: Sequence[Ranked],
        order: list[int],
        constraints: Sequence[Constraint],
    ) -> None:
        self._state = state
        self._wants = wants
        self._ranked = ranked
        self._order = order
        self._constraints = constraints

    def fill(self, local: dict[int, int]) -> tuple[Rank, tuple[Placement, ...]] | None:
        """Place all wants on the GPUs of `local` (number -> layout). Returns the sum of ranks and the
        placements.
        """
        found: list[Placement | None] = [None] * len(self._wants)
        total = self._descend(0, dict(local), found, set())
        if total is None:
            return None
        return total, tuple(placement for placement in found if placement is not None)

    def _descend(
        self, depth: int, local: dict[int, int], found: list[Placement | None], dead: set[Hashable]
    ) -> Rank | None:
        if depth == len(self._order):
            return ()
        # With constraints a dead end depends on the placements themselves, not only on the layouts that
        # they leave.
        here = (depth, tuple(local.values()))
        if not self._constraints and here in dead:
            return None
        at = self._order[depth]
        for rank, number, index in self._choices(self._ranked[at], local):
            gpu = self._state.gpus[number]
            before = local[number]
            found[at] = placement_of(self._wants[at], gpu, index)
            if all(allows([p for p in found if p is not None]) for allows in self._constraints):
                local[number] = gpu.table.after_placed(before, index)
                rest = self._descend(depth + 1, local, found, dead)
                local[number] = before
                if rest is not None:
                    return _add(rank, rest)
            found[at] = None
        dead.add(here)
        return None

    def _choices(self, offers: Ranked, local: dict[int, int]) -> Iterator[tuple[Rank, int, int]]:
        """Every placement of the offers that fits on the local GPUs, best first."""
        choices: list[tuple[Rank, int, Rank, int, int]] = []
        for number, layout in local.items():
            geometry = self._state.gpus[number].geometry
            for ranking, within in offers:
                if ranking.pool.geometry is geometry and (within is None or within.admits(number)):
                    choices += [
                        (rank, number, preference, start, index)
                        for rank, preference, start, index in ranking.options(layout)
                    ]
        # Most often the first choice leads to the end, and the others need no order.
        if choices:
            rank, number, _, _, index = best = min(choices)
            yield rank, number, index
            choices.remove(best)
        choices.sort()
        for rank, number, _, _, index in choices:
            yield rank, number, index


def _width(alternative: Alternative) -> int:
    return max((o.geometry.placements[i].width for o in alternative.offers for i in o.placements), default=0)


def _able(offers: Ranked) -> int:
    """The GPUs on which one slice of these offers fits."""
    able = 0
    for ranking, within in offers:
        fits = union_bits(bucket for _, buckets in ranking.classes() for bucket in buckets)
        able |= fits if within is None else fits & within.flat
    return able


def _nodes_of(state: ClusterState, able: Sequence[int]) -> Iterator[str]:
    """The nodes that have an able GPU for every want, in the order of their first able GPU."""
    seen: set[str] = set()
    filters = [filter_of(fits) for fits in able]
    for number in numbers(min(able, key=int.bit_count, default=0)):
        node = state.gpus[number].node
        if node in seen:
            continue
        seen.add(node)
        members = state.numbers_of_node(node)
        if all(any(fits.admits(member) for member in members) for fits in filters):
            yield node


def _appearance(state: ClusterState, ranked: Sequence[Ranked], local: dict[int, int]) -> Hashable:
    """What the search on a node depends on: models, layouts, and which offers name which GPU."""
    return tuple(
        (
            id(state.gpus[number].geometry),
            layout,
            tuple(within is None or within.admits(number) for offers in ranked for _, within in offers),
        )
        for number, layout in local.items()
    )


def _add(a: Rank, b: Rank) -> Rank:
    return tuple(x + y for x, y in zip(a, b, strict=True)) if b else a
