"""How many more slices of a profile fit: on one GPU, and on many together."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from tessera.placement.geometry import Geometry
from tessera.placement.gpu_sets import filter_of
from tessera.placement.state import ClusterState


@lru_cache(maxsize=65536)
def most_slices(geometry: Geometry, key: int, profile: str) -> int:
    """How many more slices of a profile a GPU with this key can hold, at legal places."""
    best = 0
    for index in geometry.placements_of(profile):
        if geometry.fits(key, index):
            best = max(best, 1 + most_slices(geometry, geometry.with_placed(key, index), profile))
    return best


def room_by_profile(state: ClusterState, gpus: int) -> dict[str, int]:
    """How many more slices of each profile the GPUs of a bit set can hold, each profile counted by itself;
    narrow ones first, without those that have no room.
    """
    within = filter_of(gpus)
    rooms: Counter[str] = Counter()
    for geometry in state.geometries():
        for layout, bucket in state.layouts(geometry):
            count = bucket.count(within)
            if count:
                key = state.pools[geometry].table.keys[layout]
                rooms.update({p: count * most_slices(geometry, key, p) for p in geometry.profiles})
    return {profile: slices for profile, slices in rooms.items() if slices}
