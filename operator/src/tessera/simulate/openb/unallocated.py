"""Where the idle GPU capacity lies at the end of a run, and why nothing took it.

Every idle milli-GPU has one of these causes:

- `cpu`: the GPU has room for a pod type of the list, but the node's CPU is too little for every type that
  would fit;
- `whole`: a wholly free GPU that has CPU and model for some type;
- `remainder_1_99` and so on: the rest on a GPU that is shared, by size. Types that would fit, with the CPU
  that is left, exist, but came too rarely;
- `useless`: a rest smaller than any request.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from tessera.simulate.openb.cluster import Cluster
from tessera.simulate.openb.trace import MILLI, PodType
from tessera.simulate.openb.typical import TypicalPod

REMAINDERS = ((1, 99), (100, 199), (200, 499), (500, 999))
"""Bounds of the sizes, in milli-GPU, both included."""


def unallocated(cluster: Cluster, types: Sequence[TypicalPod]) -> dict[str, float]:
    """Idle milli-GPU by cause; the sum is all that is idle."""
    single = [pod for pod in types if pod.gpus == 1]
    smallest = min((pod.gpu_milli for pod in single), default=MILLI)
    left = cluster.gpu_left
    fits = np.zeros(left.shape, dtype=np.bool_)
    for pod in single:
        able = (cluster.cpu_left >= pod.cpu_milli) & cluster.allows(pod)[cluster.model]
        fits |= able[:, None] & (left >= pod.gpu_milli)
    useless = left < smallest
    starved = ~useless & ~fits
    causes = {"cpu": float(left[starved].sum()), "whole": float(left[fits & (left == MILLI)].sum())}
    for low, high in REMAINDERS:
        rest = fits & (left >= low) & (left <= high)
        causes[f"remainder_{low}_{high}"] = float(left[rest].sum())
    causes["useless"] = float(left[useless].sum())
    return causes


def unavoidable(placed: Iterable[PodType]) -> int:
    """Idle milli-GPU that no arrangement of these pods could fill, whatever the CPU.

    Two pods of more than half a GPU never share one. So with any bound b above 500, the pods of b to 999
    milli leave 1000 minus their size each, and only pods of at most 1000 - b can lie there. The largest
    such difference counts.
    """
    sizes = [pod.gpu_milli for pod in placed if pod.shares_gpu]
    worst = 0
    for bound in {size for size in sizes if 2 * size > MILLI}:
        left = sum(MILLI - size for size in sizes if size >= bound)
        worst = max(worst, left - sum(size for size in sizes if size <= MILLI - bound))
    return worst
