"""Which instances stay, go and come when a GPU gets another layout. Pure: plain values in and out.

A layout is asked as a list of profiles, each with or without a start. The legal ways to give every profile a
start are few (at most a few thousand on any board), so all are looked at, and the best is taken:

1. as few instances as possible are destroyed that a process uses (best none: then nothing blocks);
2. as few as possible are destroyed at all, so that what is there stays as it is;
3. as much room as possible is left: the largest profile that still fits, then how many placements do;
4. the lowest starts, so that the same question always has the same answer.

That a layout is legal is decided by the same `Geometry` as everywhere in Tessera: starts, overlap, compute
slices, and media engines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tessera.placement.geometry import Geometry
from tessera.relayout.errors import ImpossibleLayout


@dataclass(frozen=True, slots=True)
class Wish:
    """A profile that the layout shall have; `start` is None where any will do."""

    profile: str
    start: int | None = None

    def __str__(self) -> str:
        return self.profile if self.start is None else f"{self.profile}@{self.start}"


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A profile at a start."""

    start: int
    profile: str

    def __str__(self) -> str:
        return f"{self.profile}@{self.start}"


@dataclass(frozen=True, slots=True)
class Standing:
    """An instance that is there. `start` and `size` in memory slices; `pids` are the processes inside.

    `compute_instances` is 1 for one that Tessera or NVIDIA's tools made whole; 0 is half made, and more than
    one is a division that nothing here can make again. `held`: a ResourceClaim has it, in a cluster.
    """

    profile: str
    profile_id: int
    start: int
    size: int
    compute_instances: int = 1
    uuids: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()
    held: bool = False

    @property
    def place(self) -> Place:
        return Place(self.start, self.profile)

    @property
    def obstacle(self) -> str:
        """Why it may not be destroyed now; empty when it may."""
        if self.pids:
            return f"{'process' if len(self.pids) == 1 else 'processes'} {', '.join(map(str, self.pids))}"
        if self.compute_instances > 1:
            return f"{self.compute_instances} compute instances, which could not be restored"
        return "a claim" if self.held else ""


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one GPU. `completed` are half-made instances that only lack a compute instance."""

    kept: tuple[Standing, ...]
    completed: tuple[Standing, ...]
    destroyed: tuple[Standing, ...]
    created: tuple[Place, ...]

    @property
    def blocked(self) -> tuple[Standing, ...]:
        """Those of `destroyed` that may not be destroyed now."""
        return tuple(standing for standing in self.destroyed if standing.obstacle)

    @property
    def is_empty(self) -> bool:
        """Whether the layout is as asked already."""
        return not (self.completed or self.destroyed or self.created)

    @property
    def layout(self) -> tuple[Place, ...]:
        """What there is afterwards, by start."""
        return tuple(sorted([*self.created, *(s.place for s in (*self.kept, *self.completed))]))

    def steps(self) -> tuple[Step, ...]:
        """The change as single steps: everything that goes, before anything that comes."""
        return (
            *(Step(Verb.DESTROY, standing.place) for standing in self.destroyed),
            *(Step(Verb.COMPLETE, standing.place) for standing in self.completed),
            *(Step(Verb.CREATE, place) for place in self.created),
        )


class Verb(StrEnum):
    """What a step does with its instance."""

    DESTROY = "destroy"
    COMPLETE = "complete"
    CREATE = "create"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a change."""

    verb: Verb
    place: Place


def plan_change(geometry: Geometry, standing: Sequence[Standing], wishes: Sequence[Wish]) -> Change:
    """The change that gives the GPU exactly the asked layout and keeps what can stay.

    Raises `ImpossibleLayout`, saying what is wrong and the most that would fit.
    """
    changes = [_change(geometry, standing, layout) for layout in arrangements(geometry, wishes)]
    if not changes:
        raise _why_impossible(geometry, wishes)
    return min(changes, key=lambda change: _cost(geometry, change))


def arrangements(geometry: Geometry, wishes: Sequence[Wish]) -> Iterator[tuple[int, ...]]:
    """Every legal layout with exactly these profiles, as indices of placements, each once."""
    ordered = sorted(wishes, key=lambda wish: (wish.start is None, wish.profile, wish.start or 0))
    options = [_options(geometry, wish) for wish in ordered]

    def grow(position: int, key: int, chosen: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if position == len(ordered):
            yield chosen
            return
        same_again = position > 0 and ordered[position] == ordered[position - 1]
        for index in options[position]:
            if same_again and index <= chosen[-1]:  # equal wishes in one order only
                continue
            if geometry.fits(key, index):
                yield from grow(position + 1, geometry.with_placed(key, index), (*chosen, index))

    yield from grow(0, 0, ())


def _options(geometry: Geometry, wish: Wish) -> tuple[int, ...]:
    if wish.start is None:
        return geometry.placements_of(wish.profile)
    index = geometry.index_of(wish.profile, wish.start)
    return () if index is None else (index,)


def _change(geometry: Geometry, standing: Sequence[Standing], layout: Sequence[int]) -> Change:
    wanted = {Place(geometry.placements[i].start, geometry.placements[i].profile) for i in layout}
    stays = [s for s in standing if s.place in wanted and s.compute_instances <= 1]
    return Change(
        kept=tuple(s for s in stays if s.compute_instances == 1),
        completed=tuple(s for s in stays if s.compute_instances == 0),
        destroyed=tuple(s for s in standing if s not in stays),
        created=tuple(sorted(wanted - {s.place for s in stays})),
    )


def _cost(geometry: Geometry, change: Change) -> tuple[int, int, int, int, tuple[Place, ...]]:
    indices = [geometry.index_of(place.profile, place.start) for place in change.layout]
    room = geometry.occupancy(geometry.key_of([index for index in indices if index is not None])).fitting
    return (
        len(change.blocked),
        len(change.destroyed),
        -max((geometry.placements[index].compute for index in room), default=0),
        -len(room),
        change.layout,
    )


def _why_impossible(geometry: Geometry, wishes: Sequence[Wish]) -> ImpossibleLayout:
    asked = ", ".join(map(str, wishes))
    what = f"layout {asked} is not possible on {geometry.model}"
    for wish in wishes:
        starts = [geometry.placements[i].start for i in geometry.placements_of(wish.profile)]
        if not starts:
            known = ", ".join(geometry.profiles)
            return ImpossibleLayout(what, f"it has no profile {wish.profile}", f"Choose of: {known}")
        if wish.start is not None and wish.start not in starts:
            legal = ", ".join(map(str, starts))
            return ImpossibleLayout(
                what, f"{wish.profile} cannot start at {wish.start}", f"Legal starts: {legal}"
            )
    compute = sum(geometry.placements[geometry.placements_of(w.profile)[0]].compute for w in wishes)
    memory = sum(geometry.placements[geometry.placements_of(w.profile)[0]].width for w in wishes)
    if compute > geometry.compute_slices or memory > geometry.memory_slices:
        why = (
            f"together {compute} compute and {memory} memory slices, "
            f"of {geometry.compute_slices} and {geometry.memory_slices}"
        )
    else:
        why = "no choice of starts keeps the instances apart, or engines that a GPU has once are asked twice"
    most = ", ".join(map(str, _most_that_fits(geometry, wishes)))
    return ImpossibleLayout(what, why, f"Without the rest this fits: {most}")


def _most_that_fits(geometry: Geometry, wishes: Sequence[Wish]) -> list[Wish]:
    """A sub-list that fits and to which no other of these wishes can be added; larger wishes first."""
    taken: list[Wish] = []
    for wish in sorted(
        wishes, key=lambda w: -geometry.placements[geometry.placements_of(w.profile)[0]].width
    ):
        if next(arrangements(geometry, [*taken, wish]), None) is not None:
            taken.append(wish)
    return taken
