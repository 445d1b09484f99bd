"""The fewest GPUs that hold the rates and bounds of all services.

Variables: GPUs per configuration, as for plain requests; slices of each profile that a service has for
itself; and, where services may share a slice, slices run with k processes and the seats of each service in
them. With T the throughput of the best usable measurement and u the utilisation:

    minimise  sum of cost * GPUs
    so that   sum over own slices of u T + sum over seats of u T(k) / k  >=  rate       for every service
              seats of all services in slices of profile q with k processes  <=  k * such slices
              own and shared slices of profile q  <=  slices of q in the chosen configurations
              GPUs of a pool <= its limit

Among plans of equal cost one that uses few memory slices is preferred (`tidied`), so that room is left.
Rates are divided by themselves, so that the solver's tolerance is relative: a plan may miss a rate by a
millionth.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tessera.packing.configurations import Catalogue, catalogue
from tessera.packing.errors import BadPackingInput, NotEnoughGpus
from tessera.packing.layout import Column, Holding, arranged, columns_of, trimmed
from tessera.packing.plan import Group, Proof, gpus_of
from tessera.packing.program import Program, Row, solve, tidied
from tessera.packing.requests import DEFAULT_TIME_LIMIT_SECONDS, limit_rows, no_plan_in_time, proof_of
from tessera.packing.service_check import Share, check_services
from tessera.packing.services import (
    Measurement,
    Question,
    Service,
    Use,
    best_seats,
    best_segments,
    check_question,
    usable,
)

Kind = tuple[str, str]
"""GPU model and profile."""
SharedKind = tuple[str, str, str, int]
"""GPU model, profile, mode and number of processes of slices that services share."""

_MOST_SLICES = 100_000
"""Of one service. Beyond it the solver's tolerances are no longer small beside a slice."""


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """The layouts with what runs where, what each service gets, and the proof."""

    groups: tuple[Group, ...]
    shares: tuple[Share, ...]
    proof: Proof

    @property
    def gpus(self) -> int:
        """The number of GPUs."""
        return gpus_of(self.groups)


@dataclass(frozen=True, slots=True)
class _Columns:
    """The program's columns, in this order: GPUs, own slices, shared slices, seats."""

    gpus: list[Column]
    own: list[tuple[Service, Measurement]]
    shared: list[SharedKind]
    seats: list[tuple[Service, Measurement]]

    def __len__(self) -> int:
        return len(self.gpus) + len(self.own) + len(self.shared) + len(self.seats)

    @property
    def first_own(self) -> int:
        return len(self.gpus)

    @property
    def first_shared(self) -> int:
        return self.first_own + len(self.own)

    @property
    def first_seat(self) -> int:
        return self.first_shared + len(self.shared)


def pack_services(
    question: Question, *, time_limit_seconds: float = DEFAULT_TIME_LIMIT_SECONDS
) -> ServicePlan:
    """The plan with the least cost.

    Raises BadPackingInput (a service without a usable measurement, bad numbers), NotEnoughGpus, NoPlanInTime,
    NoSolver.
    """
    check_question(question)
    fitting = {service.name: usable(question, service) for service in question.services}
    profiles = tuple(dict.fromkeys(m.profile for found in fitting.values() for m in found))
    catalogues = [catalogue(pool.geometry, profiles) for pool in question.pools]
    columns = _columns(question, fitting, catalogues)
    program = _program(question, columns, profiles)
    answer = solve(program, time_limit_seconds=time_limit_seconds)
    if answer.infeasible:
        raise _too_few(question, time_limit_seconds)
    if answer.values is None:
        raise no_plan_in_time(time_limit_seconds)
    left = max(1.0, time_limit_seconds - answer.seconds)
    values = tidied(program, answer.values, _sizes(question, columns), time_limit_seconds=left)
    contents = _contents(columns, values)
    holding = _holding(question, columns, values, contents, profiles)
    groups = arranged(question.pools, catalogues, holding, contents)
    return ServicePlan(
        groups=groups,
        shares=check_services(question, groups),
        proof=proof_of(question.pools, groups, answer, configurations=len(columns.gpus)),
    )


def _columns(
    question: Question, fitting: Mapping[str, list[Measurement]], catalogues: Sequence[Catalogue]
) -> _Columns:
    own = [(s, m) for s in question.services for m in best_segments(fitting[s.name]).values()]
    seats = [
        (s, m)
        for s in question.services
        for m in (best_seats(fitting[s.name]).values() if question.share_slices else ())
    ]
    shared = list(dict.fromkeys(_shared_kind(m) for _, m in seats))
    return _Columns(columns_of(catalogues), own, shared, seats)


def _shared_kind(m: Measurement) -> SharedKind:
    return (m.gpu, m.profile, m.mode, m.processes)


def _program(question: Question, columns: _Columns, profiles: Sequence[str]) -> Program:
    whole = [_part(question, s, m.throughput_per_second) for s, m in columns.own]
    seat = [_part(question, s, m.throughput_per_second / m.processes) for s, m in columns.seats]
    rows = [
        Row(
            terms=(
                *((columns.first_own + i, whole[i]) for i, (s, _) in enumerate(columns.own) if s == service),
                *(
                    (columns.first_seat + i, seat[i])
                    for i, (s, _) in enumerate(columns.seats)
                    if s == service
                ),
            ),
            lower=1.0,
        )
        for service in question.services
    ]
    rows += [
        Row(
            terms=(
                (columns.first_shared + at, float(kind[3])),
                *(
                    (columns.first_seat + i, -1.0)
                    for i, (_, m) in enumerate(columns.seats)
                    if _shared_kind(m) == kind
                ),
            ),
            lower=0.0,
        )
        for at, kind in enumerate(columns.shared)
    ]
    rows += [
        _room(columns, number, pool.name, row, profile)
        for number, pool in enumerate(question.pools)
        for row, profile in enumerate(profiles)
    ]
    most_own = [math.ceil(1 / share) for share in whole]
    most_seats = [math.ceil(1 / share) for share in seat]
    most = sum(most_own) + sum(most_seats)
    return Program(
        costs=(
            *(float(question.pools[column.pool].cost) for column in columns.gpus),
            *((0.0,) * (len(columns) - len(columns.gpus))),
        ),
        uppers=(*((most,) * len(columns.gpus)), *most_own, *((most,) * len(columns.shared)), *most_seats),
        rows=(*rows, *limit_rows(question.pools, columns.gpus)),
    )


def _sizes(question: Question, columns: _Columns) -> list[float]:
    """What a column uses up: memory slices, and a trifle for each process. Among plans of equal cost the one
    that leaves the most room is preferred.
    """
    width = {(pool.name, p.name): p.memory_slices for pool in question.pools for p in pool.board.profiles}
    return [
        *((0.0,) * len(columns.gpus)),
        *(width[m.gpu, m.profile] + 0.01 * m.processes for _, m in columns.own),
        *(float(width[kind[:2]]) for kind in columns.shared),
        *((0.01,) * len(columns.seats)),
    ]


def _part(question: Question, service: Service, throughput_per_second: float) -> float:
    """The part of a service's rate that a slice or seat holds. What holds more than all counts as all: that
    means the same for whole numbers, tightens the relaxation, and keeps coefficients in scale.

    Raises BadPackingInput where more slices would be needed than any plan can have.
    """
    part = question.head_room.utilisation * throughput_per_second / service.rate_per_second
    if part * _MOST_SLICES < 1:
        raise BadPackingInput(
            f"service {service.name}: {service.rate_per_second:g} per second would need more than "
            f"{_MOST_SLICES:,} slices",
            f"one holds {question.head_room.utilisation * throughput_per_second:g} per second",
            "Check the units of the rate and of the throughput.",
        )
    return min(1.0, part)


def _room(columns: _Columns, number: int, model: str, row: int, profile: str) -> Row:
    """Slices of a profile that are used are slices of the configurations that are chosen."""
    kind = (model, profile)
    return Row(
        terms=(
            *(
                (at, float(column.counts[row]))
                for at, column in enumerate(columns.gpus)
                if column.pool == number and column.counts[row]
            ),
            *(
                (columns.first_own + i, -1.0)
                for i, (_, m) in enumerate(columns.own)
                if (m.gpu, m.profile) == kind
            ),
            *((columns.first_shared + i, -1.0) for i, k in enumerate(columns.shared) if k[:2] == kind),
        ),
        lower=0.0,
    )


def _contents(columns: _Columns, values: Sequence[int]) -> dict[Kind, Counter[Use]]:
    """What the slices of each model and profile hold. Seats fill shared slices in the order of the services;
    a shared slice that gets no seat is left out.
    """
    contents: dict[Kind, Counter[Use]] = {}
    for (service, m), value in zip(columns.own, values[columns.first_own :], strict=False):
        if value:
            contents.setdefault((m.gpu, m.profile), Counter())[Use(((service.name, m),))] += value
    for kind in columns.shared:
        seats = [
            (service.name, m)
            for (service, m), value in zip(columns.seats, values[columns.first_seat :], strict=True)
            if _shared_kind(m) == kind
            for _ in range(value)
        ]
        for first in range(0, len(seats), kind[3]):
            use = Use(tuple(seats[first : first + kind[3]]), shared=True)
            contents.setdefault(kind[:2], Counter())[use] += 1
    return contents


def _holding(
    question: Question,
    columns: _Columns,
    values: Sequence[int],
    contents: Mapping[Kind, Counter[Use]],
    profiles: Sequence[str],
) -> Holding:
    """The GPUs of every pool, cut to the slices that hold something."""
    holding: Holding = Counter()
    for number, pool in enumerate(question.pools):
        here = [v if c.pool == number else 0 for c, v in zip(columns.gpus, values, strict=False)]
        demand = [contents.get((pool.name, profile), Counter()).total() for profile in profiles]
        holding += trimmed(columns.gpus, here, demand)
    return holding


def _too_few(question: Question, time_limit_seconds: float) -> NotEnoughGpus:
    limits = ", ".join(f"{pool.name} {pool.limit}" for pool in question.pools if pool.limit is not None)
    free = replace(question, pools=tuple(replace(pool, limit=None) for pool in question.pools))
    needed = pack_services(free, time_limit_seconds=time_limit_seconds)
    return NotEnoughGpus(
        f"the services do not fit into the limits ({limits})",
        f"without limits {needed.gpus} GPUs are needed",
        "Raise them, or lower the rates.",
    )
