"""Room that a MIGPartition keeps free (`spec.dynamic.reserves`), and what placements would take of it.

A reserve of 2 x 3g.40gb means: the GPUs of the partition can still place two slices of 3g.40gb. It is judged
by itself, by counting on each GPU how many more slices of the profile fit. A placement that would lower that
number below the reserve is refused, unless it is of the reserved profile: room that nobody may ever use would
be of no use. Where the reserve is not met anyway, a placement that takes nothing more of it is welcome.

Which GPU belongs to which partition is the operator's word in `GPUNode.spec`. What a partition says of moves
(`spec.dynamic.moves`) is read here too; `moving` acts on it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tessera.api import names
from tessera.api.mig_partition import Defragmentation, Moves
from tessera.placement.geometry import Geometry
from tessera.placement.gpu_sets import bits_of
from tessera.placement.request import Constraint, Offer, Placement, Request
from tessera.placement.room_counts import most_slices
from tessera.placement.state import ClusterState
from tessera.scheduler.inventory import Inventory


@dataclass(frozen=True, slots=True)
class CompactionRule:
    """How often GPUs are emptied by moves while nobody waits, and by how many moves at most."""

    every_seconds: int
    most_moves: int


@dataclass(frozen=True, slots=True)
class MoveRule:
    """What a partition allows: victims of a plan, moves per 100 placements and per hour, how many seconds a
    place is held for a replacement, whether pods of lower priority may be preempted, and compaction (None:
    it is not).
    """

    most_victims: int = 2
    per_100: int = 5
    per_hour: int = 60
    replacement_seconds: int = 300
    preempts: bool = False
    compaction: CompactionRule | None = None


@dataclass(frozen=True, slots=True)
class PartitionReserves:
    """A partition's GPUs (by UUID), (profile, count) of each of its reserves, and what may be moved on them
    (None: nothing).
    """

    partition: str
    gpus: frozenset[str]
    reserves: tuple[tuple[str, int], ...]
    moves: MoveRule | None = None


class ReserveReader:
    """Reads MIGPartition and GPUNode objects; gives the same tuple as before while nothing has changed."""

    def __init__(self) -> None:
        self._versions: frozenset[tuple[str, str]] = frozenset()
        self._read: tuple[PartitionReserves, ...] = ()

    def read(
        self, partitions: Iterable[Mapping[str, Any]], gpu_nodes: Iterable[Mapping[str, Any]]
    ) -> tuple[PartitionReserves, ...]:
        """The partitions that keep room free or allow moves, by name."""
        wanted, nodes = list(partitions), list(gpu_nodes)
        versions = frozenset(
            (o["metadata"]["uid"], o["metadata"]["resourceVersion"]) for o in (*wanted, *nodes)
        )
        if versions != self._versions:
            self._versions = versions
            read = _read(wanted, nodes)
            if read != self._read:
                self._read = read
        return self._read


def wanted_reserves(partition: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    """(profile, count) of a MIGPartition's reserves; none while it is a dry run or of a fixed layout."""
    reserves = _dynamic(partition).get("reserves") or ()
    return tuple((reserve["profile"], int(reserve.get("count", 1))) for reserve in reserves)


def wanted_moves(partition: Mapping[str, Any]) -> MoveRule | None:
    """What a MIGPartition allows to be moved; None: nothing, which is so unless it says something."""
    dynamic = _dynamic(partition)
    moves, defragmentation = dynamic.get("moves"), dynamic.get("defragmentation")
    if moves is None:
        return None
    said = Moves.model_validate(moves)
    compaction = None
    if defragmentation is not None:
        wanted = Defragmentation.model_validate(defragmentation)
        compaction = CompactionRule(wanted.every_seconds, wanted.max_moves)
    return MoveRule(
        most_victims=said.max_victims,
        per_100=said.per_100_placements,
        per_hour=said.per_hour,
        replacement_seconds=said.replacement_timeout_seconds,
        preempts=said.preemption == "LowerPriority",
        compaction=compaction,
    )


def has_rules(partition: Mapping[str, Any]) -> bool:
    """Whether it must be known which GPUs the partition has."""
    return bool(wanted_reserves(partition)) or wanted_moves(partition) is not None


def _dynamic(partition: Mapping[str, Any]) -> Mapping[str, Any]:
    spec = partition.get("spec") or {}
    if spec.get("dryRun") or spec.get("mode", "dynamic") != "dynamic":
        return {}
    return spec.get("dynamic") or {}


def _read(
    partitions: list[Mapping[str, Any]], gpu_nodes: list[Mapping[str, Any]]
) -> tuple[PartitionReserves, ...]:
    owned: dict[str, set[str]] = defaultdict(set)
    for node in gpu_nodes:
        for gpu in (node.get("spec") or {}).get("gpus") or ():
            owned[gpu.get("partition", "")].add(gpu["uuid"])
    by_name = {p["metadata"]["name"]: p for p in partitions if has_rules(p)}
    return tuple(
        PartitionReserves(name, frozenset(owned[name]), wanted_reserves(p), wanted_moves(p))
        for name, p in sorted(by_name.items())
        if owned[name]
    )


@dataclass(frozen=True, slots=True)
class _Kept:
    """One reserve on the GPUs in `bits`."""

    partition: str
    bits: int
    profile: str
    count: int

    def room(self, state: ClusterState) -> int:
        return sum(
            (bucket & self.bits).bit_count() * most_slices(geometry, key, self.profile)
            for geometry in state.geometries()
            for key, bucket in state.buckets(geometry).items()
            if bucket & self.bits
        )

    def loss(self, geometry: Geometry, key: int, index: int) -> int:
        """By how much a placement lowers the room; consuming the reserve is no loss."""
        if geometry.placements[index].profile == self.profile:
            return 0
        after = most_slices(geometry, geometry.with_placed(key, index), self.profile)
        return most_slices(geometry, key, self.profile) - after

    def __str__(self) -> str:
        return f"{self.count} x {self.profile} (MIGPartition {self.partition})"


class Reserves:
    """The reserves over one cluster state; make a new one when GPUs or partitions change."""

    def __init__(
        self, partitions: Sequence[PartitionReserves], *, inventory: Inventory, state: ClusterState
    ) -> None:
        self._state = state
        self._kept: list[_Kept] = []
        self.movable: dict[str, tuple[int, MoveRule]] = {}
        """Partition -> its GPUs (a bit set) and what may be moved on them."""
        if not partitions:
            return
        numbers = {}
        for published in inventory.gpus:
            gpu = state.gpu(published.name)
            uuid = published.devices[0].view.attributes.get((names.DRIVER, names.ATTRIBUTE_GPU_UUID))
            if gpu is not None and uuid is not None and not published.broken:
                numbers[str(uuid)] = gpu.number
        for partition in partitions:
            bits = bits_of(numbers[uuid] for uuid in partition.gpus if uuid in numbers)
            self._kept += [_Kept(partition.partition, bits, p, count) for p, count in partition.reserves]
            if partition.moves is not None:
                self.movable[partition.partition] = (bits, partition.moves)

    def rooms(self) -> list[tuple[str, str, int, int]]:
        """(partition, profile, reserved, room now) of each reserve."""
        return [(k.partition, k.profile, k.count, k.room(self._state)) for k in self._kept]

    def respect(self, requests: Sequence[Request]) -> tuple[list[Request], list[Constraint]]:
        """The requests without the placements that would break a reserve. Where a pod asks for several
        slices, the sum of them counts: that is the constraint.
        """
        spare = [(kept, max(0, kept.room(self._state) - kept.count)) for kept in self._kept]
        if not spare:
            return list(requests), []
        alternatives = [a for request in requests for a in request.alternatives]
        if len(requests) == 1 and all(a.count == 1 for a in alternatives):
            narrowed = tuple(
                replace(a, offers=tuple(part for offer in a.offers for part in self._narrow(offer, spare)))
                for a in requests[0].alternatives
            )
            return [replace(requests[0], alternatives=narrowed)], []
        return list(requests), [self._sum_of_losses(spare)]

    def blame(self, requests: Sequence[Request]) -> str:
        """The reserves that may stand in the way of these requests, in words; "" when none can."""
        profiles = {
            offer.geometry.placements[i].profile
            for request in requests
            for a in request.alternatives
            for offer in a.offers
            for i in offer.placements
        }
        return ", ".join(
            f"{kept}, room for {kept.room(self._state)} now"
            for kept in self._kept
            if profiles - {kept.profile}
        )

    def _narrow(self, offer: Offer, spare: Sequence[tuple[_Kept, int]]) -> Iterable[Offer]:
        """The offer without what would break a reserve: in one piece where no GPU is affected."""
        state, geometry = self._state, offer.geometry
        rest = state.bits_of_geometry(geometry) if offer.gpus is None else offer.gpus
        affected: dict[tuple[int, ...], int] = defaultdict(int)
        for key, bucket in state.buckets(geometry).items():
            for kept, _ in spare:
                here = bucket & kept.bits & rest
                if not here:
                    continue
                allowed = tuple(
                    i
                    for i in offer.placements
                    if not geometry.fits(key, i) or self._affordable(geometry, key, i, kept.bits, spare)
                )
                if allowed != offer.placements:
                    affected[allowed] |= here
                    rest &= ~here
        if not affected:
            return (offer,)
        parts = [Offer(geometry, allowed, bits) for allowed, bits in affected.items() if allowed]
        return [*parts, Offer(geometry, offer.placements, rest)] if rest else parts

    @staticmethod
    def _affordable(
        geometry: Geometry, key: int, index: int, bits: int, spare: Sequence[tuple[_Kept, int]]
    ) -> bool:
        # All reserves of the same GPUs, which are those of one partition.
        return all(kept.loss(geometry, key, index) <= left for kept, left in spare if kept.bits == bits)

    def _sum_of_losses(self, spare: Sequence[tuple[_Kept, int]]) -> Callable[[Sequence[Placement]], bool]:
        def affordable(placements: Sequence[Placement]) -> bool:
            keys: dict[str, int] = {}
            losses = [0] * len(spare)
            for placement in placements:
                gpu = self._state.gpu(placement.gpu)
                assert gpu is not None
                key = keys.get(gpu.name, gpu.key)
                if not gpu.geometry.fits(key, placement.index):
                    continue
                for at, (kept, _) in enumerate(spare):
                    if kept.bits >> gpu.number & 1:
                        losses[at] += kept.loss(gpu.geometry, key, placement.index)
                keys[gpu.name] = gpu.geometry.with_placed(key, placement.index)
            return all(loss <= left for loss, (_, left) in zip(losses, spare, strict=True))

        return affordable
