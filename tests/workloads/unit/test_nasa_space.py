"""What architectures there are, what they cost, and what a front of them is."""

import pytest
from tessera_workloads.errors import InvalidParameter
from tessera_workloads.nasa.evaluation import Scored, falls, pareto_front
from tessera_workloads.nasa.parameters import NasaParameters
from tessera_workloads.nasa.picture import draw_pareto
from tessera_workloads.nasa.space import (
    Candidate,
    CellShape,
    EnergyTable,
    make_space,
    products,
    random_architectures,
)

TABLE = EnergyTable(multiply_pj=0.2, add_pj=0.03, shift_pj=0.024)


def test_the_products_of_a_block_are_those_of_its_three_layers() -> None:
    shape = CellShape(inputs=8, outputs=16, side=12, stride=2)
    # 1x1 on 144 positions, then a depthwise 3x3 and a 1x1 on 36
    assert products(shape, Candidate("conv", 3, 2)) == 144 * 8 * 16 + 36 * 16 * 9 + 36 * 16 * 16
    assert products(shape, Candidate("skip")) == 0


def test_an_operation_costs_its_share_of_a_convolution() -> None:
    space = make_space(NasaParameters())
    assert TABLE.relative(space, space.uniform("conv")) == 1
    assert TABLE.relative(space, space.uniform("shift")) == pytest.approx(0.054 / 0.23)
    assert TABLE.relative(space, space.uniform("adder")) == pytest.approx(0.06 / 0.23)
    assert TABLE.relative(space, space.uniform("skip")) == 0
    shares = TABLE.shares(space)
    assert sum(row[0] for row in shares) == pytest.approx(1)
    assert shares[0][0] > shares[-1][0], "a cell on a larger picture costs more"


def test_the_papers_space_has_22_cells_of_19_candidates() -> None:
    space = make_space(NasaParameters(space="paper"))
    assert (len(space.cells), len(space.candidates)) == (22, 19)
    assert space.uniform("conv")[0].name == "conv_k5_e6"
    assert [cell.outputs for cell in space.cells] == [
        16,
        *[24] * 4,
        *[32] * 4,
        *[64] * 4,
        *[112] * 4,
        *[184] * 4,
        352,
    ]
    assert space.cells[-1].side == 4


def test_random_architectures_cost_what_the_given_one_costs_and_are_others() -> None:
    space = make_space(NasaParameters())
    like = space.parse(["shift_k3_e1", "skip", "conv_k3_e1", "adder_k3_e1"])
    found = random_architectures(space, TABLE, like=like, count=5, seed=3)
    assert len({like, *found}) == 6
    target = TABLE.relative(space, like)
    assert all(abs(TABLE.relative(space, one) - target) <= 0.02 for one in found)
    assert found == random_architectures(space, TABLE, like=like, count=5, seed=3)
    assert found != random_architectures(space, TABLE, like=like, count=5, seed=4)


def test_channels_that_cannot_be_normalised_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="take 4 or 8"):
        NasaParameters(channels=6)


def test_a_cost_that_stays_does_not_rise() -> None:
    assert falls([0.8, 0.5, 0.5, 0.6, 0.0]) == 3


def test_the_front_keeps_what_nothing_else_beats() -> None:
    def scored(name: str, cost: float, accuracy: float) -> Scored:
        return Scored(name, (), cost=cost, energy_pj=cost, accuracies=(accuracy - 0.1, accuracy + 0.1))

    front = pareto_front(
        [scored("a", 1, 0.8), scored("b", 0.2, 0.5), scored("c", 0.5, 0.4), scored("d", 0.2, 0.3)]
    )
    assert [one.name for one in front] == ["b", "a"]


def test_networks_without_an_error_have_a_picture_too() -> None:
    architecture = make_space(NasaParameters()).uniform("conv")
    scored = [Scored(name, architecture, 1.0, 1.0, (1.0,)) for name in ("searched", "all_conv")]
    assert draw_pareto(scored).startswith(b"\x89PNG")


def test_an_operation_that_costs_nothing_is_refused_where_costs_are_shares_of_it() -> None:
    with pytest.raises(InvalidParameter, match="multiply_pj"):
        NasaParameters(multiply_pj=0.0)
    with pytest.raises(InvalidParameter, match="add_pj"):
        NasaParameters(add_pj=0.0)
