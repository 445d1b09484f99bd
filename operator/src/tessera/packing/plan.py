"""A plan: which layouts, on how many GPUs of which model, and what is known about its being the best.

Every plan passes `check_layouts` before it is returned. The check looks at the profile table alone: it shares
neither the geometry's bit masks nor anything of the solver with the code that made the plan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tessera.gpu.profiles import GPUModel, Placement
from tessera.packing.boards import Pool
from tessera.packing.errors import WrongPlan
from tessera.packing.services import Use


@dataclass(frozen=True, slots=True)
class Tile:
    """One instance of a layout: a profile at a start, and what runs in it (None: not said)."""

    start: int
    profile: str
    use: Use | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """`count` GPUs of one model with the same layout."""

    model: str
    count: int
    tiles: tuple[Tile, ...]


@dataclass(frozen=True, slots=True)
class Proof:
    """How good a plan is: its cost, a lower bound on every plan's cost, and who says so.

    `certified`: a bound in exact arithmetic meets the cost, so nothing rests on the solver's word. `seconds`
    is the solver's time; `configurations` the number of columns it chose from.
    """

    cost: float
    lower_bound: float
    optimal: bool
    certified: bool
    seconds: float
    configurations: int

    @property
    def gap_pct(self) -> float:
        """How far the cost may be from the optimum, in percent of the cost; 0 when proven."""
        return 0.0 if self.optimal or not self.cost else 100.0 * (self.cost - self.lower_bound) / self.cost


def gpus_of(groups: Iterable[Group]) -> int:
    """The number of GPUs of a plan."""
    return sum(group.count for group in groups)


def gpus_by_model(groups: Iterable[Group]) -> Counter[str]:
    """Model -> the number of its GPUs, in the order of the plan."""
    counts: Counter[str] = Counter()
    for group in groups:
        counts[group.model] += group.count
    return counts


def counts_of(groups: Iterable[Group]) -> Counter[str]:
    """How many instances of each profile a plan has."""
    counts: Counter[str] = Counter()
    for group in groups:
        for tile in group.tiles:
            counts[tile.profile] += group.count
    return counts


def check_layouts(pools: Iterable[Pool], groups: Iterable[Group]) -> None:
    """Every layout is legal on its model, and no pool gives more GPUs than it has. Raises WrongPlan."""
    by_name = {pool.name: pool for pool in pools}
    used: Counter[str] = Counter()
    for group in groups:
        if group.count < 1 or group.model not in by_name:
            raise WrongPlan(f"{group.count} GPUs of {group.model} are planned, which nobody offered")
        used[group.model] += group.count
        check_layout(by_name[group.model].board, group.tiles)
    for name, count in used.items():
        limit = by_name[name].limit
        if limit is not None and count > limit:
            raise WrongPlan(f"{count} GPUs of {name} are planned, {limit} exist")


def check_layout(board: GPUModel, tiles: Iterable[Tile]) -> None:
    """One layout is legal: known starts, nothing overlaps, compute slices and media engines suffice.

    Raises WrongPlan.
    """
    placements: list[Placement] = []
    for tile in tiles:
        profile = board.profile(tile.profile)
        if tile.start not in profile.starts:
            raise WrongPlan(f"{board.name}: {tile.profile} cannot start at {tile.start}")
        placements.append(Placement(profile, tile.start))
    for number, placement in enumerate(placements):
        for other in placements[:number]:
            if placement.overlaps(other):
                raise WrongPlan(
                    f"{board.name}: {placement.profile.name}@{placement.start} overlaps "
                    f"{other.profile.name}@{other.start}"
                )
    profiles = [placement.profile for placement in placements]
    if sum(profile.compute_slices for profile in profiles) > board.compute_slices:
        raise WrongPlan(f"{board.name}: more compute slices are planned than the GPU has")
    if sum(profile.media_extensions for profile in profiles) > 1:
        raise WrongPlan(f"{board.name}: media extensions exist once per GPU")
    engines = board.media_engines
    if engines and sum(profile.decoders or 0 for profile in profiles) > engines:
        raise WrongPlan(f"{board.name}: more media engines are planned than the GPU has")


def check_demand(demand: Mapping[str, int], groups: Iterable[Group]) -> None:
    """The plan has exactly the instances that were asked for. Raises WrongPlan."""
    found = counts_of(groups)
    if found != Counter(demand):
        raise WrongPlan(f"asked for {dict(demand)}, planned {dict(found)}")
