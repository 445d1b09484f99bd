"""Sets of GPU numbers whose cost does not grow with the number of GPUs.

A set as one integer (bit i stands for GPU number i) is handy: intersections and "the lowest member" are
single operations. But each operation copies the whole integer, 10 KB for 80,000 GPUs. So the sets that
change with every decision (`GpuSet`) are cut into chunks of 256 GPUs, with a summary integer whose bit i
says that chunk i is not empty. A change touches one chunk, and the lowest member is the lowest bit of the
lowest chunk.

Sets that come from outside, such as "GPUs whose nodes pass the filters", stay plain integers; a `Filter`
reads them chunk by chunk, only those chunks that a decision looks at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache, reduce
from operator import and_

CHUNK_SHIFT = 8
_SIZE = 1 << CHUNK_SHIFT
CHUNK_MASK = _SIZE - 1
_BYTES = _SIZE // 8
BIT_IN_CHUNK = tuple(1 << i for i in range(_SIZE))


class GpuSet:
    """A changing set of GPU numbers. Members come one by one (`add`); they leave by `Pool.move` only."""

    __slots__ = ("chunks", "summary")

    def __init__(self) -> None:
        self.chunks: dict[int, int] = {}
        """Chunk number -> its members as bits; empty chunks are absent."""
        self.summary = 0
        """Bit i: chunk i has members. 0 when the set is empty."""

    def add(self, number: int) -> None:
        """Take a GPU in. It must not be a member yet."""
        chunk = number >> CHUNK_SHIFT
        chunks = self.chunks
        if chunk in chunks:
            chunks[chunk] |= BIT_IN_CHUNK[number & CHUNK_MASK]
        else:
            chunks[chunk] = BIT_IN_CHUNK[number & CHUNK_MASK]
            self.summary |= 1 << chunk

    def lowest(self) -> int:
        """The lowest member. The set must not be empty."""
        summary = self.summary
        chunk = (summary & -summary).bit_length() - 1
        bits = self.chunks[chunk]
        return (chunk << CHUNK_SHIFT) + (bits & -bits).bit_length() - 1

    def count(self, within: Filter | None = None) -> int:
        """The number of members, or of those that pass the filter."""
        if within is None:
            return sum(bits.bit_count() for bits in self.chunks.values())
        return sum((bits & within[chunk]).bit_count() for chunk, bits in self.chunks.items())

    def lowest_from(
        self, start: int = 0, *, within: Filter | None = None, below: int | None = None
    ) -> int | None:
        """The lowest member from `start` on that passes the filter, or None; also None when it is not below
        `below`.
        """
        first = start >> CHUNK_SHIFT
        left = self.summary >> first << first
        chunks = self.chunks
        while left:
            low = left & -left
            left ^= low
            chunk = low.bit_length() - 1
            if below is not None and chunk << CHUNK_SHIFT >= below:
                return None
            bits = chunks[chunk] if within is None else chunks[chunk] & within[chunk]
            if chunk == first and start:
                bits = bits >> (start & CHUNK_MASK) << (start & CHUNK_MASK)
            if bits:
                number = (chunk << CHUNK_SHIFT) + (bits & -bits).bit_length() - 1
                return number if below is None or number < below else None
        return None

    def __iter__(self) -> Iterator[int]:
        for chunk in sorted(self.chunks):
            yield from positions(self.chunks[chunk], base=chunk << CHUNK_SHIFT)


class Filter(dict[int, int]):
    """The GPUs that are in each of some bit sets that are plain integers: chunk number -> members as bits.

    Chunks are read when they are asked for. Make it with `filter_of`, which keeps the latest ones, because
    the same pods come again and again.
    """

    def __init__(self, *sets: int) -> None:
        super().__init__()
        self._sets = sets
        self._parts = tuple(_raw(bits) for bits in sets)

    def __missing__(self, chunk: int) -> int:
        found = -1
        for part in self._parts:
            found &= int.from_bytes(part[chunk * _BYTES : (chunk + 1) * _BYTES], "little")
        self[chunk] = found
        return found

    def admits(self, number: int) -> bool:
        """Whether a GPU is in all of the sets."""
        return bool(self[number >> CHUNK_SHIFT] & BIT_IN_CHUNK[number & CHUNK_MASK])

    @property
    def flat(self) -> int:
        """All members as one integer."""
        return reduce(and_, self._sets)


@lru_cache(maxsize=128)
def filter_of(*sets: int) -> Filter:
    """The filter for these bit sets (at least one)."""
    return Filter(*sets)


def filter_of_given(*sets: int | None) -> Filter | None:
    """The filter for those of these bit sets that are not None; None, which all GPUs pass, when all are."""
    given = [one for one in sets if one is not None]
    return filter_of(*given) if given else None


def first_of(sets: Iterable[GpuSet], *, within: Filter | None = None, start: int = 0) -> int | None:
    """The lowest number from `start` on that is in one of the sets and passes the filter, or None."""
    best: int | None = None
    for one in sets:
        found = one.lowest_from(start, within=within, below=best)
        if found is not None:
            best = found
    return best


def union_bits(sets: Iterable[GpuSet]) -> int:
    """All members of the sets as one integer."""
    chunks: dict[int, int] = {}
    for one in sets:
        for chunk, bits in one.chunks.items():
            chunks[chunk] = chunks.get(chunk, 0) | bits
    return bits_of_chunks(chunks)


def bits_of(members: Iterable[int]) -> int:
    """GPU numbers as one integer."""
    chunks: dict[int, int] = {}
    for number in members:
        add_to_chunks(chunks, number)
    return bits_of_chunks(chunks)


def add_to_chunks(chunks: dict[int, int], number: int) -> None:
    """Take a GPU into a set that is written as chunk number -> members."""
    chunk = number >> CHUNK_SHIFT
    chunks[chunk] = chunks.get(chunk, 0) | BIT_IN_CHUNK[number & CHUNK_MASK]


def bits_of_chunks(chunks: dict[int, int]) -> int:
    """Chunks (number -> members) as one integer."""
    joined = b"".join(
        chunks.get(chunk, 0).to_bytes(_BYTES, "little") for chunk in range(max(chunks, default=-1) + 1)
    )
    return int.from_bytes(joined, "little")


def numbers(bits: int) -> Iterator[int]:
    """The GPU numbers in an integer set, lowest first."""
    raw = _raw(bits)
    for chunk in range((len(raw) + _BYTES - 1) // _BYTES):
        members = int.from_bytes(raw[chunk * _BYTES : (chunk + 1) * _BYTES], "little")
        yield from positions(members, base=chunk << CHUNK_SHIFT)


def _raw(bits: int) -> bytes:
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def positions(bits: int, *, base: int = 0) -> Iterator[int]:
    """The positions of the bits that are set, lowest first, counted from `base`. For a few thousand bits at
    most; `numbers` is for more.
    """
    while bits:
        low = bits & -bits
        yield base + low.bit_length() - 1
        bits ^= low
