"""Which placements of which GPUs are taken, arranged so that a decision need not look at every GPU.

GPUs with the same geometry and the same key are interchangeable for a decision, so they share a *bucket*.
There are a few hundred buckets at most, for 8 GPUs or for 80,000. A bucket is a set of GPU numbers written
as one integer (bit i stands for GPU number i): its lowest GPU, and its intersection with the GPUs that pass
the node filters, are then single operations. GPU numbers follow the order of `add_gpu`, and ties are broken
by the lowest number.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field

from tessera.placement.geometry import Geometry


class AlreadyOccupied(ValueError):
    """The placement overlaps another one on the same GPU."""


@dataclass(slots=True)
class Gpu:
    """One GPU: its number, its node, and the owners of its placements."""

    number: int
    name: str
    node: str
    geometry: Geometry
    key: int = 0
    held: dict[Hashable, int] = field(default_factory=dict)
    overlapping: bool = False


class ClusterState:
    """All GPUs of a cluster with their occupied placements. Not thread-safe; meant to be used from one
    task.
    """

    def __init__(self) -> None:
        self.gpus: list[Gpu] = []
        self._numbers: dict[str, int] = {}
        self._buckets: dict[Geometry, dict[int, int]] = {}
        self._node_bits: dict[str, int] = {}
        self._geometry_bits: dict[Geometry, int] = {}
        self._holder: dict[Hashable, Gpu] = {}

    def add_gpu(self, name: str, *, node: str, geometry: Geometry) -> Gpu:
        """Add an empty GPU. Its name must be new."""
        if name in self._numbers:
            raise ValueError(f"GPU {name} is already known")
        gpu = Gpu(number=len(self.gpus), name=name, node=node, geometry=geometry)
        self.gpus.append(gpu)
        self._numbers[name] = gpu.number
        bit = 1 << gpu.number
        self._node_bits[node] = self._node_bits.get(node, 0) | bit
        self._geometry_bits[geometry] = self._geometry_bits.get(geometry, 0) | bit
        self._put(gpu)
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
        gpu = self.gpus[self._numbers[name]]
        if owner in self._holder:
            raise ValueError(f"{owner} already holds a placement on {self._holder[owner].name}")
        fits = gpu.geometry.fits(gpu.key, index)
        if not fits and not force:
            placement = gpu.geometry.placements[index]
            raise AlreadyOccupied(
                f"{placement.profile} at {placement.start} on {name} overlaps a placement in use"
            )
        gpu.held[owner] = index
        self._holder[owner] = gpu
        if fits and not gpu.overlapping:
            self._move(gpu, gpu.geometry.with_placed(gpu.key, index))
        else:
            gpu.overlapping = True
            self._move(gpu, gpu.geometry.key_of(gpu.held.values()))

    def release(self, owner: Hashable) -> None:
        """Give back what this owner holds. Raises KeyError when it holds nothing."""
        gpu = self._holder.pop(owner)
        index = gpu.held.pop(owner)
        if gpu.overlapping:
            gpu.overlapping = _overlaps(gpu)
            self._move(gpu, gpu.geometry.key_of(gpu.held.values()))
        else:
            self._move(gpu, gpu.geometry.with_released(gpu.key, index))

    def holds(self, owner: Hashable) -> tuple[Gpu, int] | None:
        """The GPU and the placement index that an owner holds, or None."""
        gpu = self._holder.get(owner)
        return None if gpu is None else (gpu, gpu.held[owner])

    def owners(self) -> Iterator[Hashable]:
        """Everyone who holds a placement."""
        return iter(self._holder)

    def buckets(self, geometry: Geometry) -> dict[int, int]:
        """key -> set of GPU numbers as bits, of one geometry. Do not change it."""
        return self._buckets.get(geometry, {})

    def geometries(self) -> Iterable[Geometry]:
        """The geometries present."""
        return self._geometry_bits.keys()

    def nodes(self) -> Iterable[str]:
        """The nodes that have a GPU."""
        return self._node_bits.keys()

    def bits_of_nodes(self, nodes: Iterable[str]) -> int:
        """The GPUs of these nodes as a bit set; unknown nodes have none."""
        bits = 0
        for node in nodes:
            bits |= self._node_bits.get(node, 0)
        return bits

    def bits_of_geometry(self, geometry: Geometry) -> int:
        """The GPUs with this geometry as a bit set."""
        return self._geometry_bits.get(geometry, 0)

    def all_bits(self) -> int:
        """All GPUs as a bit set."""
        return (1 << len(self.gpus)) - 1

    def _move(self, gpu: Gpu, key: int) -> None:
        bucket = self._buckets[gpu.geometry]
        rest = bucket[gpu.key] & ~(1 << gpu.number)
        if rest:
            bucket[gpu.key] = rest
        else:
            del bucket[gpu.key]
        gpu.key = key
        self._put(gpu)

    def _put(self, gpu: Gpu) -> None:
        bucket = self._buckets.setdefault(gpu.geometry, {})
        bucket[gpu.key] = bucket.get(gpu.key, 0) | (1 << gpu.number)


def numbers(bits: int) -> Iterator[int]:
    """The GPU numbers in a bit set, lowest first."""
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low


def _overlaps(gpu: Gpu) -> bool:
    indices = list(gpu.held.values())
    return any(gpu.geometry.overlap(a, b) for i, a in enumerate(indices) for b in indices[:i])
