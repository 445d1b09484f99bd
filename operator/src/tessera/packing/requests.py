"""The fewest GPUs for a multiset of requests, each for one instance of a profile.

One column per (pool, configuration), one row per profile:

    minimise  sum of cost(pool) * x(pool, configuration)
    so that   sum of count(profile in configuration) * x  >=  demand(profile)     for every profile
              sum of x over a pool's configurations       <=  limit(pool)         where one is given

A configuration may have more places than are needed; what is over is taken away again (`layout`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tessera.api.errors import did_you_mean
from tessera.packing.boards import Pool
from tessera.packing.configurations import catalogue
from tessera.packing.errors import BadPackingInput, NoPlanInTime, NotEnoughGpus
from tessera.packing.layout import Column, arranged, columns_of, trimmed
from tessera.packing.plan import Group, Proof, check_demand, check_layouts, gpus_by_model, gpus_of
from tessera.packing.program import Answer, Program, Row, solve

DEFAULT_TIME_LIMIT_SECONDS = 60.0
MOST_OF_A_PROFILE = 10_000_000
"""Beyond it the tolerances of the solver are no longer small beside one request."""


@dataclass(frozen=True, slots=True)
class RequestPlan:
    """The layouts that hold all requests, and the proof."""

    groups: tuple[Group, ...]
    proof: Proof

    @property
    def gpus(self) -> int:
        """The number of GPUs."""
        return gpus_of(self.groups)


def pack_requests(
    pools: Sequence[Pool],
    demand: Mapping[str, int],
    *,
    time_limit_seconds: float = DEFAULT_TIME_LIMIT_SECONDS,
) -> RequestPlan:
    """The plan with the least cost for `demand` (profile -> count).

    Raises BadPackingInput (empty demand, bad counts, a profile that no pool has), NotEnoughGpus (limits),
    NoPlanInTime, NoSolver.
    """
    check_question(pools, demand)
    profiles = tuple(demand)
    catalogues = [catalogue(pool.geometry, profiles) for pool in pools]
    columns = columns_of(catalogues)
    total = sum(demand.values())
    rows = [
        Row(
            terms=tuple((at, float(c.counts[row])) for at, c in enumerate(columns) if c.counts[row]),
            lower=float(demand[profile]),
        )
        for row, profile in enumerate(profiles)
    ]
    program = Program(
        costs=tuple(float(pools[column.pool].cost) for column in columns),
        uppers=(total,) * len(columns),
        rows=(*rows, *limit_rows(pools, columns)),
    )
    answer = solve(program, time_limit_seconds=time_limit_seconds)
    if answer.infeasible:
        raise _too_few(pools, demand, time_limit_seconds)
    if answer.values is None:
        raise no_plan_in_time(time_limit_seconds)
    holding = trimmed(columns, answer.values, [demand[profile] for profile in profiles])
    groups = arranged(pools, catalogues, holding)
    check_layouts(pools, groups)
    check_demand(demand, groups)
    return RequestPlan(groups, proof_of(pools, groups, answer, configurations=len(columns)))


def check_question(pools: Sequence[Pool], demand: Mapping[str, int]) -> None:
    """Raises BadPackingInput for no pool, no request, a bad count, or a profile that no pool has."""
    if not pools:
        raise BadPackingInput("no GPU model is given", "", "Give --gpu MODEL.")
    for profile, count in demand.items():
        if count > MOST_OF_A_PROFILE:
            raise BadPackingInput(
                f"{count} requests for {profile}",
                f"at most {MOST_OF_A_PROFILE:,} can be planned exactly",
                "Plan a hundredth and multiply.",
            )
        if count < 1:
            raise BadPackingInput(
                f"{count} requests for {profile}", "a count is at least 1", "Leave the profile out."
            )
        if not any(profile in pool.geometry.profiles for pool in pools):
            known = dict.fromkeys(name for pool in pools for name in pool.geometry.profiles)
            raise unknown_profile(profile, [pool.name for pool in pools], list(known))
    if not demand:
        raise BadPackingInput("nothing is asked for", "", "Give --requests 1g.10gb=12,3g.40gb=4, say.")


def proof_of(pools: Sequence[Pool], groups: Iterable[Group], answer: Answer, *, configurations: int) -> Proof:
    """What the solver's answer says of the plan that was made from it."""
    price = {pool.name: pool.cost for pool in pools}
    return Proof(
        cost=math.fsum(price[group.model] * group.count for group in groups),
        lower_bound=answer.bound,
        optimal=answer.optimal,
        certified=answer.certified,
        seconds=answer.seconds,
        configurations=configurations,
    )


def unknown_profile(profile: str, models: Sequence[str], known: Sequence[str]) -> BadPackingInput:
    """The error for a profile that none of the models has; it names the nearest."""
    return BadPackingInput(
        f"profile {profile!r} does not exist on {' or '.join(models)}",
        "",
        f"{did_you_mean(profile, known, most=2)} It offers {', '.join(known)}.".lstrip(),
    )


def limit_rows(pools: Sequence[Pool], columns: Sequence[Column]) -> list[Row]:
    """One row per pool with a limit; the columns come first in the program."""
    return [
        Row(
            terms=tuple((at, 1.0) for at, column in enumerate(columns) if column.pool == number),
            upper=float(pool.limit),
        )
        for number, pool in enumerate(pools)
        if pool.limit is not None
    ]


def no_plan_in_time(seconds: float) -> NoPlanInTime:
    """The error when the time was over before the first plan."""
    return NoPlanInTime(
        f"no plan was found in {seconds:g} s", "the time limit ended the search", "Raise --time-limit."
    )


def _too_few(pools: Sequence[Pool], demand: Mapping[str, int], time_limit_seconds: float) -> NotEnoughGpus:
    limits = ", ".join(f"{pool.name} {pool.limit}" for pool in pools if pool.limit is not None)
    free = [replace(pool, limit=None) for pool in pools]
    needed = pack_requests(free, demand, time_limit_seconds=time_limit_seconds)
    wanted = " and ".join(f"{count} {model}" for model, count in gpus_by_model(needed.groups).items())
    return NotEnoughGpus(
        f"the requests do not fit into the limits ({limits})",
        f"without limits {wanted} are needed",
        "Raise them.",
    )
