"""One run: the pods arrive one by one, each is placed or turned away, and nothing leaves.

The scores of a pod type are kept from its last arrival; only nodes that changed since are scored again.
That is exact, because a score depends on the node and the type alone, and it is what makes ten thousand
placements on twelve hundred nodes a matter of two seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from tessera.simulate.openb.cluster import Bools, Cluster, Floats, Ints, fits
from tessera.simulate.openb.policies import NO_GPU, Policy
from tessera.simulate.openb.trace import PodType

Measure = Callable[[Cluster], float]


@dataclass(slots=True)
class _Scores:
    """What is known about one pod type: a score and a GPU per node, valid up to a point of the log of
    changes.
    """

    allowed: Bools
    score: Floats
    gpu: Ints
    seen: int = 0


@dataclass(slots=True)
class Reading:
    """The state at the moment when the arrived demand has reached `arrived_pct` of the GPU capacity."""

    arrived_pct: int
    allocation_pct: float
    fragmentation_milli: float


@dataclass(slots=True)
class Outcome:
    """A finished run."""

    readings: list[Reading]
    arrived: int
    placed: int
    placements: list[int] = field(repr=False)
    """Node (row of the cluster) per arrival; -1 for a pod that was turned away."""


class Replay:
    """Places a sequence of pods on a cluster by a policy."""

    def __init__(self, cluster: Cluster, policy: Policy) -> None:
        self.cluster = cluster
        self._policy = policy
        self._known: dict[tuple[object, ...], _Scores] = {}
        self._changed: list[int] = []
        self._every = np.arange(len(cluster.nodes))

    def place(self, pod: PodType) -> int:
        """The node that the pod was placed on, or -1."""
        known = self._scores(pod)
        scores = known.score
        if pod.memory_mib:
            scores = np.where(self.cluster.memory_left >= pod.memory_mib, scores, -np.inf)
        if scores.max() == -np.inf:
            return -1
        node, gpu = self._policy.pick(self.cluster, pod, scores, known.gpu)
        self.cluster.place(node, pod, gpu)
        self._changed.append(node)
        return node

    def _scores(self, pod: PodType) -> _Scores:
        # Memory only filters, so types that differ in nothing else share their scores.
        key = (pod.cpu_milli, pod.gpus, pod.gpu_milli, pod.models)
        known = self._known.get(key)
        if known is None:
            size = len(self._every)
            known = _Scores(self.cluster.allows(pod), np.empty(size), np.full(size, NO_GPU))
            self._known[key] = known
            stale = self._every
        else:
            stale = np.array(sorted(set(self._changed[known.seen :])), dtype=np.int64)
        known.seen = len(self._changed)
        if len(stale):
            view = self.cluster.view(stale)
            can = fits(view, pod, known.allowed)
            known.score[stale] = -np.inf
            if can.any():
                if not can.all():
                    view = view.only(can)
                able = view.index
                known.score[able], known.gpu[able] = self._policy.score(view, pod)
        return known


def run(
    cluster: Cluster,
    pods: Sequence[PodType],
    policy: Policy,
    *,
    levels_pct: Sequence[int],
    fragmentation: Measure,
) -> Outcome:
    """Places all pods, and reads allocation and fragmentation when the arrived demand reaches each level.

    A level that the demand does not reach is read at the end: a run that ends at 130 % stops just below it.
    """
    replay = Replay(cluster, policy)
    arrived = allocated = 0
    readings: list[Reading] = []
    placements: list[int] = []
    ahead: Iterator[int] = iter(sorted(levels_pct))
    level = next(ahead, math.inf)

    def read(at: float) -> None:
        readings.append(Reading(int(at), 100 * allocated / cluster.capacity_milli, fragmentation(cluster)))

    for pod in pods:
        node = replay.place(pod)
        placements.append(node)
        arrived += pod.total_gpu_milli
        if node >= 0:
            allocated += pod.total_gpu_milli
        while 100 * arrived >= level * cluster.capacity_milli:
            read(level)
            level = next(ahead, math.inf)
    while level < math.inf:
        read(level)
        level = next(ahead, math.inf)
    return Outcome(readings, len(placements), sum(node >= 0 for node in placements), placements)
