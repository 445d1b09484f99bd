"""Which pods arrive, in which order, and in which order the nodes stand.

A run shuffles the whole pod list, then appends pods drawn from the list with replacement until they ask for
`tune` times the GPUs of the cluster (1.3: 130 % of them). When the list asks for more than that, pods are
taken out at random instead. Last, the nodes are put in a random order, which decides between nodes of equal
score.

All of it follows the published simulator draw by draw, its quirks included: the same seed then gives the
same run, and a policy can be compared with the published one seed by seed. Source: `pkg/simulator/core.go`
and `simulator.go` of hkust-adsl/kubernetes-scheduler-simulator, commit 8f3d641.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tessera.simulate.openb.go_random import GoRandom
from tessera.simulate.openb.trace import PodType

WATCH_TIMEOUTS = 10
"""Numbers that the published simulator draws between its pods and its nodes: one random time limit for each
of the ten kinds of objects that kube-scheduler watches. Found by trial: with ten, and with no other number
below 100, the results of all deterministic policies equal the published ones seed by seed.
"""


@dataclass(frozen=True, slots=True)
class Draw:
    """What is random in a run."""

    pods: list[PodType]
    """By arrival."""
    node_order: list[int]
    """Rank of each node; of equally good nodes the lowest rank wins."""


def draw(pods: Sequence[PodType], *, nodes: int, gpu_milli: int, tune: float, seed: int) -> Draw:
    """One run: `pods` in the order of their names, `nodes` their number, `gpu_milli` the capacity of the
    cluster.
    """
    random = GoRandom(seed)
    random.int63()  # a number that the published simulator only logs
    order = list(pods)
    random.shuffle(order)
    demand = sum(pod.total_gpu_milli for pod in order)
    target = tune * gpu_milli
    if demand > target:
        while demand > target:
            demand -= order.pop(random.intn(len(order))).total_gpu_milli
    elif demand < target:
        while True:
            pod = pods[random.intn(len(pods))]
            # The published code counts one GPU of a multi-GPU pod here: a run may end some GPUs above target.
            if demand + pod.gpu_milli > target:
                break
            demand += pod.total_gpu_milli
            order.append(pod)
    for _ in range(WATCH_TIMEOUTS):
        random.int63()
    return Draw(order, random.permutation(nodes))
