"""All layouts of one geometry in the order in which a policy would use them for one kind of request.

Layouts of equal rank form a *class*: between their GPUs the GPU number decides. The classes that may have
GPUs stand in a sorted queue. It is kept lazily: a class enters when one of its layouts appears on a GPU,
and leaves when it is found empty at the front. So the best place is found at the front of a list, however
many layouts and GPUs there are, and a layout is ranked only once somebody has it.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator

from tessera.placement.geometry import Geometry
from tessera.placement.gpu_sets import Filter, GpuSet, first_of, positions
from tessera.placement.policies import Policy, Rank
from tessera.placement.request import Offer
from tessera.placement.state import ClusterState, Pool

Option = tuple[Rank, Rank, int, int]
"""A placement on a GPU: rank (slices, compute slices, then the policy's), preference, start, and index."""


class RankClass:
    """Layouts of equal rank: `members` as bits by layout number, those that have appeared."""

    __slots__ = ("members", "rank")

    def __init__(self, rank: Rank) -> None:
        self.rank = rank
        self.members = 0


class Ranking:
    """The ranked layouts of one pool for a set of admissible placements, under one version of a policy."""

    def __init__(self, policy: Policy, pool: Pool, placements: tuple[int, ...]) -> None:
        self.pool = pool
        self.index_for: dict[int, int] = {}
        """Layout -> the placement to take on a GPU that has it; absent when none fits."""
        self.class_of: dict[int, RankClass | None] = {}
        """Layout -> its class; None when no placement fits. Absent until the layout has appeared."""
        self._policy = policy
        self._options: dict[int, list[Option]] = {}
        self.placements = placements
        self._classes: dict[Rank, RankClass] = {}
        self._queue: list[tuple[Rank, RankClass]] = []
        self._settled = 0
        """Layouts, as bits, whose class is queued, or that have no room and so no class."""

    def lowest(self) -> tuple[int, int] | None:
        """The lowest GPU of the best class, and the placement to take on it: (GPU number, index)."""
        pool = self.pool
        present = pool.present
        if present & ~self._settled:
            self._settle(present)
        queue = self._queue
        while queue:
            best = queue[0][1]
            live = best.members & present
            if live:
                break
            del queue[0]
            self._settled &= ~best.members
        else:
            return None
        low = live & -live
        layout = low.bit_length() - 1
        if live == low:
            return pool.buckets[layout].lowest(), self.index_for[layout]
        return self._lowest_of_several(live)

    def _lowest_of_several(self, live: int) -> tuple[int, int]:
        buckets = self.pool.buckets
        best = -1
        chosen = 0
        while live:
            low = live & -live
            layout = low.bit_length() - 1
            number = buckets[layout].lowest()
            if best < 0 or number < best:
                best, chosen = number, layout
            live ^= low
        return best, self.index_for[chosen]

    def first(self, *, within: Filter | None, turn: int | None) -> tuple[Rank, int] | None:
        """The best class that has a GPU within the filter, and its first GPU: from `turn` on, cyclically."""
        pool = self.pool
        present = pool.present
        if present & ~self._settled:
            self._settle(present)
        for rank, one in self._queue:
            live = one.members & present
            if live:
                buckets = [pool.buckets[layout] for layout in positions(live)]
                number = first_of(buckets, within=within, start=turn or 0)
                if number is None and turn:
                    number = first_of(buckets, within=within)
                if number is not None:
                    return rank, number
        return None

    def classes(self) -> Iterator[tuple[Rank, list[GpuSet]]]:
        """The classes that have GPUs, best first, with the buckets of their layouts."""
        pool = self.pool
        if pool.present & ~self._settled:
            self._settle(pool.present)
        for rank, one in self._queue:
            live = one.members & pool.present
            if live:
                yield rank, [pool.buckets[layout] for layout in positions(live)]

    def _settle(self, present: int) -> None:
        """Rank the layouts that have appeared, and queue their classes."""
        class_of = self.class_of
        while appeared := present & ~self._settled:
            low = appeared & -appeared
            layout = low.bit_length() - 1
            if layout not in class_of:
                class_of[layout] = self._rank(layout)
            its_class = class_of[layout]
            if its_class is None:
                self._settled |= low
                continue
            entry = (its_class.rank, its_class)
            if not its_class.members & self._settled:
                insort(self._queue, entry)
            self._settled |= its_class.members

    def _rank(self, layout: int) -> RankClass | None:
        """Find the best placement on a GPU with this layout, and the class of its rank."""
        options = self.options(layout)
        if not options:
            return None
        rank, _, _, self.index_for[layout] = options[0]
        found = self._classes.get(rank)
        if found is None:
            found = self._classes[rank] = RankClass(rank)
        found.members |= 1 << layout
        return found

    def options(self, layout: int) -> list[Option]:
        """Every admissible placement that fits on a GPU with this layout, best first."""
        found = self._options.get(layout)
        if found is None:
            pool, policy = self.pool, self._policy
            found = self._options[layout] = []
            for index in self.placements:
                if pool.table.fits(layout, index):
                    legal = pool.geometry.placements[index]
                    # The smallest profile first, then the policy's rank.
                    rank = (legal.width, legal.compute, *policy.rank(pool.geometry, layout, index))
                    found.append((rank, policy.preference(pool.geometry, layout, index), legal.start, index))
            found.sort()
        return found


class Rankings:
    """The rankings of a state under a policy, each made when it is first asked for. They are made anew when
    the state is another one, a model of GPU has come, or the policy's ranks have changed.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.state: ClusterState | None = None
        self.version = policy.version
        self.models = 0
        self._made: dict[tuple[Geometry, tuple[int, ...]], Ranking] = {}

    def follow(self, state: ClusterState) -> bool:
        """Rank this state from now on, as the policy ranks now. Whether that made the rankings stale."""
        now = (state, self.policy.version, len(state.pools))
        if (self.state, self.version, self.models) == now:
            return False
        self.state, self.version, self.models = now
        self._made.clear()
        return True

    def of(self, offer: Offer) -> Ranking:
        """The ranking of the placements that are offered, in the state that is followed."""
        name = (offer.geometry, offer.placements)
        found = self._made.get(name)
        if found is None:
            assert self.state is not None, "no state is followed yet; call follow first"
            # A geometry without GPUs has an empty pool, so that its ranking is empty.
            pool = self.state.pools.get(offer.geometry) or Pool(offer.geometry)
            found = self._made[name] = Ranking(self.policy, pool, offer.placements)
        return found
