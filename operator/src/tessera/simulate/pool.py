"""The ideal pool: what would be accepted if memory slices had no geometry.

A request is accepted while enough slices are free anywhere in the cluster. No real placement can do better
for long, so the distance to it on the same workload says how much of the loss is due to fragmentation, and
how much to mere load. Models that share no profile are separate pools; a pool takes a request at its
smallest size.
"""

from __future__ import annotations

from collections.abc import Callable

from tessera.simulate.cluster import Cluster
from tessera.simulate.workload import Workload


def pool_decisions(workload: Workload, cluster: Cluster) -> list[bool]:
    """Whether the ideal pool accepts each request."""
    pool_of, free = _pools(cluster)
    sizes = [cluster.sizes[profile] for profile in workload.profiles]
    pools = [pool_of[profile] for profile in workload.profiles]

    def enter(profile: int) -> bool:
        if free[pools[profile]] < sizes[profile]:
            return False
        free[pools[profile]] -= sizes[profile]
        return True

    def leave(profile: int) -> None:
        free[pools[profile]] += sizes[profile]

    return admitted(workload, enter=enter, leave=leave)


def admitted(workload: Workload, *, enter: Callable[[int], bool], leave: Callable[[int], None]) -> list[bool]:
    """Which requests get in, where all that counts is who is in: `enter` says of the number of a profile
    whether one more of it gets in, `leave` is told when one leaves.
    """
    accepted = [False] * len(workload)
    wanted = workload.wanted
    for event in workload.events:
        if event >= 0:
            accepted[event] = enter(wanted[event])
        elif accepted[~event]:
            leave(wanted[~event])
    return accepted


def _pools(cluster: Cluster) -> tuple[dict[str, int], list[int]]:
    """profile -> number of its pool, and the memory slices of each pool."""
    groups: list[tuple[set[str], int]] = []
    for part, board in zip(cluster.parts, cluster.boards, strict=True):
        profiles = {profile.name for profile in board.profiles}
        slices = part.gpus * board.memory_slices
        sharing = [group for group in groups if group[0] & profiles]
        groups = [group for group in groups if not group[0] & profiles]
        for names, more in sharing:
            profiles |= names
            slices += more
        groups.append((profiles, slices))
    pool_of = {profile: number for number, (names, _) in enumerate(groups) for profile in names}
    return pool_of, [slices for _, slices in groups]
