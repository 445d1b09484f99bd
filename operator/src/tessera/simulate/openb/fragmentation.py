"""The fragmentation of the FGD paper, and the policy that descends it.

F(node) is the expected part of the node's idle GPUs that the next pod cannot use: with the share of its
type, a typical pod that the node cannot host (too little CPU, no GPU with room, the wrong model), or that
asks for no GPU at all, counts all idle milli-GPU; another counts what is idle on GPUs that are too full for
it.

Idle minus F is what the next pod can use, and that is a sum over GPUs of a value that depends on the GPU's
own room, the node's CPU and its model, plus one for the number of wholly free GPUs (pods with several GPUs
want whole ones). Both are tables, so scoring a node is a look-up.

Source: Weng et al., "Beware of Fragmentation", USENIX ATC 2023, and `pkg/utils/frag.go`
and `pkg/simulator/plugin/fgd_score.go` of its simulator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tessera.simulate.openb.cluster import Cluster, Floats, Ints, View
from tessera.simulate.openb.policies import NO_GPU, Policy
from tessera.simulate.openb.trace import MILLI, PodType
from tessera.simulate.openb.typical import TypicalPod

Quantise = Callable[[Floats], Floats]


class UsableByNextPod:
    """Expected milli-GPU of a node that the next pod can use, as tables."""

    def __init__(self, cluster: Cluster, typical: Sequence[TypicalPod]) -> None:
        self._cpu_steps = np.array(sorted({pod.cpu_milli for pod in typical if pod.gpus}), dtype=np.int64)
        width = cluster.gpu_left.shape[1]
        shape = (len(cluster.models), len(self._cpu_steps) + 1)
        self._of_gpu = np.zeros((*shape, MILLI + 1))
        self._of_whole = np.zeros((*shape, width + 1))
        room = np.arange(MILLI + 1)
        wholes = np.arange(width + 1)
        for pod in typical:
            if not pod.gpus:
                continue
            models = cluster.allows(pod)
            first_step = int(np.searchsorted(self._cpu_steps, pod.cpu_milli)) + 1
            if pod.gpus == 1:
                self._of_gpu[models, first_step:] += pod.share * np.where(room >= pod.gpu_milli, room, 0)
            else:
                usable = np.where(wholes >= pod.gpus, wholes * MILLI, 0)
                self._of_whole[models, first_step:] += pod.share * usable

    def of(self, view: View, cpu_left: Ints, gpu_left: Ints) -> Floats:
        """Of the rows of `view` if they had this CPU and these GPUs left."""
        step = np.searchsorted(self._cpu_steps, cpu_left, side="right")
        per_gpu = self._of_gpu[view.model[:, None], step[:, None], gpu_left].sum(axis=1)
        whole: Floats = self._of_whole[view.model, step, (gpu_left == MILLI).sum(axis=1)]
        total: Floats = per_gpu + whole
        return total

    def with_one_changed(self, view: View, cpu_left: Ints, taken: int) -> Floats:
        """The same, per GPU of each row, if `taken` milli were taken from it (meaningless where it has
        less).
        """
        step = np.searchsorted(self._cpu_steps, cpu_left, side="right")[:, None]
        model = view.model[:, None]
        now = self._of_gpu[model, step, view.gpu_left]
        then = self._of_gpu[model, step, np.maximum(view.gpu_left - taken, 0)]
        whole = view.gpu_left == MILLI
        left_whole = whole.sum(axis=1)[:, None] - whole
        result: Floats = now.sum(axis=1)[:, None] - now + then + self._of_whole[model, step, left_whole]
        return result


def fragmentation_milli(cluster: Cluster, usable: UsableByNextPod) -> float:
    """F summed over all nodes, in milli-GPU."""
    view = cluster.view(np.arange(len(cluster.nodes)))
    return float(cluster.gpu_left.sum() - usable.of(view, view.cpu_left, view.gpu_left).sum())


def sigmoid_steps(fall: Floats) -> Floats:
    """The published score of a fall of F: int(100 / (1 + e^-fall)), the fall in whole GPUs.

    Falls that are equal but for rounding must get the same step, hence the tiny shift before the truncation.
    """
    steps: Floats = np.floor(100 / (1 + np.exp(-fall / MILLI)) + 1e-9)
    return steps


def exact(fall: Floats) -> Floats:
    """The fall itself, no two of which are equal but for a reason."""
    return fall


class FragmentationGradientDescent(Policy):
    """FGD: the node and GPU where F falls the most (or rises the least).

    `quantise` maps the fall of F to the score; among equal scores `prefer_fuller` takes the node with the
    least free GPU instead of the first.
    """

    def __init__(self, usable: UsableByNextPod, *, quantise: Quantise, prefer_fuller: bool = False) -> None:
        self._usable = usable
        self._quantise = quantise
        self._tie = 1e-6 if prefer_fuller else 0.0

    def score(self, view: View, pod: PodType) -> tuple[Floats, Ints]:
        # F = idle - usable, and the idle falls by the request wherever the pod goes.
        before = self._usable.of(view, view.cpu_left, view.gpu_left) - pod.total_gpu_milli
        cpu_left = view.cpu_left - pod.cpu_milli
        if pod.shares_gpu:
            after = self._usable.with_one_changed(view, cpu_left, pod.gpu_milli)
            # The published plugin truncates before it compares the GPUs of a node, too.
            scores = np.where(
                view.gpu_left >= pod.gpu_milli, self._quantise(after - before[:, None]), -np.inf
            )
            gpu = scores.argmax(axis=1)
            score = scores[np.arange(len(view)), gpu]
        else:
            after = self._usable.of(view, cpu_left, take_whole(view.gpu_left, pod.gpus))
            score, gpu = self._quantise(after - before), np.full(len(view), NO_GPU)
        return score - self._tie * view.gpu_left.sum(axis=1), gpu


def take_whole(gpu_left: Ints, count: int) -> Ints:
    """The rows with their first `count` wholly free GPUs taken."""
    if not count:
        return gpu_left
    whole = gpu_left == MILLI
    return np.where(whole & (whole.cumsum(axis=1) <= count), 0, gpu_left)
