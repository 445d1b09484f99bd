"""The words of a plan of moves: what may be moved and what it costs, what makes a plan cheap, the plan."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import permutations

from tessera.placement.budget import BudgetRule
from tessera.placement.geometry import Geometry, LegalPlacement
from tessera.placement.openings import Opening
from tessera.placement.request import Offer, Placement
from tessera.placement.state import ClusterState, Gpu


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


UNDER_BUDGET = PlanPrice(per_value=BudgetRule().value_price, fewest_first=False)


@dataclass(frozen=True, slots=True)
class Move:
    """One instance leaves `source` (GPU name, placement index) and starts again on `target`."""

    owner: Hashable
    profile: str
    source: tuple[str, int]
    target: tuple[str, int]


@dataclass(frozen=True, slots=True)
class MovePlan:
    """A place for a request and the moves that open it, in the order in which they are made: the target of
    each is free when its turn comes, and the place of the request after the last.

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


def one_after_the_other(state: ClusterState, moves: Sequence[Move]) -> tuple[Move, ...] | None:
    """The moves in an order in which each target is free when its turn comes (the own place of an instance
    counts as free), or None when there is no such order.
    """
    if len(moves) < 2 or {m.source[0] for m in moves}.isdisjoint(m.target[0] for m in moves):
        return tuple(moves)
    return next((order for order in permutations(moves) if _is_executable(state, order)), None)


def _is_executable(state: ClusterState, order: Sequence[Move]) -> bool:
    layouts: dict[str, int] = {}
    for move in order:
        source, target = state.gpu(move.source[0]), state.gpu(move.target[0])
        assert source is not None and target is not None, f"{move} names a GPU that is not in the state"
        left = layouts.get(source.name, source.layout)
        layouts[source.name] = source.table.after_released(left, move.source[1])
        taken = layouts.get(target.name, target.layout)
        if not target.table.fits(taken, move.target[1]):
            return False
        layouts[target.name] = target.table.after_placed(taken, move.target[1])
    return True


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
