"""Sets of GPU numbers whose cost does not grow with the number of GPUs.

A set as one integer (bit i stands for GPU number i) is handy: intersections and "the lowest member" are
single operations. But each operation copies the whole integer, 10 KB for 80,000 GPUs. So the sets that
change with every decision (`GpuSet`) are cut into chunks of 256 GPUs, with a summary integer whose bit i
says that chunk i is not empty. A change touches one chunk, and the lowest member is the lowest bit of the
lowest chunk.

Sets that come from outside, such as "GPUs whose nodes pass the filters", stay plain integers; a `Filter`
reads them chunk by chunk, only those chunks that a decision looks at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache, reduce
from operator import and_, or_

CHUNK_SHIFT = 8
_SIZE = 1 << CHUNK_SHIFT
CHUNK_MASK = _SIZE - 1
_BYTES = _SIZE // 8
BIT_IN_CHUNK = tuple(1 << i for i in range(_SIZE))


class GpuSet:
    """A changing set of GPU numbers."""

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

    def remove(self, number: int) -> None:
        """Take a GPU out. Raises KeyError when its whole chunk is empty; it must be a member."""
        chunk = number >> CHUNK_SHIFT
        left = self.chunks[chunk] ^ BIT_IN_CHUNK[number & CHUNK_MASK]
        if left:
            self.chunks[chunk] = left
        else:
            del self.chunks[chunk]
            self.summary ^= 1 << chunk

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
        return sum((bits & within.at(chunk)).bit_count() for chunk, bits in self.chunks.items())

    def __bool__(self) -> bool:
        return self.summary != 0

    def __len__(self) -> int:
        return self.count()

    def __contains__(self, number: int) -> bool:
        return bool(self.chunks.get(number >> CHUNK_SHIFT, 0) & BIT_IN_CHUNK[number & CHUNK_MASK])

    def __iter__(self) -> Iterator[int]:
        for chunk in sorted(self.chunks):
            yield from _members(chunk, self.chunks[chunk])


class Filter:
    """The intersection of bit sets that are plain integers, read chunk by chunk."""

    __slots__ = ("_known", "_parts", "_sets")

    def __init__(self, *sets: int) -> None:
        self._sets = sets
        self._parts = tuple(_raw(bits) for bits in sets)
        self._known: dict[int, int] = {}

    @property
    def flat(self) -> int:
        """All members as one integer."""
        return reduce(and_, self._sets)

    def at(self, chunk: int) -> int:
        """The members in one chunk."""
        found = self._known.get(chunk)
        if found is None:
            found = -1
            for part in self._parts:
                found &= int.from_bytes(part[chunk * _BYTES : (chunk + 1) * _BYTES], "little")
            self._known[chunk] = found
        return found

    def __contains__(self, number: int) -> bool:
        return bool(self.at(number >> CHUNK_SHIFT) & BIT_IN_CHUNK[number & CHUNK_MASK])


def first_of(sets: Iterable[GpuSet], *, within: Filter | None = None, start: int = 0) -> int | None:
    """The lowest number from `start` on that is in one of the sets and passes the filter, or None."""
    sets = list(sets)
    from_chunk = start >> CHUNK_SHIFT
    left = reduce(or_, (one.summary for one in sets), 0) >> from_chunk << from_chunk
    while left:
        low = left & -left
        chunk = low.bit_length() - 1
        bits = reduce(or_, (one.chunks.get(chunk, 0) for one in sets), 0)
        if chunk == from_chunk:
            bits = bits >> (start & CHUNK_MASK) << (start & CHUNK_MASK)
        if within is not None:
            bits &= within.at(chunk)
        if bits:
            return (chunk << CHUNK_SHIFT) + (bits & -bits).bit_length() - 1
        left ^= low
    return None


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
        chunks[number >> CHUNK_SHIFT] = (
            chunks.get(number >> CHUNK_SHIFT, 0) | BIT_IN_CHUNK[number & CHUNK_MASK]
        )
    return bits_of_chunks(chunks)


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
        yield from _members(chunk, int.from_bytes(raw[chunk * _BYTES : (chunk + 1) * _BYTES], "little"))


@lru_cache(maxsize=64)
def _raw(bits: int) -> bytes:
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def _members(chunk: int, bits: int) -> Iterator[int]:
    base = chunk << CHUNK_SHIFT
    while bits:
        low = bits & -bits
        yield base + low.bit_length() - 1
        bits ^= low
