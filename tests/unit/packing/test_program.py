"""The solver's answers against enumeration, and bounds that hold whatever duals they are made from."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.cli.pack_report import proof_in_words
from tessera.packing.boards import Pool
from tessera.packing.plan import Proof
from tessera.packing.program import Program, Row, rounded_up, safe_bound, solve, tidied

SMALL = st.integers(-2, 4)


@st.composite
def small_programs(draw: st.DrawFn) -> Program:
    columns = draw(st.integers(1, 3))
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        terms = tuple((at, float(draw(SMALL))) for at in range(columns))
        lower, upper = draw(st.tuples(st.none() | SMALL, st.none() | SMALL))
        rows.append(
            Row(terms, None if lower is None else float(lower), None if upper is None else float(upper))
        )
    costs = tuple(float(draw(st.integers(0, 5))) for _ in range(columns))
    return Program(costs, tuple(draw(st.integers(0, 4)) for _ in range(columns)), tuple(rows))


def holds(row: Row, x: tuple[int, ...]) -> bool:
    value = sum(coefficient * x[at] for at, coefficient in row.terms)
    return (row.lower is None or value >= row.lower) and (row.upper is None or value <= row.upper)


def least(program: Program) -> float | None:
    """The optimum by trying everything; None when nothing is allowed."""
    allowed = [
        sum(cost * value for cost, value in zip(program.costs, x, strict=True))
        for x in product(*(range(upper + 1) for upper in program.uppers))
        if all(holds(row, x) for row in program.rows)
    ]
    return min(allowed, default=None)


@settings(deadline=None, max_examples=25)
@given(small_programs(), st.lists(st.floats(-9, 9), min_size=3, max_size=3))
def test_solver_finds_the_optimum_and_bounds_are_below_it(program: Program, duals: list[float]) -> None:
    optimum = least(program)
    answer = solve(program, time_limit_seconds=10)
    if optimum is None:
        assert answer.infeasible
        assert answer.values is None
        return
    assert answer.values is not None
    assert answer.optimal
    assert answer.objective == answer.bound == optimum
    assert all(holds(row, answer.values) for row in program.rows)
    assert safe_bound(program, duals[: len(program.rows)]) <= optimum


def test_bounds_rise_to_what_the_objective_can_be() -> None:
    whole, broken = (Program((cost,), (9,), (Row(((0, 1.0),), lower=1.0),)) for cost in (2.0, 0.5))
    assert [rounded_up(whole, bound) for bound in (2.0, 2.0000001, 2.2, 3.0)] == [2, 2, 3, 3]
    assert rounded_up(broken, 2.2) == 2.2


def test_what_the_relaxation_cannot_prove_is_not_called_certified() -> None:
    # Of four, every two must contain one that is chosen: the relaxation takes half of each, the optimum is 3.
    pairs = [(a, b) for a in range(4) for b in range(a)]
    program = Program((1.0,) * 4, (1,) * 4, tuple(Row(((a, 1.0), (b, 1.0)), lower=1.0) for a, b in pairs))
    answer = solve(program, time_limit_seconds=10)
    assert (answer.objective, answer.bound, answer.optimal, answer.certified) == (3, 3, True, False)


def test_tidying_keeps_the_cost_and_prefers_what_it_is_told() -> None:
    # Two ways to reach 4 for the same cost; the second uses up less.
    program = Program(
        (1.0, 0.0, 0.0),
        (3, 4, 4),
        (Row(((0, 4.0), (1, -1.0), (2, -1.0)), lower=0.0), Row(((1, 2.0), (2, 2.0)), lower=4.0)),
    )
    assert tidied(program, (1, 2, 0), (0.0, 3.0, 1.0), time_limit_seconds=10) == (1, 0, 2)


def test_words_for_a_plan_that_is_not_proven(h100: Pool) -> None:
    proof = Proof(cost=17, lower_bound=15, optimal=False, certified=False, seconds=0.5, configurations=12)
    assert proof.gap_pct == 200 / 17
    words = proof_in_words([h100], proof)
    assert words.startswith("not proven optimal: 17 GPUs, at least 15 are needed, gap 11.8 %")
