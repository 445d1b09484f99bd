"""The search space: which candidates a cell has, what shape a network has, and what energy each choice costs.

A candidate is the paper's block of three layers (1x1, depthwise k x k, 1x1) in one of three arithmetics, or
nothing (skip). An architecture names one candidate per cell. Its cost is the energy of its cells' arithmetic,
relative to the same network with the largest convolution in every cell; stem and head are the same in all
networks and are not counted.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tessera_workloads.nasa.parameters import NasaParameters

Operation = Literal["conv", "shift", "adder", "skip"]

DRAWS = 2000
"""Random architectures that are drawn to find a few of equal cost."""

TOLERANCE = 0.02
"""How far apart two relative costs are that count as equal."""


@dataclass(frozen=True)
class Candidate:
    """What a cell may do. `expansion`: channels between the 1x1 layers per input channel."""

    operation: Operation
    kernel: int = 0
    expansion: int = 0

    @property
    def name(self) -> str:
        """For example `shift_k3_e1`, or `skip`."""
        return "skip" if self.operation == "skip" else f"{self.operation}_k{self.kernel}_e{self.expansion}"


Architecture = tuple[Candidate, ...]
"""One candidate per cell, from the stem to the head."""

SKIP = Candidate("skip")


@dataclass(frozen=True)
class CellShape:
    """Channels in and out, the side of the square that comes in, and the stride, which divides it."""

    inputs: int
    outputs: int
    side: int
    stride: int


@dataclass(frozen=True)
class Space:
    """All networks that can be found: `cells` after a stem on pictures of `side` pixels.

    `header`: channels of a last 1x1 convolution (0: there is
    none). `head_side`: the head sees means over a grid of so many squares a side.
    """

    candidates: tuple[Candidate, ...]
    cells: tuple[CellShape, ...]
    side: int
    header: int = 0
    head_side: int = 1

    def uniform(self, operation: Operation) -> Architecture:
        """The same operation in every cell, at its largest."""
        largest = max(
            (candidate for candidate in self.candidates if candidate.operation == operation),
            key=lambda candidate: (candidate.expansion, candidate.kernel),
        )
        return (largest,) * len(self.cells)

    def indices(self, operations: Sequence[Operation]) -> list[int]:
        """Where in `candidates` these operations stand."""
        return [index for index, candidate in enumerate(self.candidates) if candidate.operation in operations]

    def parse(self, names: Sequence[str]) -> Architecture:
        """The architecture with these candidates' names."""
        named = {candidate.name: candidate for candidate in self.candidates}
        return tuple(named[name] for name in names)


def make_space(p: NasaParameters) -> Space:
    """The space of the parameters: the paper's (22 cells, 19 candidates) or a small one."""
    arithmetics: tuple[Operation, ...] = ("conv", "shift", "adder")
    if p.space == "small":
        blocks = tuple(Candidate(operation, 3, 1) for operation in arithmetics)
        cells = _cells(p.channels, 8, ((1, p.channels, 1), (3, p.channels, 2)))
        return Space((*blocks, SKIP), cells, side=8, head_side=2)
    blocks = tuple(
        Candidate(operation, kernel, expansion)
        for operation in arithmetics
        for kernel in (3, 5)
        for expansion in (1, 3, 6)
    )
    stages = ((1, 16, 1), (4, 24, 1), (4, 32, 2), (4, 64, 2), (4, 112, 1), (4, 184, 2), (1, 352, 1))
    return Space((*blocks, SKIP), _cells(16, 32, stages), side=32, header=1504)


def _cells(stem: int, side: int, stages: Sequence[tuple[int, int, int]]) -> tuple[CellShape, ...]:
    """Stages of (cells, channels, stride of the first cell), as a list of cells."""
    cells: list[CellShape] = []
    inputs = stem
    for count, channels, stride in stages:
        for index in range(count):
            cells.append(CellShape(inputs, channels, side, stride if index == 0 else 1))
            inputs, side = channels, side // cells[-1].stride
    return tuple(cells)


@dataclass(frozen=True)
class EnergyTable:
    """Energy of one operation in pJ. One product of a convolution is a multiplication and an addition; of a
    shift layer a shift and an addition; of an adder layer a subtraction and an addition (the sign is free).

    The defaults of the parameters are 8-bit integers in 45 nm: Horowitz, ISSCC 2014, and for the shift You et
    al., ShiftAddNet, arXiv 2010.12785.
    """

    multiply_pj: float
    add_pj: float
    shift_pj: float

    @classmethod
    def of(cls, p: NasaParameters) -> "EnergyTable":
        """The table that the parameters hold."""
        return cls(p.multiply_pj, p.add_pj, p.shift_pj)

    def cell_pj(self, shape: CellShape, candidate: Candidate) -> float:
        """Energy of one picture in one cell, pJ."""
        a_product = {
            "conv": self.multiply_pj + self.add_pj,
            "shift": self.shift_pj + self.add_pj,
            "adder": 2 * self.add_pj,
            "skip": 0.0,
        }[candidate.operation]
        return a_product * products(shape, candidate)

    def network_pj(self, space: Space, architecture: Architecture) -> float:
        """Energy of one picture in all cells, pJ."""
        return sum(
            self.cell_pj(shape, candidate) for shape, candidate in zip(space.cells, architecture, strict=True)
        )

    def relative(self, space: Space, architecture: Architecture) -> float:
        """Energy as a share of the all-convolution network's."""
        return self.network_pj(space, architecture) / self.network_pj(space, space.uniform("conv"))

    def shares(self, space: Space) -> list[list[float]]:
        """What each candidate (column) of each cell (row) adds to the relative cost."""
        whole = self.network_pj(space, space.uniform("conv"))
        return [
            [self.cell_pj(shape, candidate) / whole for candidate in space.candidates]
            for shape in space.cells
        ]


def products(shape: CellShape, candidate: Candidate) -> int:
    """Products (of whatever arithmetic) that the block's three layers sum up for one picture."""
    middle = candidate.expansion * shape.inputs
    positions_in, positions_out = shape.side**2, (shape.side // shape.stride) ** 2
    first = positions_in * shape.inputs * middle
    depthwise = positions_out * middle * candidate.kernel**2
    return first + depthwise + positions_out * middle * shape.outputs


def random_architectures(
    space: Space, table: EnergyTable, *, like: Architecture, count: int, seed: int
) -> list[Architecture]:
    """Distinct random architectures that cost what `like` costs, within TOLERANCE: what a search must beat.

    Every cell's candidate is drawn with equal chances, DRAWS times; if fewer than `count` of these cost
    about as much, the nearest in cost are added.
    """
    generator = random.Random(seed)
    target = table.relative(space, like)
    drawn = dict.fromkeys(
        tuple(generator.choices(space.candidates, k=len(space.cells))) for _ in range(DRAWS)
    )
    drawn.pop(like, None)
    beyond = {one: max(0.0, abs(table.relative(space, one) - target) - TOLERANCE) for one in drawn}
    return sorted(beyond, key=lambda one: beyond[one])[:count]
