"""The cluster state as gauges: what is allocated, how broken up the free room is, and what still fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import Gauge

from tessera.metrics import registry as metrics
from tessera.placement.geometry import Geometry
from tessera.placement.policies import FragmentationGradient, Policy
from tessera.placement.state import ClusterState, Gpu
from tessera.scheduler.moving.ration import Ration
from tessera.scheduler.reserves import Reserves


@dataclass(frozen=True, slots=True)
class _Look:
    """What the gauges say of GPUs with one layout: fragmentation, the widest profile that fits in memory
    slices, stranded memory slices, and the profiles that are placed.
    """

    fragmentation: float
    largest: int
    stranded: int
    profiles: tuple[str, ...]


class StateGauges:
    """The gauges of one cluster state. Each layout is judged once, and a GPU's gauges are set when they
    change.
    """

    def __init__(self) -> None:
        self._state: ClusterState | None = None
        self._gauges: list[tuple[Gauge, Gauge]] = []
        self._shown: list[tuple[float, int]] = []

    def show(self, state: ClusterState, policy: Policy) -> None:
        """Set the gauges; GPUs that are gone vanish from them."""
        if state is not self._state:
            clear_state()
            self._state = state
            named = [(gpu.node, gpu.name.rpartition("/")[2]) for gpu in state.gpus]
            self._gauges = [
                (
                    metrics.FRAGMENTATION_RATIO.labels(*name),
                    metrics.LARGEST_PLACEABLE_PROFILE_SLICES.labels(*name),
                )
                for name in named
            ]
            self._shown = [(-1.0, -1)] * len(named)
        measure = policy if isinstance(policy, FragmentationGradient) else FragmentationGradient()
        looks: dict[tuple[int, int], _Look] = {}
        count: Counter[tuple[int, int]] = Counter()
        for gpu in state.gpus:
            kind = (id(gpu.geometry), gpu.layout)
            look = looks.get(kind)
            if look is None:
                look = looks[kind] = _look_of(gpu, measure)
            count[kind] += 1
            shown = (look.fragmentation, look.largest)
            if self._shown[gpu.number] != shown:
                self._shown[gpu.number] = shown
                fragmentation, largest = self._gauges[gpu.number]
                fragmentation.set(look.fragmentation)
                largest.set(look.largest)
        metrics.STRANDED_SLICES.set(sum(look.stranded * count[kind] for kind, look in looks.items()))
        allocated: Counter[str] = Counter()
        for kind, look in looks.items():
            for profile in look.profiles:
                allocated[profile] += count[kind]
        for profile in {p for g in state.geometries() for p in g.profiles}:
            metrics.ALLOCATED_SLICES.labels(profile).set(allocated[profile])


def _look_of(gpu: Gpu, measure: FragmentationGradient) -> _Look:
    geometry = gpu.geometry
    return _Look(
        fragmentation=measure.fragmentation(geometry, gpu.layout) / geometry.memory_slices,
        largest=max((geometry.placements[i].width for i in geometry.occupancy(gpu.key).fitting), default=0),
        stranded=stranded_slices(geometry, gpu.key),
        profiles=tuple(geometry.placements[index].profile for index in gpu.held.values()),
    )


def show_reserves(reserves: Reserves) -> None:
    """Set the gauges of the room that partitions keep free."""
    metrics.RESERVE_ROOM_SLICES.clear()
    for partition, profile, _, room in reserves.rooms():
        metrics.RESERVE_ROOM_SLICES.labels(partition, profile).set(room)


def show_rations(rations: Iterable[Ration]) -> None:
    """Set the gauges of how often pods may still be moved."""
    metrics.MOVES_LEFT_THIS_HOUR.clear()
    metrics.MOVES_EARNED.clear()
    for ration in rations:
        metrics.MOVES_LEFT_THIS_HOUR.labels(ration.partition).set(ration.left_this_hour)
        metrics.MOVES_EARNED.labels(ration.partition).set(ration.earned)


def stranded_slices(geometry: Geometry, key: int) -> int:
    """Free memory slices of a GPU that no placement which still fits would cover."""
    occupancy = geometry.occupancy(key)
    usable = 0
    for index in occupancy.fitting:
        placement = geometry.placements[index]
        usable |= ((1 << placement.width) - 1) << placement.start
    return occupancy.free - usable.bit_count()


def clear_state() -> None:
    """Show nothing: this replica does not know."""
    metrics.STRANDED_SLICES.set(0)
    metrics.RESERVE_ROOM_SLICES.clear()
    show_rations(())
    metrics.FRAGMENTATION_RATIO.clear()
    metrics.LARGEST_PLACEABLE_PROFILE_SLICES.clear()
    metrics.ALLOCATED_SLICES.clear()
