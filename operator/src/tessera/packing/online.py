"""What packers need that see one request at a time: the comparison for the exact plan.

Requests come in some order and never leave. Each goes to the best place of the policy among the GPUs that are
in use; a new GPU is taken only when it fits on none of them (a policy that may take an empty GPU freely
spreads out, and would need up to a quarter more). The decreasing order by memory slices, then compute slices,
is the classic offline variant of first fit.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping, Sequence

from tessera.placement.geometry import Geometry
from tessera.placement.layouts import EMPTY, LayoutTable, layout_table
from tessera.placement.policies import POLICIES, Policy, Rank

DECREASING = "first_fit_decreasing"


def shuffled(demand: Mapping[str, int], *, seed: int) -> list[str]:
    """The requests in a random order."""
    arrivals = [profile for profile, count in demand.items() for _ in range(count)]
    random.Random(seed).shuffle(arrivals)
    return arrivals


def gpus_online(geometry: Geometry, arrivals: Sequence[str], *, packer: str) -> int:
    """How many GPUs a packer uses: a policy's name, or `first_fit_decreasing`."""
    if packer == DECREASING:
        shape = {p.profile: (-p.width, -p.compute) for p in geometry.placements}
        return _pack(geometry, sorted(arrivals, key=shape.__getitem__), POLICIES["first_fit"]())
    return _pack(geometry, arrivals, POLICIES[packer]())


def _pack(geometry: Geometry, arrivals: Sequence[str], policy: Policy) -> int:
    """GPUs with the same layout are one bucket, of which only the lowest number matters."""
    table = layout_table(geometry)
    buckets: dict[int, list[int]] = {}
    ranks: dict[tuple[int, str], tuple[Rank, int] | None] = {}
    version, used = policy.version, 0
    placements = {profile: geometry.placements_of(profile) for profile in geometry.profiles}
    for profile in arrivals:
        policy.record(profile)
        if policy.version != version:
            version = policy.version
            ranks.clear()
        best: tuple[Rank, int, int, int] | None = None
        for layout, members in buckets.items():
            if not members:
                continue
            if (layout, profile) not in ranks:
                ranks[layout, profile] = _ranked(table, policy, layout, placements[profile])
            ranked = ranks[layout, profile]
            if ranked is not None and (best is None or (ranked[0], members[0]) < best[:2]):
                best = (ranked[0], members[0], layout, ranked[1])
        if best is None:
            opened = _ranked(table, policy, EMPTY, placements[profile])
            assert opened is not None, f"{profile} does not fit on an empty {geometry.model}"
            best = (opened[0], used, EMPTY, opened[1])
            used += 1
        else:
            heapq.heappop(buckets[best[2]])
        policy.chosen(best[1])
        heapq.heappush(buckets.setdefault(table.after_placed(best[2], best[3]), []), best[1])
    return used


def _ranked(
    table: LayoutTable, policy: Policy, layout: int, indices: Sequence[int]
) -> tuple[Rank, int] | None:
    """The best placement on a GPU with this layout: its rank and index; None when none fits."""
    geometry = table.geometry
    fitting = [i for i in indices if table.fits(layout, i)]
    if not fitting:
        return None
    rank, _, _, index = min(
        (
            policy.rank(geometry, layout, i),
            policy.preference(geometry, layout, i),
            geometry.placements[i].start,
            i,
        )
        for i in fitting
    )
    return rank, index
