"""Which placements of which GPUs are taken, arranged so that a decision need not look at every GPU.

GPUs with the same geometry and the same layout are interchangeable for a decision, so they share a set (a
*bucket*). There are a few hundred buckets at most, for 8 GPUs or for 80,000, and a GPU changes its bucket
at a cost that does not depend on the number of GPUs. GPU numbers follow the order of `add_gpu`, and ties
are broken by the lowest number.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field

from tessera.placement.geometry import Geometry
from tessera.placement.gpu_sets import (
    BIT_IN_CHUNK,
    CHUNK_MASK,
    CHUNK_SHIFT,
    GpuSet,
    add_to_chunks,
    bits_of,
    bits_of_chunks,
    union_bits,
)
from tessera.placement.layouts import EMPTY, LayoutTable, layout_table


class AlreadyOccupied(ValueError):
    """The placement overlaps another one on the same GPU."""


class Pool:
    """The GPUs of one geometry, by layout."""

    __slots__ = ("buckets", "geometry", "present", "table")

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.table = layout_table(geometry)
        self.buckets: dict[int, GpuSet] = {}
        """Layout -> GPUs; buckets that became empty stay."""
        self.present = 0
        """Bit i: some GPU has layout i."""

    def move(self, number: int, before: int, after: int) -> None:
        """A GPU has changed its layout."""
        # Removal, and `put` in the frequent case, written out: with every decision this runs twice.
        chunk, bit = number >> CHUNK_SHIFT, BIT_IN_CHUNK[number & CHUNK_MASK]
        bucket = self.buckets[before]
        chunks = bucket.chunks
        left = chunks[chunk] ^ bit
        if left:
            chunks[chunk] = left
        else:
            del chunks[chunk]
            bucket.summary ^= 1 << chunk
            if not bucket.summary:
                self.present ^= 1 << before
        entered = self.buckets.get(after)
        if entered is None or not entered.summary:
            self.put(number, after)
            return
        chunks = entered.chunks
        if chunk in chunks:
            chunks[chunk] |= bit
        else:
            chunks[chunk] = bit
            entered.summary |= 1 << chunk

    def put(self, number: int, layout: int) -> None:
        """A GPU has this layout, and is in no bucket yet."""
        bucket = self.buckets.get(layout)
        if bucket is None:
            bucket = self.buckets[layout] = GpuSet()
        if not bucket.summary:
            self.present |= 1 << layout
        bucket.add(number)

    def layouts(self) -> Iterator[tuple[int, GpuSet]]:
        """The layouts that some GPU has, with their GPUs. Neither may be changed meanwhile."""
        return ((layout, bucket) for layout, bucket in self.buckets.items() if bucket.summary)


@dataclass(slots=True)
class Gpu:
    """One GPU: its number, its node, its layout, and the owners of its placements."""

    number: int
    name: str
    node: str
    geometry: Geometry
    pool: Pool = field(repr=False)
    table: LayoutTable = field(repr=False)
    layout: int = EMPTY
    held: dict[Hashable, int] = field(default_factory=dict)

    @property
    def key(self) -> int:
        """The key of the layout in the geometry: what is occupied, without by whom."""
        return self.table.keys[self.layout]

    @property
    def overlapping(self) -> bool:
        """Whether placements on it exclude each other, by somebody's error."""
        return self.table.overlapping[self.layout]


class ClusterState:
    """All GPUs of a cluster with their occupied placements. Not thread-safe; meant to be used from one
    task.
    """

    def __init__(self) -> None:
        self.gpus: list[Gpu] = []
        self._numbers: dict[str, int] = {}
        self.pools: dict[Geometry, Pool] = {}
        """The GPUs by geometry and layout. Not to be changed from outside."""
        self._of_node: dict[str, list[int]] = {}
        self._node_chunks: dict[str, dict[int, int]] = {}
        self._of_geometry: dict[Geometry, list[int]] = {}
        self._geometry_bits: dict[Geometry, tuple[int, int]] = {}
        self._holder: dict[Hashable, Gpu] = {}

    def add_gpu(self, name: str, *, node: str, geometry: Geometry) -> Gpu:
        """Add an empty GPU. Its name must be new."""
        if name in self._numbers:
            raise ValueError(f"GPU {name} is already known")
        pool = self.pools.get(geometry)
        if pool is None:
            pool = self.pools[geometry] = Pool(geometry)
        gpu = Gpu(len(self.gpus), name, node, geometry, pool, pool.table)
        self.gpus.append(gpu)
        self._numbers[name] = gpu.number
        self._of_node.setdefault(node, []).append(gpu.number)
        add_to_chunks(self._node_chunks.setdefault(node, {}), gpu.number)
        self._of_geometry.setdefault(geometry, []).append(gpu.number)
        pool.put(gpu.number, EMPTY)
        return gpu

    def gpu(self, name: str) -> Gpu | None:
        """The GPU of this name, or None."""
        number = self._numbers.get(name)
        return None if number is None else self.gpus[number]

    def occupy(self, name: str, index: int, *, owner: Hashable, force: bool = False) -> None:
        """Take a placement for an owner.

        Raises AlreadyOccupied when it overlaps. With `force` it is recorded all the same: two claims that
        hold the same room are somebody's error, and the room of both must stay closed until it is resolved.
        """
        self.occupy_at(self._numbers[name], index, owner, force=force)

    def occupy_at(self, number: int, index: int, owner: Hashable, *, force: bool = False) -> None:
        """The same, by the number of the GPU."""
        gpu = self.gpus[number]
        before = gpu.layout
        after = gpu.table.placed[before].get(index)
        if after is None:
            if gpu.table.fits(before, index):
                after = gpu.table.after_placed(before, index)
            elif force:
                after = gpu.table.after_forced(before, index)
            else:
                placement = gpu.geometry.placements[index]
                raise AlreadyOccupied(
                    f"{placement.profile} at {placement.start} on {gpu.name} overlaps a placement in use"
                )
        if owner in self._holder:
            raise ValueError(f"{owner} already holds a placement on {self._holder[owner].name}")
        gpu.pool.move(number, before, after)
        gpu.layout = after
        gpu.held[owner] = index
        self._holder[owner] = gpu

    def release(self, owner: Hashable) -> None:
        """Give back what this owner holds. Raises KeyError when it holds nothing."""
        gpu = self._holder.pop(owner)
        index = gpu.held.pop(owner)
        before = gpu.layout
        after = gpu.table.released[before].get(index)
        if after is None:
            after = gpu.table.after_released(before, index)
        gpu.pool.move(gpu.number, before, after)
        gpu.layout = after

    def holds(self, owner: Hashable) -> tuple[Gpu, int] | None:
        """The GPU and the placement index that an owner holds, or None."""
        gpu = self._holder.get(owner)
        return None if gpu is None else (gpu, gpu.held[owner])

    def owners(self) -> Iterator[Hashable]:
        """Everyone who holds a placement."""
        return iter(self._holder)

    def layouts(self, geometry: Geometry) -> Iterator[tuple[int, GpuSet]]:
        """The layouts that GPUs of a geometry have now, with these GPUs."""
        pool = self.pools.get(geometry)
        return iter(()) if pool is None else pool.layouts()

    def buckets(self, geometry: Geometry) -> dict[int, int]:
        """Key -> the GPUs that have it, as a bit set. Made anew at every call; decisions use `pools`."""
        by_key: dict[int, list[GpuSet]] = {}
        for layout, bucket in self.layouts(geometry):
            by_key.setdefault(self.pools[geometry].table.keys[layout], []).append(bucket)
        return {key: union_bits(buckets) for key, buckets in by_key.items()}

    def geometries(self) -> Iterable[Geometry]:
        """The geometries present."""
        return self.pools.keys()

    def nodes(self) -> Iterable[str]:
        """The nodes that have a GPU."""
        return self._of_node.keys()

    def numbers_of_node(self, node: str) -> list[int]:
        """The GPUs of a node, lowest first; an unknown node has none."""
        return self._of_node.get(node, [])

    def bits_of_nodes(self, nodes: Iterable[str]) -> int:
        """The GPUs of these nodes as a bit set; unknown nodes have none."""
        chunks: dict[int, int] = {}
        of_node = self._node_chunks
        for node in nodes:
            for chunk, bits in of_node.get(node, {}).items():
                chunks[chunk] = chunks.get(chunk, 0) | bits
        return bits_of_chunks(chunks)

    def bits_of_geometry(self, geometry: Geometry) -> int:
        """The GPUs with this geometry as a bit set."""
        members = self._of_geometry.get(geometry, [])
        counted, bits = self._geometry_bits.get(geometry, (0, 0))
        if counted != len(members):
            bits = bits_of(members)
            self._geometry_bits[geometry] = (len(members), bits)
        return bits

    def all_bits(self) -> int:
        """All GPUs as a bit set."""
        return (1 << len(self.gpus)) - 1
