"""Integer programs, and the one place that knows the solver (HiGHS).

A program is plain data: minimise cost · x over whole numbers 0 <= x <= upper, with rows lower <= a · x <=
upper. HiGHS searches by branch and bound. Its answer carries a lower bound; besides, `safe_bound` turns the
duals of the relaxed program into a bound in exact arithmetic, which holds whatever rounding errors the solver
made. Most packing programs are proven by that bound alone.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from tessera.packing.errors import NoSolver

if TYPE_CHECKING:
    from types import ModuleType

_TIDYING_NODES = 20
_TIDYING_GAP = 0.05
_WHOLE = 1e-6
"""How far from a whole number the solver's answer may be (its own tolerance)."""


@dataclass(frozen=True, slots=True)
class Row:
    """lower <= sum of coefficient * x[column] <= upper; None is no bound on that side."""

    terms: tuple[tuple[int, float], ...]
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """Minimise costs · x. `uppers` bound every variable, which a safe bound needs."""

    costs: tuple[float, ...]
    uppers: tuple[int, ...]
    rows: tuple[Row, ...]

    @property
    def whole_costs(self) -> bool:
        """Whether every objective value is a whole number, so that bounds round up."""
        return all(float(cost).is_integer() for cost in self.costs)


@dataclass(frozen=True, slots=True)
class Answer:
    """The best solution found (None: none), a lower bound on all, and whether they meet.

    `certified`: the bound in exact arithmetic alone proves the solution optimal. `infeasible`: no solution
    exists at all. `seconds` is the solver's time.
    """

    values: tuple[int, ...] | None
    objective: float
    bound: float
    optimal: bool
    certified: bool
    infeasible: bool
    seconds: float


def solver_name() -> str:
    """Name and version of the solver, for reports."""
    highspy = _highspy()
    return f"HiGHS {highspy.Highs().version()}"


def solve(program: Program, *, time_limit_seconds: float) -> Answer:
    """Search for the optimum until it is proven or the time is over. Raises NoSolver."""
    highspy = _highspy()
    started = time.perf_counter()
    relaxed = _load(highspy, program, whole=False, time_limit_seconds=time_limit_seconds)
    relaxed.run()
    bound = -math.inf
    if relaxed.getModelStatus() == highspy.HighsModelStatus.kOptimal:
        bound = rounded_up(program, safe_bound(program, relaxed.getSolution().row_dual))
    left = max(0.05, time_limit_seconds - (time.perf_counter() - started))
    model = _load(highspy, program, whole=True, time_limit_seconds=left)
    model.run()
    status = model.getModelStatus()
    info = model.getInfo()
    seconds = time.perf_counter() - started
    if status in (
        highspy.HighsModelStatus.kInfeasible,
        highspy.HighsModelStatus.kUnboundedOrInfeasible,
    ):
        return Answer(None, math.inf, math.inf, False, False, True, seconds)
    values = None
    if info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible:
        values = _whole(model.getSolution().col_value)
    objective = math.inf if values is None else _dot(program.costs, values)
    certified = values is not None and objective <= bound + _slack(program, objective)
    proven = status == highspy.HighsModelStatus.kOptimal
    solver_bound = rounded_up(program, info.mip_dual_bound) if math.isfinite(info.mip_dual_bound) else bound
    return Answer(
        values=values,
        objective=objective,
        bound=min(objective, max(bound, objective if proven else solver_bound)),
        optimal=values is not None and (proven or certified),
        certified=certified,
        infeasible=False,
        seconds=seconds,
    )


def tidied(
    program: Program, values: Sequence[int], preference: Sequence[float], *, time_limit_seconds: float
) -> tuple[int, ...]:
    """A solution that costs no more than `values` and has the least preference · x that a short search finds.

    The search ends near the optimum or after a few nodes, so that the answer does not depend on the machine's
    speed; or when the time is over.
    """
    highspy = _highspy()
    spent = _dot(program.costs, values)
    kept = Row(tuple((at, cost) for at, cost in enumerate(program.costs) if cost), upper=spent)
    second = Program(tuple(preference), program.uppers, (*program.rows, kept))
    model = _load(highspy, second, whole=True, time_limit_seconds=time_limit_seconds)
    model.setOptionValue("mip_max_nodes", _TIDYING_NODES)
    model.setOptionValue("mip_rel_gap", _TIDYING_GAP)
    start = highspy.HighsSolution()
    start.col_value = [float(value) for value in values]
    model.setSolution(start)
    model.run()
    if model.getInfo().primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
        return tuple(values)
    return _whole(model.getSolution().col_value)


def safe_bound(program: Program, duals: Sequence[float]) -> float:
    """A lower bound on the program, from approximate duals of its rows, valid in exact arithmetic.

    For any y: cost·x >= y·b + sum over columns of (cost - y·A) x, and a negative term is at least that times
    the column's upper bound (Neumaier and Shcherbina, "Safe bounds in linear and mixed-integer linear
    programming", 2004). The sum is formed in rational numbers and rounded down once at the end.
    """
    reduced = [Fraction(cost) for cost in program.costs]
    total = Fraction(0)
    for row, dual in zip(program.rows, duals, strict=True):
        side = row.lower if dual > 0 else row.upper
        if dual == 0 or side is None:
            continue
        # A dual of few digits is as good as the exact one, and keeps the fractions short.
        weight = Fraction(dual).limit_denominator(1_000_000)
        total += weight * Fraction(side)
        for column, coefficient in row.terms:
            reduced[column] -= weight * Fraction(coefficient)
    total += sum((r * upper for r, upper in zip(reduced, program.uppers, strict=True) if r < 0), Fraction(0))
    value = float(total)
    return value if Fraction(value) <= total else math.nextafter(value, -math.inf)


def rounded_up(program: Program, bound: float) -> float:
    """The bound, raised to the next value that the objective can take."""
    return float(math.ceil(bound - _WHOLE)) if program.whole_costs else bound


def _slack(program: Program, objective: float) -> float:
    return 0.0 if program.whole_costs else _WHOLE * max(1.0, abs(objective))


def _highspy() -> ModuleType:
    try:
        return importlib.import_module("highspy")
    except ImportError as error:
        raise NoSolver(
            "the solver HiGHS cannot be loaded", str(error), "Install it: pip install 'tessera[pack]'"
        ) from error


def _load(highspy: ModuleType, program: Program, *, whole: bool, time_limit_seconds: float):  # type: ignore[no-untyped-def]
    lp = highspy.HighsLp()
    lp.num_col_ = len(program.costs)
    lp.num_row_ = len(program.rows)
    lp.col_cost_ = list(program.costs)
    lp.col_lower_ = [0.0] * len(program.costs)
    lp.col_upper_ = [float(upper) for upper in program.uppers]
    lp.row_lower_ = [-highspy.kHighsInf if row.lower is None else row.lower for row in program.rows]
    lp.row_upper_ = [highspy.kHighsInf if row.upper is None else row.upper for row in program.rows]
    starts, columns, values = [0], [], []
    for row in program.rows:
        columns += [column for column, _ in row.terms]
        values += [coefficient for _, coefficient in row.terms]
        starts.append(len(columns))
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = starts, columns, values
    if whole:
        lp.integrality_ = [highspy.HighsVarType.kInteger] * len(program.costs)
    model = highspy.Highs()
    model.setOptionValue("output_flag", False)
    # One thread and a fixed seed: the same question has the same answer.
    model.setOptionValue("threads", 1)
    model.setOptionValue("random_seed", 0)
    model.setOptionValue("mip_rel_gap", 0.0)
    model.setOptionValue("time_limit", float(time_limit_seconds))
    model.passModel(lp)
    return model


def _whole(values: Sequence[float]) -> tuple[int, ...]:
    """The solver's values as whole numbers. The check of the finished plan guards the rounding."""
    return tuple(round(value) for value in values)


def _dot(costs: Sequence[float], values: Sequence[int]) -> float:
    return math.fsum(cost * value for cost, value in zip(costs, values, strict=True))
