"""Our policy: place a pod where the least of the expected future fill is lost.

FGD asks what the *next* pod can use of a node. This policy asks how much of the node will be used in the
end, if pods go on arriving as they do. A pod then goes where its own demand plus the change of that
expectation is the largest.

The expectation V of a node is the softened minimum of two:

- **what its GPUs can take.** A GPU with room r takes the next pod that fits, which leaves a smaller room,
  and so on: W(r) = sum over types t that fit of p_t (g_t + W(r - g_t)) / (sum of p_t + delta), with p_t the
  share of a type among the arrivals, g_t its demand, and delta the chance that nothing comes any more. Room
  that only rare pods fit (the 190 milli beside a pod of 810) is worth little, room that frequent pods fill
  completely is worth all of it. Types whose CPU the node no longer has do not count. Pods that want n whole
  GPUs add a bonus for complete sets of n.
- **what its CPU can feed**: the CPU left, divided by the CPU that GPU pods ask for per milli-GPU on
  average.

A node rich in CPU therefore has CPU to give away and takes CPU-only and CPU-heavy pods; a node short of CPU
saves it, and takes pods that want much GPU with little CPU.

The policy knows what FGD knows, how often each type arrives, and no more: not the number of arrivals, not
their order. Derived here, with its three constants chosen on the seeds 1000 to 1009 of the trace; the
figures change little around them (docs/results/openb.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tessera.simulate.openb.cluster import Cluster, Floats, Ints, View
from tessera.simulate.openb.policies import NO_GPU, Policy
from tessera.simulate.openb.trace import MILLI, PodType
from tessera.simulate.openb.typical import TypicalPod

STOP_CHANCE = 0.015
"""delta: how likely it is, per arrival, that the GPU is offered nothing any more."""

SHARPNESS = 3.0
"""Exponent of the softened minimum: 1 adds the shortages of GPU and CPU up, infinity takes the larger
alone.
"""

SET_BONUS = 0.5
"""Worth of a GPU in a complete set, relative to its milli-GPU, times the share of demand that wants such
sets.
"""


class ExpectedFill(Policy):
    """Largest (demand + V after - V before); the first node, then the first GPU, of equals."""

    def __init__(
        self,
        cluster: Cluster,
        pods: Sequence[TypicalPod],
        *,
        stop_chance: float = STOP_CHANCE,
        sharpness: float = SHARPNESS,
        set_bonus: float = SET_BONUS,
    ) -> None:
        """`pods` are all types that arrive with their shares (not only the most frequent)."""
        asking = [pod for pod in pods if pod.gpus]
        gpu_demand = sum(pod.share * pod.gpus * pod.gpu_milli for pod in asking)
        self._cpu_per_gpu_milli = sum(pod.share * pod.cpu_milli for pod in asking) / gpu_demand
        self._sharpness = sharpness
        self._cpu_steps = np.array(sorted({pod.cpu_milli for pod in asking}), dtype=np.int64)
        accepted = _accepted(cluster, asking, self._cpu_steps)
        self._of_gpu = _fill_of_one_gpu(asking, accepted, stop_chance)
        self._of_sets = set_bonus * _bonus_of_sets(
            asking, accepted, cluster.gpu_left.shape[1], gpu_demand / MILLI
        )

    def score(self, view: View, pod: PodType) -> tuple[Floats, Ints]:
        rows = np.arange(len(view))
        step = self._step(view.cpu_left)
        whole = (view.gpu_left == MILLI).sum(axis=1)
        gpus = self._of_gpu[view.model[:, None], step[:, None], view.gpu_left].sum(axis=1)
        before = self._value(view.cpu_left, gpus + self._of_sets[view.model, step, whole])

        cpu_left = view.cpu_left - pod.cpu_milli
        step = self._step(cpu_left)
        of_gpu = self._of_gpu[view.model, step]
        now = np.take_along_axis(of_gpu, view.gpu_left, axis=1)
        of_sets = self._of_sets[view.model, step]
        if not pod.shares_gpu:
            taken = pod.gpus * of_gpu[:, MILLI] if pod.gpus else 0.0
            gpus = now.sum(axis=1) - taken + of_sets[rows, whole - pod.gpus]
            return self._rounded(self._value(cpu_left, gpus) - before), np.full(len(view), NO_GPU)

        then = np.take_along_axis(of_gpu, np.maximum(view.gpu_left - pod.gpu_milli, 0), axis=1)
        left_whole = whole[:, None] - (view.gpu_left == MILLI)
        gpus = now.sum(axis=1)[:, None] - now + then + np.take_along_axis(of_sets, left_whole, axis=1)
        gain = self._rounded(self._value(cpu_left[:, None], gpus) - before[:, None])
        gain = np.where(view.gpu_left >= pod.gpu_milli, gain, -np.inf)
        gpu = gain.argmax(axis=1)
        return gain[rows, gpu], gpu

    def _step(self, cpu_left: Ints) -> Ints:
        return np.searchsorted(self._cpu_steps, cpu_left, side="right")

    def _value(self, cpu_left: Ints, gpu_fill: Floats) -> Floats:
        """The softened minimum of both, in milli-GPU: (a^-k + b^-k)^(-1/k)."""
        cpu_fill = cpu_left / self._cpu_per_gpu_milli
        smaller = np.minimum(gpu_fill, cpu_fill)
        larger = np.maximum(gpu_fill, cpu_fill)
        ratio = np.divide(smaller, larger, out=np.zeros_like(larger + smaller), where=larger > 0)
        value: Floats = smaller * (1 + ratio**self._sharpness) ** (-1 / self._sharpness)
        return value

    @staticmethod
    def _rounded(gain: Floats) -> Floats:
        # Equal nodes must stay equal, whatever the order of the additions.
        return np.round(gain, 6)


def _accepted(cluster: Cluster, pods: Sequence[TypicalPod], cpu_steps: Ints) -> Floats:
    """Share of each type by GPU model and step of CPU left: 0 where the model is wrong or the CPU too
    little.
    """
    shares = np.zeros((len(pods), len(cluster.models), len(cpu_steps) + 1))
    for row, pod in enumerate(pods):
        first_step = int(np.searchsorted(cpu_steps, pod.cpu_milli)) + 1
        shares[row, cluster.allows(pod), first_step:] = pod.share
    return shares


def _fill_of_one_gpu(pods: Sequence[TypicalPod], accepted: Floats, stop_chance: float) -> Floats:
    """W by model, step of CPU and room, in milli-GPU."""
    demands = sorted({pod.gpu_milli for pod in pods if pod.gpus == 1})
    share = {
        milli: accepted[[pod.gpus == 1 and pod.gpu_milli == milli for pod in pods]].sum(axis=0)
        for milli in demands
    }
    fill = np.zeros((MILLI + 1, *accepted.shape[1:]))
    for room in range(1, MILLI + 1):
        fitting = [milli for milli in demands if milli <= room]
        if fitting:
            worth = sum(share[milli] * (milli + fill[room - milli]) for milli in fitting)
            fill[room] = worth / (sum(share[milli] for milli in fitting) + stop_chance)
    return np.ascontiguousarray(np.moveaxis(fill, 0, -1))


def _bonus_of_sets(pods: Sequence[TypicalPod], accepted: Floats, width: int, gpu_demand: float) -> Floats:
    """By model, step of CPU and number of whole GPUs: the milli-GPU in complete sets, times the share of
    the demand that wants sets of that size. `gpu_demand` in GPUs per arrival.
    """
    whole = np.arange(width + 1)
    bonus = np.zeros((*accepted.shape[1:], width + 1))
    for pod, share in zip(pods, accepted, strict=True):
        if pod.gpus > 1:
            in_sets = whole // pod.gpus * pod.gpus * MILLI
            bonus += (share * pod.gpus / gpu_demand)[..., None] * in_sets
    return bonus
