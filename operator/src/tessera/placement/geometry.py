"""What one model of GPU allows: where each MIG profile may start, and which placements exclude each other.

A GPU is a row of memory slices. A *placement* is a profile at a start; it covers `width` neighbouring
slices, and two placements exclude each other when they share a slice. That is one AND of two integers, so
the occupancy of a GPU is kept as one integer, its *key*. Two further limits ride in the same integer:

- resources of which a GPU has one (the media extensions that a `+me` profile takes) are further bits above;
- resources that are counted (compute slices, media engines) have a field each above those, but only for
  models where the other limits do not bound them already. On every board with an H100's profiles they do, so
  that the key is the plain occupancy mask there.

A GPU that is not cut (its MIG mode is off, or the board has none) is one placement over all of it.

Everything that depends on a key only (free slices, what still fits) is computed once per key and kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache

_FIELD_BITS = 16
_FIELD = (1 << _FIELD_BITS) - 1


class IllegalGeometry(ValueError):
    """The placements that were published for a GPU contradict its number of slices."""


@dataclass(frozen=True, slots=True, order=True)
class LegalPlacement:
    """A profile at a start that the GPU accepts. `start` and `width` count memory slices, `compute` compute
    slices.

    `exclusive` names resources that exist once per GPU, such as `media-extensions`; `draws` are amounts of
    resources that a GPU has several of, such as ("media-engines", 2).
    """

    profile: str
    start: int
    width: int
    compute: int
    exclusive: tuple[str, ...] = ()
    draws: tuple[tuple[str, int], ...] = ()

    @property
    def shape(self) -> str:
        """What it covers, the same for boards whose profiles have other names: "3g4" takes three compute
        slices and four memory slices.
        """
        return f"{self.compute}g{self.width}"


@dataclass(frozen=True, slots=True)
class Occupancy:
    """What follows from one key: free memory slices, and which placements and profiles still fit."""

    free: int
    fitting: tuple[int, ...]
    profiles: frozenset[str]
    longest_run: int


class Geometry:
    """The legal placements of one model of GPU. Make it with `geometry_of`, so that equal ones are one
    object.
    """

    def __init__(
        self,
        *,
        model: str,
        memory_slices: int,
        compute_slices: int,
        placements: tuple[LegalPlacement, ...],
        limits: tuple[tuple[str, int], ...] = (),
    ) -> None:
        self.model = model
        self.memory_slices = memory_slices
        self.compute_slices = compute_slices
        self.placements = placements
        self.profiles = tuple(dict.fromkeys(p.profile for p in placements))
        self._check({name for name, _ in limits})
        groups = sorted({name for p in placements for name in p.exclusive})
        self._memory_mask = (1 << memory_slices) - 1
        self._bits = tuple(self._bits_of(p, groups) for p in placements)
        amounts: dict[str, tuple[int, ...]] = {"compute-slices": tuple(p.compute for p in placements)}
        amounts |= {name: tuple(dict(p.draws).get(name, 0) for p in placements) for name, _ in limits}
        totals = {"compute-slices": compute_slices, **dict(limits)}
        self.counted = tuple(n for n, drawn in amounts.items() if self._most(drawn) > totals[n])
        """The resources that can run out before the memory slices do."""
        shifts = {n: memory_slices + len(groups) + at * _FIELD_BITS for at, n in enumerate(self.counted)}
        self._draws = tuple(
            tuple((shifts[n], amounts[n][i], totals[n]) for n in self.counted) for i in range(len(placements))
        )
        self._deltas = tuple(
            bits + sum(amount << shift for shift, amount, _ in draws)
            for bits, draws in zip(self._bits, self._draws, strict=True)
        )
        self._index = {(p.profile, p.start): i for i, p in enumerate(placements)}
        self._occupancies: dict[int, Occupancy] = {}

    def __repr__(self) -> str:
        return f"Geometry({self.model}, {self.memory_slices} slices, {len(self.placements)} placements)"

    def _check(self, limited: set[str]) -> None:
        if not self.placements or self.memory_slices <= 0:
            raise IllegalGeometry(f"{self.model}: a GPU needs at least one memory slice and one placement")
        for p in self.placements:
            if p.start < 0 or p.width <= 0 or p.start + p.width > self.memory_slices:
                raise IllegalGeometry(
                    f"{self.model}: {p.profile} at {p.start} is {p.width} slices wide, "
                    f"the GPU has {self.memory_slices}"
                )
        if len({(p.profile, p.start) for p in self.placements}) != len(self.placements):
            raise IllegalGeometry(f"{self.model}: a profile is listed twice at one start")
        unlimited = {name for p in self.placements for name, _ in p.draws} - limited
        if unlimited:
            raise IllegalGeometry(f"{self.model}: no limit is given for {', '.join(sorted(unlimited))}")

    def _bits_of(self, placement: LegalPlacement, groups: list[str]) -> int:
        bits = ((1 << placement.width) - 1) << placement.start
        for name in placement.exclusive:
            bits |= 1 << (self.memory_slices + groups.index(name))
        return bits

    def _most(self, amounts: tuple[int, ...]) -> int:
        """The most of a resource that placements can add up to which exclude each other by nothing else."""

        @cache
        def most(used: int) -> int:
            return max(
                (n + most(used | b) for n, b in zip(amounts, self._bits, strict=True) if not used & b),
                default=0,
            )

        return most(0)

    def index_of(self, profile: str, start: int) -> int | None:
        """The index of a placement, or None when the GPU does not accept this profile at this start."""
        return self._index.get((profile, start))

    def placements_of(self, profile: str) -> tuple[int, ...]:
        """The indices of a profile's placements, by start."""
        return tuple(i for i, p in enumerate(self.placements) if p.profile == profile)

    def fits(self, key: int, index: int) -> bool:
        """Whether the placement is free on a GPU with this key."""
        if key & self._bits[index]:
            return False
        return all((key >> shift & _FIELD) + amount <= limit for shift, amount, limit in self._draws[index])

    def with_placed(self, key: int, index: int) -> int:
        """The key after the placement is taken. Only defined when it fits."""
        return key + self._deltas[index]

    def with_released(self, key: int, index: int) -> int:
        """The key after the placement is given back. Only defined when the key holds it."""
        return key - self._deltas[index]

    def key_of(self, indices: Collection[int]) -> int:
        """The key of a set of placements, also of one that overlaps (which only an error elsewhere can
        make).
        """
        key = 0
        for index in indices:
            key |= self._bits[index]
        for index in indices:
            key += self._deltas[index] - self._bits[index]
        return key

    def overlap(self, a: int, b: int) -> bool:
        """Whether two placements share a memory slice or an exclusive resource."""
        return bool(self._bits[a] & self._bits[b])

    def occupancy(self, key: int) -> Occupancy:
        """Free slices and what still fits, for a key."""
        found = self._occupancies.get(key)
        if found is None:
            fitting = tuple(i for i in range(len(self.placements)) if self.fits(key, i))
            memory = key & self._memory_mask
            found = self._occupancies[key] = Occupancy(
                free=self.memory_slices - memory.bit_count(),
                fitting=fitting,
                profiles=frozenset(self.placements[i].profile for i in fitting),
                longest_run=_longest_run(~memory & self._memory_mask),
            )
        return found

    def layouts(self) -> Iterator[frozenset[int]]:
        """Every legal layout (set of placements), the empty one included, each once."""

        def grow(first: int, key: int, chosen: tuple[int, ...]) -> Iterator[frozenset[int]]:
            yield frozenset(chosen)
            for index in range(first, len(self.placements)):
                if self.fits(key, index):
                    yield from grow(index + 1, self.with_placed(key, index), (*chosen, index))

        yield from grow(0, 0, ())

    def is_maximal(self, layout: Collection[int]) -> bool:
        """Whether nothing more fits beside this layout."""
        return not self.occupancy(self.key_of(layout)).fitting


def _longest_run(bits: int) -> int:
    length = 0
    while bits:
        bits &= bits << 1
        length += 1
    return length


@lru_cache(maxsize=4096)
def geometry_of(
    *,
    model: str,
    memory_slices: int,
    compute_slices: int,
    placements: tuple[LegalPlacement, ...],
    limits: tuple[tuple[str, int], ...] = (),
) -> Geometry:
    """The geometry with these properties; equal arguments give the same object, so that GPUs can be grouped
    by it. `limits` are how much a GPU has of each resource that placements draw.

    Raises IllegalGeometry when a placement leaves the GPU or is listed twice, or draws what has no limit.
    """
    return Geometry(
        model=model,
        memory_slices=memory_slices,
        compute_slices=compute_slices,
        placements=tuple(sorted(placements, key=lambda p: (p.width, p.compute, p.profile, p.start))),
        limits=limits,
    )
