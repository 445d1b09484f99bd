"""The independent check of a plan for services: layouts, rates and bounds, counted from the plan alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tessera.packing.errors import WrongPlan
from tessera.packing.plan import Group, check_layouts
from tessera.packing.services import Question, Service, Use

_TOLERANCE = 1e-6
"""The solver's own: a rate may be missed by a millionth of itself."""


@dataclass(frozen=True, slots=True)
class Share:
    """What a plan gives one service: slices (a seat is a part of one), the measured throughput of them per
    second, and the longest measured latency.
    """

    service: Service
    slices: float
    capacity_per_second: float
    latency_ms: float

    @property
    def load_pct(self) -> float:
        """The service's rate as a part of the measured throughput."""
        return 100.0 * self.service.rate_per_second / self.capacity_per_second


def check_services(question: Question, groups: Iterable[Group]) -> tuple[Share, ...]:
    """What each service gets, after everything was found in order. Raises WrongPlan."""
    groups = list(groups)
    check_layouts(question.pools, groups)
    services = {service.name: service for service in question.services}
    measured = set(question.measurements)
    got: dict[str, list[tuple[float, float, float]]] = {name: [] for name in services}
    for group in groups:
        for tile in group.tiles:
            if tile.use is None or not tile.use.seats:
                raise WrongPlan(f"{tile.profile}@{tile.start} of {group.model} holds nothing")
            _check_seats(tile.use)
            for name, m in tile.use.seats:
                if m not in measured or (m.gpu, m.profile) != (group.model, tile.profile):
                    raise WrongPlan(
                        f"{name} is planned on {tile.profile} in a way that was not measured there"
                    )
                if m.workload != services[name].workload:
                    raise WrongPlan(f"{name} is planned with a measurement of {m.workload}")
                part = 1 / m.processes if tile.use.shared else 1.0
                got[name].append(
                    (group.count * part, group.count * part * m.throughput_per_second, m.latency_ms)
                )
    return tuple(_share(question, services[name], found) for name, found in got.items())


def _check_seats(use: Use) -> None:
    ways: set[tuple[str, int]] = {(m.mode, m.processes) for _, m in use.seats}
    most = next(iter(ways))[1] if use.shared else 1
    if len(ways) > 1 or len(use.seats) > most:
        raise WrongPlan(f"a slice is planned for {len(use.seats)} seats that do not go together")


def _share(question: Question, service: Service, found: list[tuple[float, float, float]]) -> Share:
    capacity = math.fsum(capacity for _, capacity, _ in found)
    latency = max((latency for _, _, latency in found), default=math.inf)
    room = question.head_room
    if capacity * room.utilisation < service.rate_per_second * (1 - _TOLERANCE):
        raise WrongPlan(f"{service.name}: {capacity:g} per second is planned for {service.rate_per_second:g}")
    if latency > service.slo_ms * room.latency_share:
        raise WrongPlan(f"{service.name}: {latency:g} ms is planned for a bound of {service.slo_ms:g} ms")
    return Share(service, math.fsum(slices for slices, _, _ in found), capacity, latency)
