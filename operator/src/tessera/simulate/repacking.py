"""Free repacking: what would be accepted if everything could be moved at every moment, and cost nothing.

A request is accepted while all instances together fit on the GPUs in some arrangement. So it says how near to
the ideal pool moves can come at all, for whoever accepts what he can (turning requests away may gain more).

Whether a multiset of instances fits needs no search on boards with the profiles of an H100 (eight memory
slices; 1g at 0-6, 1g with double memory at 0, 2, 4, 6, 2g at 0, 2, 4, 3g at 0, 4, 4g at 0, 7g). A 7g takes a
GPU. A 4g takes a left half; a 3g a right half while there is one, because a left half holds two 2g and a
right half one. A 2g takes a pair of slices: two in a left half, one in a right half, whose other pair (6 and
7) holds a double 1g or one plain 1g. So double 1g go to such pairs first, and plain ones fill what is left. A
property test compares this with the integer program of `tessera pack`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from tessera.placement.geometry import Geometry
from tessera.placement.state import ClusterState
from tessera.simulate.cluster import Cluster
from tessera.simulate.pool import admitted
from tessera.simulate.workload import Workload

_STARTS = {
    "1g1": (0, 1, 2, 3, 4, 5, 6),
    "1g2": (0, 2, 4, 6),
    "2g2": (0, 2, 4),
    "3g4": (0, 4),
    "4g4": (0,),
    "7g8": (0,),
}
"""Shape of a placement -> starts, on the boards for which the rule holds."""


def fits(counts: Mapping[str, int], gpus: int) -> bool:
    """Whether instances of these shapes (`LegalPlacement.shape`) fit on so many GPUs."""
    single, double, pair, third, half, whole = (counts.get(shape, 0) for shape in _STARTS)
    gpus -= whole
    if gpus < 0:
        return False
    in_right = min(third, gpus)
    left = gpus - half - (third - in_right)
    right = gpus - in_right
    if left < 0 or pair > 2 * left + right:
        return False
    at_end = min(double, right)
    pairs = 2 * left + right - pair - (double - at_end)
    return pairs >= 0 and single <= 2 * pairs + right - at_end


def fewest_gpus(counts: Mapping[str, int]) -> int:
    """How many GPUs instances of these shapes need at least."""
    slices = sum(count * int(shape.split("g")[1]) for shape, count in counts.items())
    gpus = -(-slices // 8)
    while not fits(counts, gpus):
        gpus += 1
    return gpus


def fewest_gpus_of(state: ClusterState) -> int:
    """How many GPUs the instances of a state need at least; 0 where there is no rule."""
    geometries = list(state.geometries())
    if len(geometries) != 1 or shapes_of(geometries[0]) is None:
        return 0
    placements = geometries[0].placements
    return fewest_gpus(Counter(placements[i].shape for gpu in state.gpus for i in gpu.held.values()))


def shapes_of(geometry: Geometry) -> dict[str, str] | None:
    """Profile -> shape, on boards for which the rule holds (None: it does not)."""
    starts: dict[str, list[int]] = {}
    shapes: dict[str, str] = {}
    for placement in geometry.placements:
        starts.setdefault(placement.profile, []).append(placement.start)
        shapes[placement.profile] = placement.shape
    alike = all(tuple(sorted(starts[name])) == _STARTS.get(shape) for name, shape in shapes.items())
    limited = any(p.exclusive or p.draws for p in geometry.placements)
    return shapes if alike and not limited else None


def repacking_decisions(workload: Workload, cluster: Cluster) -> list[bool] | None:
    """Whether free repacking accepts each request; None where the cluster has several models, or profiles for
    which there is no rule.
    """
    shapes = shapes_of(cluster.geometries[0]) if len(cluster.parts) == 1 else None
    if shapes is None:
        return None
    asked = [shapes[profile] for profile in workload.profiles]
    counts: Counter[str] = Counter()

    def enter(profile: int) -> bool:
        counts[asked[profile]] += 1
        if fits(counts, cluster.gpus):
            return True
        counts[asked[profile]] -= 1
        return False

    def leave(profile: int) -> None:
        counts[asked[profile]] -= 1

    return admitted(workload, enter=enter, leave=leave)
