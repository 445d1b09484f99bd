"""Making room for a request that fits nowhere, by moving a few instances.

On a busy cluster a request is often turned away although enough slices are free: they are not neighbours.
Moving one or two instances then makes room. A *plan* names the place for the request, the victims in its way,
and where each of them goes:

- over every (GPU, start) of the request that 1 to K movable instances overlap,
- take the victims away, place the request, and place the victims again, widest first, each where the
  policy's value V grows least, on any GPU (on its own too, which counts as a move all the same);
- of the plans where every victim finds a place, the cheapest is taken.

All victims are stopped before anything is placed, so a plan is legal in that order: stop, place the request,
place the victims. Nothing is changed here; the caller carries out the plan or leaves it.

What is cheapest is said by `PlanPrice`. GPUs with equal layouts are searched as one (`openings.py`,
`rooms.py`). Only to learn what may be moved, and at what cost, single GPUs are looked at: the lowest of a
layout, and at most `MOST_GPUS_OF_A_LAYOUT` of them where costs differ or nothing may be moved.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from tessera.placement.geometry import Geometry, LegalPlacement
from tessera.placement.gpu_sets import Filter, GpuSet, first_of
from tessera.placement.layouts import layout_table
from tessera.placement.openings import Opening, Openings
from tessera.placement.policies_value import ValuePolicy
from tessera.placement.ranking import bits
from tessera.placement.request import Alternative, Feasible, Offer, Placement, Request
from tessera.placement.rooms import Rooms
from tessera.placement.state import ClusterState, Gpu

MOST_GPUS_OF_A_LAYOUT = 64
MOST_GPUS_OF_A_SEARCH = 4096
"""How many GPUs one search asks about, whatever the size of the cluster."""

MOST_BEYOND_THE_BEST = 32
"""What three victims or more cost together is known only when all have a place. So many openings are tried
that look dearer than the best plan.
"""


@dataclass(frozen=True, slots=True)
class Victim:
    """An instance that may be moved, and what that costs.

    gpu_seconds: what is lost (`gpu_seconds_lost`).
    priority: of its pod; only preemption looks at it.
    offers: where its replacement may go; None: its profile, on any GPU that offers it.
    """

    gpu_seconds: float = 0.0
    priority: int = 0
    offers: tuple[Offer, ...] | None = None


_PRICE = itemgetter(0)

Movable = Callable[[Hashable], Victim | None]
"""Says of an owner what moving it costs, or None when it must stay where it is."""


@dataclass(frozen=True, slots=True)
class PlanPrice:
    """What makes a plan cheap: the least `per_victim * victims + per_value * dV + per_gpu_second * lost`.

    With `fewest_first`, a plan with fewer victims is always cheaper, and the rest decides among equals. The
    default is the order for an unrationed search; `UNDER_BUDGET` is the one that goes with `MoveBudget`.
    """

    per_victim: float = 1.0
    per_value: float = 0.1
    per_gpu_second: float = 0.0
    fewest_first: bool = True


UNDER_BUDGET = PlanPrice(fewest_first=False)


@dataclass(frozen=True, slots=True)
class Move:
    """One instance leaves `source` (GPU name, placement index) and starts again on `target`."""

    owner: Hashable
    profile: str
    source: tuple[str, int]
    target: tuple[str, int]


@dataclass(frozen=True, slots=True)
class MovePlan:
    """A place for a request and the moves that open it.

    `value_change` is the sum of the growths of V, of the request and of all moves; `gpu_seconds` what the
    victims lose.
    """

    placement: Placement
    moves: tuple[Move, ...]
    value_change: float
    gpu_seconds: float
    price: float


def gpu_seconds_lost(
    geometry: Geometry,
    placement: LegalPlacement,
    *,
    since_checkpoint_seconds: float,
    restart_seconds: float,
    reslice_seconds: float,
) -> float:
    """What moving an instance costs, in seconds of a whole GPU: the work since its last checkpoint, the start
    of its replacement, and the time in which the slices of both are changed, times its share of the memory
    slices of a GPU.
    """
    share = placement.width / geometry.memory_slices
    return share * (since_checkpoint_seconds + restart_seconds + reslice_seconds)


def victims_on(gpu: Gpu, opening: Opening, movable: Movable) -> list[tuple[Hashable, int, Victim]] | None:
    """The victims of an opening on one GPU (owner, placement index, cost), or None when one of them must
    stay.
    """
    owners = {index: owner for owner, index in gpu.held.items()}
    found: list[tuple[Hashable, int, Victim]] = []
    for index in opening.victims:
        victim = movable(owners[index])
        if victim is None:
            return None
        found.append((owners[index], index, victim))
    return found


class _Case(NamedTuple):
    """A layout with an opening, and the GPUs that have it. A plan costs `price` or more with one victim or
    two, and about as much with several. `growth` is what placing the request adds to V.
    """

    price: float
    geometry: Geometry
    opening: Opening
    growth: float
    gpus: GpuSet
    within: Filter | None


class _Search:
    """One search: what was asked, and how much of the cluster it has looked at."""

    def __init__(
        self, request: str, alternative: Alternative, *, rooms: Rooms, movable: Movable, price: PlanPrice
    ) -> None:
        self.request = request
        self.alternative = alternative
        self.rooms = rooms
        self.state = rooms.state
        self.movable = movable
        self.price = price
        self.looked_at = 0
        self._alone: dict[str, float | None] = {}
        self._joined: dict[tuple[str, str], float | None] = {}

    def cases(self, offer: Offer, openings: Openings, allowed: int | None) -> Iterator[_Case]:
        """Every layout with every opening that no lack of room rules out."""
        geometry, value, price = offer.geometry, self.rooms.policy.value, self.price
        pool = self.state.pools.get(geometry)
        if pool is None:
            return
        sets = [one for one in (allowed, offer.gpus) if one is not None]
        within = Filter(*sets) if sets else None
        for layout, found in openings.among(pool.present):
            gpus = pool.buckets[layout]
            if within is not None and first_of((gpus,), within=within) is None:
                continue
            before = value(geometry, layout)
            for opening in found:
                moved = self._least_growth(geometry, opening)
                if moved is not None:
                    placed = value(geometry, opening.after) - before
                    least = price.per_victim * len(opening.victims) + price.per_value * (placed + moved)
                    yield _Case(least, geometry, opening, placed, gpus, within)

    def _least_growth(self, geometry: Geometry, opening: Opening) -> float | None:
        """A bound of what placing the victims again adds to V, or None when there is no room for one. Exact
        for one victim; for two it allows for the second to join the first, for more it is an estimate.
        """
        total = 0.0
        rooms = self.rooms
        earlier: list[str] = []
        own = [opening.after]
        for profile in opening.profiles:
            choices = [self._least_alone(profile), *(self._least_joined(one, profile) for one in earlier)]
            for offer in rooms.homes(profile):
                if offer.geometry is geometry:
                    here = [rooms.addition(geometry, layout, offer.placements) for layout in own]
                    choices += [one[0] for one in here if one is not None]
                    if here[0] is not None and len(opening.profiles) > 1:
                        own.append(layout_table(geometry).after_placed(opening.after, here[0][1]))
            fitting = [one for one in choices if one is not None]
            if not fitting:
                return None
            total += min(fitting)
            earlier.append(profile)
        return total

    def _least_alone(self, profile: str) -> float | None:
        """The least growth of V at which a slice of this profile can go to a GPU as it is."""
        if profile not in self._alone:
            self._alone[profile] = self.rooms.least(self.rooms.homes(profile))
        return self._alone[profile]

    def _least_joined(self, first: str, second: str) -> float | None:
        """The least growth at which the second can go to the GPU that takes the first."""
        case = (first, second)
        if case not in self._joined:
            homes = self.rooms.homes
            self._joined[case] = self.rooms.least_joined(homes(first), homes(second))
        return self._joined[case]

    def cheapest(self, cases: Iterable[_Case]) -> MovePlan | None:
        """The cheapest plan of these cases."""
        best: MovePlan | None = None
        best_rank: tuple[float, int, int] | None = None
        estimated = 0
        for case in cases:
            if best is not None and case.price > best.price + 1e-9:
                if len(case.opening.victims) <= 2:
                    continue
                estimated += 1
                if estimated > MOST_BEYOND_THE_BEST:
                    continue
            for number, plan in self._plans(case):
                start = case.geometry.placements[case.opening.index].start
                rank = (round(plan.price, 9), number, start)
                if best_rank is None or rank < best_rank:
                    best, best_rank = plan, rank
        return best

    def _plans(self, case: _Case) -> Iterator[tuple[int, MovePlan]]:
        """The plans on the GPUs of a case, with the GPU's number, as far as they can differ in price."""
        number = first_of((case.gpus,), within=case.within)
        for _ in range(MOST_GPUS_OF_A_LAYOUT):
            if number is None or self.looked_at == MOST_GPUS_OF_A_SEARCH:
                return
            self.looked_at += 1
            victims = victims_on(self.state.gpus[number], case.opening, self.movable)
            if victims is not None:
                plan = self._plan(self.state.gpus[number], case, victims)
                if plan is not None:
                    yield (number, plan)
                same = all(victim.offers is None for _, _, victim in victims)
                if same and (plan is None or not self.price.per_gpu_second):
                    return
            number = first_of((case.gpus,), within=case.within, start=number + 1)

    def _plan(self, gpu: Gpu, case: _Case, victims: list[tuple[Hashable, int, Victim]]) -> MovePlan | None:
        profiles = case.opening.profiles
        wanted = [
            self.rooms.homes(profile) if victim.offers is None else victim.offers
            for profile, (_, _, victim) in zip(profiles, victims, strict=True)
        ]
        filled = self.rooms.fill(wanted, {gpu.number: case.opening.after})
        if filled is None:
            return None
        growth, places = filled
        moves = tuple(
            Move(owner, profile, (gpu.name, index), (self.state.gpus[number].name, target))
            for profile, (owner, index, _), (number, target) in zip(profiles, victims, places, strict=True)
        )
        lost = sum(victim.gpu_seconds for _, _, victim in victims)
        change = case.growth + growth
        price = self.price
        return MovePlan(
            placement=Placement(
                request=self.request,
                alternative=self.alternative.name,
                gpu=gpu.name,
                node=gpu.node,
                index=case.opening.index,
                legal=gpu.geometry.placements[case.opening.index],
            ),
            moves=moves,
            value_change=change,
            gpu_seconds=lost,
            price=price.per_victim * len(moves) + price.per_value * change + price.per_gpu_second * lost,
        )


class MovePlanner:
    """Finds plans by the values of a policy. Keeps what it has learned of a state and its layouts."""

    def __init__(self, policy: ValuePolicy) -> None:
        self._rooms = Rooms(policy)
        self._openings: dict[tuple[Geometry, tuple[int, ...], int], Openings] = {}

    def plan(
        self,
        state: ClusterState,
        request: Request,
        *,
        most_victims: int,
        movable: Movable,
        feasible: Feasible | None = None,
        price: PlanPrice | None = None,
    ) -> MovePlan | None:
        """The cheapest plan that places one slice of the request with 1 to `most_victims` moves, or None.

        Earlier alternatives of the request win over later ones; those of several slices are passed over.
        `feasible` restricts where the request goes, not where victims go (their offers do). Ties go to the
        lowest GPU and start.
        """
        if most_victims < 1:
            return None
        self._rooms.follow(state)
        price = price or PlanPrice()
        allowed = None if feasible is None else feasible.gpus
        for alternative in request.alternatives:
            if alternative.count != 1 or not _enough_free(state, alternative):
                continue
            search = _Search(request.name, alternative, rooms=self._rooms, movable=movable, price=price)
            cases = [
                case
                for offer in alternative.offers
                for case in search.cases(offer, self._openings_for(offer, most_victims), allowed)
            ]
            cases.sort(key=_PRICE)
            for level in range(1, most_victims + 1) if price.fewest_first else (None,):
                plan = search.cheapest(c for c in cases if level in (None, len(c.opening.victims)))
                if plan is not None:
                    return plan
        return None

    def _openings_for(self, offer: Offer, most_victims: int) -> Openings:
        case = (offer.geometry, offer.placements, most_victims)
        found = self._openings.get(case)
        if found is None:
            found = Openings(offer.geometry, offer.placements, most_victims=most_victims)
            self._openings[case] = found
        return found


def plan_moves(
    state: ClusterState,
    policy: ValuePolicy,
    request: Request,
    *,
    most_victims: int,
    movable: Movable,
    feasible: Feasible | None = None,
    price: PlanPrice | None = None,
) -> MovePlan | None:
    """`MovePlanner(policy).plan(…)`, for a single question. Who asks often keeps the planner."""
    return MovePlanner(policy).plan(
        state, request, most_victims=most_victims, movable=movable, feasible=feasible, price=price
    )


def _enough_free(state: ClusterState, alternative: Alternative) -> bool:
    """Whether the slices that are free would do, if they were neighbours. On GPUs of several models slices
    cannot be compared, and the search says it.
    """
    if len(state.pools) != 1:
        return True
    (pool,) = state.pools.values()
    placements = pool.geometry.placements
    needed = min((placements[i].width for o in alternative.offers for i in o.placements), default=0)
    for layout in bits(pool.present):
        if free := pool.table.free(layout):
            needed -= free * pool.buckets[layout].count()
            if needed <= 0:
                return True
    return False
