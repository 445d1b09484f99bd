"""The placement policies of the published comparison, and first and worst fit.

A policy scores the nodes that can take a pod, higher is better, and names the GPU that a sharing pod would
get there. The node with the highest score wins, the first of them when several have it. Scores are whole
numbers where the published plugins truncate theirs to the 0 to 100 of kube-scheduler: the truncation makes
ties, ties fall to the first node, and so it packs. Leaving it out changes results by points.

Source of each formula: `pkg/simulator/plugin/*.go` of hkust-adsl/kubernetes-scheduler-simulator, commit
8f3d641, with the settings of its `experiments/run_scripts` (DotProd: dimensions merged, normalised by the
largest node).
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod

import numpy as np

from tessera.simulate.openb.cluster import Cluster, Floats, Ints, View, affinity
from tessera.simulate.openb.trace import MILLI, PodType

LARGEST_CPU_MILLI = 128_000
LARGEST_GPU_MILLI = 8_000
"""The largest node of the trace, by which scores are normalised."""

NO_GPU = -1
_FULL = np.iinfo(np.int64).max


class Policy(ABC):
    """How a pod's node and GPU are chosen."""

    @abstractmethod
    def score(self, view: View, pod: PodType) -> tuple[Floats, Ints]:
        """Score and GPU for every row of `view`. Every row can take the pod.

        The answer depends on nothing but the rows and the pod's type, so it is kept until a node changes.
        The GPU matters for sharing pods only; a pod that wants whole GPUs gets the first free ones.
        """

    def pick(self, cluster: Cluster, pod: PodType, scores: Floats, gpus: Ints) -> tuple[int, int]:
        """Node and GPU, given the scores of all nodes (minus infinity: cannot take the pod; at least one
        can).
        """
        node = int(scores.argmax())
        return node, int(gpus[node])


class FirstFit(Policy):
    """The first node and the first GPU with room."""

    def score(self, view: View, pod: PodType) -> tuple[Floats, Ints]:
        return np.zeros(len(view)), (view.gpu_left >= pod.gpu_milli).argmax(axis=1)


class BestFit(Policy):
    """The node whose CPU and GPUs, weighted alike, are the fullest afterwards; the fullest GPU with room."""

    def score(self, view: View, pod: PodType) -> tuple[Floats, Ints]:
        return np.trunc((1.0 - _left_after(view, pod)) * 100), tightest_gpu(view, pod)


class WorstFit(Policy):
    """The opposite of best fit: the emptiest node afterwards, the emptiest GPU."""

    def score(self, view: View, pod: PodType) -> tuple[Floats, Ints]:
        return np.trunc(_left_after(view, pod) * 100), view.gpu_left.argmax(axis=1)


class DotProduct(Policy):
    """The node whose remaining resources point the least in the direction of the request (Tetris' alignment
    with the opposite sign, as the published plugin has it); the fullest GPU with room.
    """

    def score(self, view: View, pod: PodType) -> tuple[Floats, Ints]:
        cpu = view.cpu_left / LARGEST_CPU_MILLI * (pod.cpu_milli / LARGEST_CPU_MILLI)
        gpu = view.gpu_left.sum(axis=1) / LARGEST_GPU_MILLI * (pod.total_gpu_milli / LARGEST_GPU_MILLI)
        return np.trunc((1 - (cpu + gpu) / 2) * 100), tightest_gpu(view, pod)


class GpuClustering(Policy):
    """Nodes that run only pods of the same kind first, then mixed ones, then empty ones, then foreign ones;
    within a class the fuller node. The fullest GPU with room.
    """

    def score(self, view: View, pod: PodType) -> tuple[Floats, Ints]:
        gpu = tightest_gpu(view, pod)
        if not pod.gpus:
            return np.zeros(len(view)), gpu
        fullness = 25 * (LARGEST_GPU_MILLI - view.gpu_left.sum(axis=1)) // LARGEST_GPU_MILLI
        kinds = (view.affinities > 0).sum(axis=1)
        same = view.affinities[:, affinity(pod)] > 0
        rank = np.where(same, np.where(kinds == 1, 75, 50), np.where(kinds == 0, 25, 0))
        return (fullness + rank).astype(np.float64), gpu


class GpuPacking(Policy):
    """Shared GPUs before free GPUs of a used node, and those before a free node."""

    def score(self, view: View, pod: PodType) -> tuple[Floats, Ints]:
        gpu = tightest_gpu(view, pod)
        if not pod.gpus:
            return np.zeros(len(view)), gpu
        free = (view.gpu_left == MILLI).sum(axis=1)
        # The GPUs that the pod would use: the fullest that have room.
        candidates = np.sort(np.where(view.gpu_left >= pod.gpu_milli, view.gpu_left, _FULL), axis=1)[
            :, : pod.gpus
        ]
        opened = (candidates == MILLI).sum(axis=1)
        shared = 100 - (candidates * 100 // MILLI).sum(axis=1) // 10
        score = np.where(opened > 0, np.maximum(50 - opened, 33), np.maximum(shared, 50))
        score = np.where(free == view.gpu_count, np.maximum(33 - free, free), score)
        return score.astype(np.float64), gpu


class RandomChoice(Policy):
    """Any node that can take the pod, and any of its GPUs with room, with equal chance."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def score(self, view: View, pod: PodType) -> tuple[Floats, Ints]:
        return np.zeros(len(view)), np.full(len(view), NO_GPU)

    def pick(self, cluster: Cluster, pod: PodType, scores: Floats, gpus: Ints) -> tuple[int, int]:
        node = int(self._random.choice(np.flatnonzero(scores == 0)))
        if not pod.shares_gpu:
            return node, NO_GPU
        return node, int(self._random.choice(np.flatnonzero(cluster.gpu_left[node] >= pod.gpu_milli)))


def tightest_gpu(view: View, pod: PodType) -> Ints:
    """Per row the fullest GPU with room for a sharing pod, the first of them when there are several."""
    tightest: Ints = np.where(view.gpu_left >= pod.gpu_milli, view.gpu_left, _FULL).argmin(axis=1)
    return tightest


def _left_after(view: View, pod: PodType) -> Floats:
    """What is left of CPU and GPU once the pod is there, as a share of the largest node, the mean of both."""
    cpu = (view.cpu_left - pod.cpu_milli) / LARGEST_CPU_MILLI * 0.5
    gpu = (view.gpu_left.sum(axis=1) - pod.total_gpu_milli) / LARGEST_GPU_MILLI * 0.5
    left: Floats = cpu + gpu
    return left
