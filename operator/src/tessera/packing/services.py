"""Services that must hold a rate and a latency bound, and what was measured of them.

A *measurement* says: this workload, on a slice of this profile of this GPU model, with so many processes that
share the slice (by time-slicing or by MPS) and this batch size, completes so many requests per second in all,
each within so many milliseconds. A *segment* is a slice run in one measured way. A service may use a segment
when its latency leaves room in the service's bound; its capacity is the measured throughput, of which a plan
uses only a part, so that bursts find room.

The measured latency starts when a batch starts. A request that arrives just after waits for the batch before
its own, so by default a segment may take half of the bound (ParvaGPU, SC'24, takes the same half and then
10 % off).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tessera.packing.boards import Pool
from tessera.packing.errors import BadPackingInput

_Kind = TypeVar("_Kind")


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measured way to run a workload on a slice. `throughput_per_second` is that of all processes of the
    slice together; 0 says that it does not run there (out of memory).
    """

    workload: str
    gpu: str
    profile: str
    processes: int
    batch: int
    throughput_per_second: float
    latency_ms: float
    mode: str = ""

    def __str__(self) -> str:
        shared = f"{self.processes} processes" if self.processes > 1 else "1 process"
        how = f" ({self.mode})" if self.mode and self.processes > 1 else ""
        return f"{shared}{how}, batch {self.batch}"


@dataclass(frozen=True, slots=True)
class Service:
    """What must be held: requests per second, each answered within `slo_ms`."""

    name: str
    workload: str
    rate_per_second: float
    slo_ms: float


@dataclass(frozen=True, slots=True)
class Use:
    """What runs in one slice: the seats of services, each with the measurement that it is judged by.

    A slice that a service has for itself has one entry, for all its processes. In a shared slice every entry
    is one process of as many as its measurement had.
    """

    seats: tuple[tuple[str, Measurement], ...]
    shared: bool = False

    def __str__(self) -> str:
        if not self.shared:
            ((service, measurement),) = self.seats
            return f"{service}: {measurement}"
        same = Counter((service, m.batch) for service, m in self.seats)
        return " + ".join(f"{n} x {service}, batch {batch}" for (service, batch), n in sorted(same.items()))


@dataclass(frozen=True, slots=True)
class HeadRoom:
    """How far a plan may go: the part of the measured throughput that it counts on, and the part of a latency
    bound that a measured latency may take.
    """

    utilisation: float = 0.9
    latency_share: float = 0.5

    def __post_init__(self) -> None:
        for name, value in (("utilisation", self.utilisation), ("latency share", self.latency_share)):
            if not 0 < value <= 1:
                raise BadPackingInput(f"the {name} is {value:g}", "", "Give a number above 0 and at most 1.")


@dataclass(frozen=True, slots=True)
class Question:
    """Everything that a plan for services is made from."""

    pools: tuple[Pool, ...]
    services: tuple[Service, ...]
    measurements: tuple[Measurement, ...]
    head_room: HeadRoom = HeadRoom()
    share_slices: bool = False


def check_question(question: Question) -> None:
    """Raises BadPackingInput for no GPU, no service, a name used twice, and numbers that are not positive."""
    if not question.pools:
        raise BadPackingInput("no GPU model is given", "", "Give --gpu MODEL, or `gpus` in the file.")
    if not question.services:
        raise BadPackingInput("no service is given", "", "Add one under `services`.")
    names = [service.name for service in question.services]
    for service in question.services:
        if names.count(service.name) > 1:
            raise BadPackingInput(f"service {service.name} is given twice", "", "Give each service once.")
        for what, value in (("rate_per_second", service.rate_per_second), ("slo_ms", service.slo_ms)):
            if not (value > 0 and math.isfinite(value)):
                raise BadPackingInput(
                    f"service {service.name}: {what} is {value:g}", "it must be above 0", "Correct it."
                )


def usable(question: Question, service: Service) -> list[Measurement]:
    """The measurements that hold the service's bound on the GPUs that may be used.

    Raises BadPackingInput when there is none: it says what comes nearest, and what would help.
    """
    models = [pool.name for pool in question.pools]
    measured = [m for m in question.measurements if m.workload == service.workload]
    if not measured:
        known = ", ".join(dict.fromkeys(m.workload for m in question.measurements)) or "none"
        raise BadPackingInput(
            f"service {service.name}: nothing is measured for workload {service.workload!r}",
            f"measured are {known}",
            "Add measurements, or correct the name.",
        )
    here = [m for m in measured if m.gpu in models and m.throughput_per_second > 0]
    if not here:
        elsewhere = ", ".join(dict.fromkeys(m.gpu for m in measured))
        raise BadPackingInput(
            f"service {service.name}: {service.workload!r} has no measurement on {' or '.join(models)}",
            f"it was measured on {elsewhere}, or did not run",
            "Measure there, or choose another --gpu.",
        )
    bound = service.slo_ms * question.head_room.latency_share
    found = [m for m in here if m.latency_ms <= bound]
    if not found:
        fastest = min(here, key=lambda m: m.latency_ms)
        enough = fastest.latency_ms / question.head_room.latency_share
        raise BadPackingInput(
            f"service {service.name}: no slice answers within {bound:g} ms "
            f"({question.head_room.latency_share:g} of its bound of {service.slo_ms:g} ms)",
            f"the fastest is {fastest.profile} of {fastest.gpu} with {fastest}: {fastest.latency_ms:g} ms",
            f"Raise its slo_ms to {enough:.4g}, raise the latency share, or measure smaller batches",
        )
    return found


def best_segments(measurements: Sequence[Measurement]) -> dict[tuple[str, str], Measurement]:
    """(GPU model, profile) -> the measurement with the most throughput, then the fewest processes.

    Others of that profile are never needed: a plan may use a segment below its capacity.
    """
    return _best_of_each(measurements, lambda m: (m.gpu, m.profile))


def best_seats(measurements: Sequence[Measurement]) -> dict[tuple[str, str, str, int], Measurement]:
    """(GPU model, profile, mode, processes) -> the measurement with the most throughput, for two processes or
    more: what one of several equal seats of a shared slice is worth.
    """
    several = [m for m in measurements if m.processes > 1]
    return _best_of_each(several, lambda m: (m.gpu, m.profile, m.mode, m.processes))


def _best_of_each(
    measurements: Sequence[Measurement], kind_of: Callable[[Measurement], _Kind]
) -> dict[_Kind, Measurement]:
    best: dict[_Kind, Measurement] = {}
    for m in measurements:
        kind = kind_of(m)
        if kind not in best or _merit(m) > _merit(best[kind]):
            best[kind] = m
    return best


def _merit(m: Measurement) -> tuple[float, int, float]:
    return (m.throughput_per_second, -m.processes, -m.latency_ms)
