"""The typical pods: what the next pod will probably ask for.

FGD judges a node by the pods that usually arrive. They are the most frequent types of the pod list that
together make up 95 % of its pods, CPU-only pods included, with their shares scaled to a sum of 1 (memory is
not part of a type). Source: Weng et al., "Beware of Fragmentation", USENIX ATC 2023, section 4, and the
order of ties in its simulator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tessera.simulate.openb.trace import PodType

COVERAGE = 0.95


@dataclass(frozen=True, slots=True)
class TypicalPod:
    """A type and its share of the arrivals, in (0, 1]."""

    cpu_milli: int
    gpus: int
    gpu_milli: int
    models: tuple[str, ...]
    share: float


def typical_pods(pods: Iterable[PodType], *, coverage: float = COVERAGE) -> list[TypicalPod]:
    """The most frequent types, by falling frequency, until they cover `coverage` of the pods."""
    counts = Counter((pod.cpu_milli, pod.gpu_milli, pod.gpus, pod.models) for pod in pods)
    total = sum(counts.values())
    ranked = sorted(
        counts.items(), key=lambda item: (item[1], *item[0][:3], "|".join(item[0][3])), reverse=True
    )
    chosen, covered = [], 0
    for key, count in ranked:
        if covered >= coverage * total:
            break
        chosen.append((key, count))
        covered += count
    return [
        TypicalPod(cpu, gpus, milli, models, count / covered) for (cpu, milli, gpus, models), count in chosen
    ]
