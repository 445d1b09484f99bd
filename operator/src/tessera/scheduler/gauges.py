"""The cluster state as gauges: what is allocated, how broken up the free room is, and what still fits."""

from __future__ import annotations

from collections import Counter

from tessera.metrics import registry as metrics
from tessera.placement.geometry import Geometry
from tessera.placement.policies import FragmentationGradient, Policy
from tessera.placement.state import ClusterState
from tessera.scheduler.reserves import Reserves


def show_state(state: ClusterState, policy: Policy) -> None:
    """Set the gauges anew; GPUs that are gone vanish from them. Costs a pass over all GPUs."""
    measure = policy if isinstance(policy, FragmentationGradient) else FragmentationGradient()
    allocated: Counter[str] = Counter()
    stranded = 0
    clear_state()
    for gpu in state.gpus:
        geometry = gpu.geometry
        allocated.update(geometry.placements[index].profile for index in gpu.held.values())
        occupancy = geometry.occupancy(gpu.key)
        ratio = measure.fragmentation(geometry, gpu.layout) / geometry.memory_slices
        largest = max((geometry.placements[index].width for index in occupancy.fitting), default=0)
        name = gpu.name.rpartition("/")[2]
        stranded += stranded_slices(geometry, gpu.key)
        metrics.FRAGMENTATION_RATIO.labels(gpu.node, name).set(ratio)
        metrics.LARGEST_PLACEABLE_PROFILE_SLICES.labels(gpu.node, name).set(largest)
    metrics.STRANDED_SLICES.set(stranded)
    for profile in {p for g in state.geometries() for p in g.profiles}:
        metrics.ALLOCATED_SLICES.labels(profile).set(allocated[profile])


def show_reserves(reserves: Reserves) -> None:
    """Set the gauges of the room that partitions keep free."""
    metrics.RESERVE_ROOM_SLICES.clear()
    for partition, profile, _, room in reserves.rooms():
        metrics.RESERVE_ROOM_SLICES.labels(partition, profile).set(room)


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
    metrics.FRAGMENTATION_RATIO.clear()
    metrics.LARGEST_PLACEABLE_PROFILE_SLICES.clear()
    metrics.ALLOCATED_SLICES.clear()
