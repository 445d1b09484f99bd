"""The choice of a place for slices: one global minimum over all GPUs of the cluster.

One slice: the layouts that GPUs have now stand in the order of the policy's rank (`ranking`); the best one
that has an allowed GPU wins, then the lowest GPU, then the lowest start. When a selector admits several
profiles, the smallest one (memory slices, then compute slices) that can be placed is taken, so that a
request for "at least 20 GiB" never takes a whole GPU because that happens to leave no fragment behind.

Several slices (all requests of one pod): all on one node or none; see `joint`.

The engine only decides. It never changes the state; the caller occupies what it has accepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from tessera.placement.explain import explain
from tessera.placement.gpu_sets import Filter, filter_of, filter_of_given
from tessera.placement.joint import Want, place_on_one_node, placement_of
from tessera.placement.policies import Policy, Rank
from tessera.placement.ranking import Ranking, Rankings
from tessera.placement.request import (
    Constraint,
    Feasible,
    Placement,
    Request,
    Unplaceable,
    request_for_profile,
)
from tessera.placement.state import ClusterState

_MOST_COMBINATIONS = 512
"""Alternatives of several requests multiply; beyond this the later ones are not tried (a claim may have 32
requests of 8).
"""

_DRAWS = 32
"""Blind draws of `random` before it looks which GPUs there are."""


class Engine:
    """Places requests by a policy. Keeps the order of layouts until the policy's version changes."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._rankings = Rankings(policy)
        self._of_profile: dict[str, tuple[Ranking, ...]] = {}

    def choose(
        self, state: ClusterState, profile: str, *, feasible: int | None = None
    ) -> tuple[int, int] | None:
        """The place for one slice of a profile: (GPU number, placement index), or None when it fits nowhere.

        The same choice as `place`, without the words. `feasible` restricts the GPUs (a bit set; None: all).
        """
        policy, known = self.policy, self._rankings
        # The check of `follow` written out: it comes with every decision.
        if known.state is not state or known.version != policy.version or known.models != len(state.pools):
            self._follow(state)
        rankings = self._of_profile.get(profile)
        if rankings is None:
            offers = request_for_profile(state, profile).alternatives[0].offers
            rankings = self._of_profile[profile] = tuple(known.of(offer) for offer in offers)
        if feasible is None and len(rankings) == 1 and policy.chance is None and policy.turn is None:
            return rankings[0].lowest()
        within = None if feasible is None else filter_of(feasible)
        return self._select(state, [(ranking, within) for ranking in rankings])

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
        self._follow(state)
        options = [request.alternatives for request in requests]
        for tried, combination in enumerate(product(*options)):
            if tried == _MOST_COMBINATIONS:
                break
            wants = [
                Want(request.name, alternative)
                for request, alternative in zip(requests, combination, strict=True)
                for _ in range(alternative.count)
            ]
            found = self._place_wants(state, wants, feasible, constraints)
            if found is not None:
                return found
        return explain(state, requests, feasible=feasible)

    def _place_wants(
        self,
        state: ClusterState,
        wants: list[Want],
        feasible: Feasible | None,
        constraints: Sequence[Constraint],
    ) -> tuple[Placement, ...] | None:
        allowed = None if feasible is None else feasible.gpus
        ranked = [
            [
                (self._rankings.of(offer), filter_of_given(allowed, offer.gpus))
                for offer in want.alternative.offers
            ]
            for want in wants
        ]
        if len(wants) > 1 or constraints:
            return place_on_one_node(state, wants, ranked, allowed=allowed, constraints=constraints)
        best = self._select(state, ranked[0])
        return None if best is None else (placement_of(wants[0], state.gpus[best[0]], best[1]),)

    def _follow(self, state: ClusterState) -> None:
        """Forget ranks that another policy version, other GPUs or another state have made stale."""
        if self._rankings.follow(state):
            self._of_profile.clear()

    def _select(
        self, state: ClusterState, ranked: Sequence[tuple[Ranking, Filter | None]]
    ) -> tuple[int, int] | None:
        """The global minimum for one slice: (GPU number, placement index)."""
        turn = self.policy.turn
        best: tuple[Rank, int, int] | None = None
        tied: list[tuple[Ranking, Filter | None]] = []
        for ranking, within in ranked:
            first = ranking.first(within=within, turn=turn)
            if first is None:
                continue
            rank, number = first
            if best is None or rank < best[0]:
                tied = []
            if best is None or rank <= best[0]:
                tied.append((ranking, within))
            # Cyclic distance from whose turn it is; without turns the number itself.
            distance = number if turn is None else (number - turn) % len(state.gpus)
            if best is None or (rank, distance) < best[:2]:
                best = (rank, distance, number)
        if best is None:
            return None
        number = best[2] if self.policy.chance is None else self._draw(state, best[0], tied)
        self.policy.chosen(number)
        geometry = state.gpus[number].geometry
        layout = state.gpus[number].layout
        for ranking, within in tied:
            if ranking.pool.geometry is geometry and (within is None or within.admits(number)):
                its_class = ranking.class_of[layout]
                if its_class is not None and its_class.rank == best[0]:
                    return number, ranking.index_for[layout]
        raise AssertionError(f"GPU {number} was chosen from no ranking")

    def _draw(self, state: ClusterState, rank: Rank, tied: list[tuple[Ranking, Filter | None]]) -> int:
        """Any GPU of this rank, each with the same chance."""
        chance = self.policy.chance
        assert chance is not None

        def is_candidate(number: int) -> bool:
            gpu = state.gpus[number]
            for ranking, within in tied:
                if ranking.pool.geometry is gpu.geometry and (within is None or within.admits(number)):
                    its_class = ranking.class_of.get(gpu.layout)
                    if its_class is not None and its_class.rank == rank:
                        return True
            return False

        # A blind draw that hits a candidate is as good as a draw from the list of all, and much cheaper.
        for _ in range(_DRAWS):
            number = chance.randrange(len(state.gpus))
            if is_candidate(number):
                return number
        return chance.choice([number for number in range(len(state.gpus)) if is_candidate(number)])
