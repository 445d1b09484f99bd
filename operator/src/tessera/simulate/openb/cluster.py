"""The state of the cluster as arrays: what every node has left, and which of them can take a pod.

Nodes are rows. GPUs are columns; a node with fewer GPUs than the widest has columns that are never free.
The simulation is a placement benchmark: nothing ever leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tessera.simulate.openb.trace import MILLI, Node, PodType
from tessera.simulate.openb.typical import TypicalPod

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

AFFINITIES = 5
"""Kinds of GPU pods that the policy `gpu_clustering` tells apart: sharing, 1, 2, 4 GPUs, other numbers."""


@dataclass(slots=True)
class View:
    """The rows of some nodes, copied: what a policy looks at. All milli-GPU and milli-CPU, memory in MiB."""

    index: Ints
    cpu_left: Ints
    gpu_left: Ints
    """One column per GPU; 0 where the node has no such GPU."""
    gpu_count: Ints
    model: Ints
    affinities: Ints
    """Number of pods per kind of GPU pod, `AFFINITIES` columns."""

    def __len__(self) -> int:
        return len(self.index)

    def only(self, rows: Bools) -> View:
        """These rows of the view."""
        return View(
            self.index[rows],
            self.cpu_left[rows],
            self.gpu_left[rows],
            self.gpu_count[rows],
            self.model[rows],
            self.affinities[rows],
        )


class Cluster:
    """What is left on every node."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        width = max(node.gpus for node in nodes)
        self.nodes = list(nodes)
        self.models = {name: code for code, name in enumerate(sorted({n.model for n in nodes}))}
        self.cpu_left = np.array([node.cpu_milli for node in nodes], dtype=np.int64)
        self.memory_left = np.array([node.memory_mib for node in nodes], dtype=np.int64)
        self.gpu_count = np.array([node.gpus for node in nodes], dtype=np.int64)
        self.model = np.array([self.models[node.model] for node in nodes], dtype=np.int64)
        self.gpu_left = np.where(np.arange(width) < self.gpu_count[:, None], MILLI, 0).astype(np.int64)
        self.affinities = np.zeros((len(nodes), AFFINITIES), dtype=np.int64)
        self.capacity_milli = int(self.gpu_left.sum())

    def view(self, index: Ints) -> View:
        """Copies of these rows."""
        return View(
            index,
            self.cpu_left[index],
            self.gpu_left[index],
            self.gpu_count[index],
            self.model[index],
            self.affinities[index],
        )

    def allows(self, pod: PodType | TypicalPod) -> Bools:
        """Per model code, whether the pod may run there."""
        return np.array([not pod.models or name in pod.models for name in self.models], dtype=np.bool_)

    def place(self, node: int, pod: PodType, gpu: int) -> None:
        """Takes what the pod asks for. A sharing pod takes its part of `gpu`, others the first free GPUs."""
        self.cpu_left[node] -= pod.cpu_milli
        self.memory_left[node] -= pod.memory_mib
        if not pod.gpus:
            return
        whole = np.flatnonzero(self.gpu_left[node] == MILLI)
        taken = np.array([gpu]) if pod.shares_gpu else whole[: pod.gpus]
        self.gpu_left[node, taken] -= pod.gpu_milli
        self.affinities[node, affinity(pod)] += 1


def fits(view: View, pod: PodType, allowed: Bools) -> Bools:
    """Per row, whether CPU, GPUs and GPU model suffice. Memory is checked when the node is chosen."""
    enough = view.cpu_left >= pod.cpu_milli
    if pod.gpus:
        enough &= allowed[view.model]
        enough &= (view.gpu_left >= pod.gpu_milli).sum(axis=1) >= pod.gpus
    return enough


def affinity(pod: PodType) -> int:
    """The kind of a GPU pod, a column of `View.affinities`."""
    if pod.shares_gpu:
        return 0
    return {1: 1, 2: 2, 4: 3}.get(pod.gpus, 4)
