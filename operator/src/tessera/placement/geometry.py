"""What one model of GPU allows: where each MIG profile may start, and which placements exclude each other.

A GPU is a row of memory slices. A *placement* is a profile at a start; it covers `width` neighbouring
slices, and two placements exclude each other when they share a slice. That is one AND of two integers, so
the occupancy of a GPU is kept as one integer, its *key*. Two further limits ride in the same integer:

- resources of which a GPU has one (the media engines that a `+me` profile takes) are further bits above the
  slices;
- compute slices are counted above those, but only for models where the memory slices do not bound them
  already (they do on every model known today, so that the key is the plain occupancy mask there).

Everything that depends on a key only (free slices, what still fits) is computed once per key and kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache


class IllegalGeometry(ValueError):
    """The placements that were published for a GPU contradict its number of slices."""


@dataclass(frozen=True, slots=True, order=True)
class LegalPlacement:
    """A profile at a start that the GPU accepts. `start` and `width` count memory slices, `compute` compute
    slices.

    `exclusive` names resources that exist once per GPU, such as `media-extensions`.
    """

    profile: str
    start: int
    width: int
    compute: int
    exclusive: tuple[str, ...] = ()


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
        self, *, model: str, memory_slices: int, compute_slices: int, placements: tuple[LegalPlacement, ...]
    ) -> None:
        self.model = model
        self.memory_slices = memory_slices
        self.compute_slices = compute_slices
        self.placements = placements
        self.profiles = tuple(dict.fromkeys(p.profile for p in placements))
        self._check()
        groups = sorted({name for p in placements for name in p.exclusive})
        self._compute_shift = memory_slices + len(groups)
        self._bit_mask = (1 << self._compute_shift) - 1
        self._memory_mask = (1 << memory_slices) - 1
        self._bits = tuple(self._bits_of(p, groups) for p in placements)
        self.counts_compute = self._most_compute() > compute_slices
        unit = 1 << self._compute_shift if self.counts_compute else 0
        self._deltas = tuple(bits + unit * p.compute for bits, p in zip(self._bits, placements, strict=True))
        self._index = {(p.profile, p.start): i for i, p in enumerate(placements)}
        self._occupancies: dict[int, Occupancy] = {}

    def __repr__(self) -> str:
        return f"Geometry({self.model}, {self.memory_slices} slices, {len(self.placements)} placements)"

    def _check(self) -> None:
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

    def _bits_of(self, placement: LegalPlacement, groups: list[str]) -> int:
        bits = ((1 << placement.width) - 1) << placement.start
        for name in placement.exclusive:
            bits |= 1 << (self.memory_slices + groups.index(name))
        return bits

    def _most_compute(self) -> int:
        """The most compute slices that disjoint placements can add up to; memory bounds it to 7 on known
        models.
        """

        @cache
        def most(used: int) -> int:
            return max(
                (
                    p.compute + most(used | b)
                    for p, b in zip(self.placements, self._bits, strict=True)
                    if not used & b
                ),
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
        if not self.counts_compute:
            return True
        return (key >> self._compute_shift) + self.placements[index].compute <= self.compute_slices

    def with_placed(self, key: int, index: int) -> int:
        """The key after the placement is taken. Only defined when it fits."""
        return key + self._deltas[index]

    def with_released(self, key: int, index: int) -> int:
        """The key after the placement is given back. Only defined when the key holds it."""
        return key - self._deltas[index]

    def key_of(self, indices: Iterable[int]) -> int:
        """The key of a set of placements, also of one that overlaps (which only an error elsewhere can
        make).
        """
        bits = 0
        compute = 0
        for index in indices:
            bits |= self._bits[index]
            compute += self.placements[index].compute
        return bits + ((compute << self._compute_shift) if self.counts_compute else 0)

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

    def is_maximal(self, layout: Iterable[int]) -> bool:
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
    *, model: str, memory_slices: int, compute_slices: int, placements: tuple[LegalPlacement, ...]
) -> Geometry:
    """The geometry with these properties; equal arguments give the same object, so that GPUs can be grouped
    by it.

    Raises IllegalGeometry when a placement leaves the GPU or is listed twice.
    """
    return Geometry(
        model=model,
        memory_slices=memory_slices,
        compute_slices=compute_slices,
        placements=tuple(sorted(placements, key=lambda p: (p.width, p.compute, p.profile, p.start))),
    )
