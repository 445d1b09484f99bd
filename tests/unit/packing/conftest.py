"""Pools of the shipped profile table, and the closed form that plans are compared with."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tessera.gpu.profiles import model
from tessera.packing.boards import Pool


@pytest.fixture(scope="session")
def h100() -> Pool:
    return Pool(model("H100-80GB"))


@pytest.fixture(scope="session")
def a30() -> Pool:
    return Pool(model("A30-24GB"))


@pytest.fixture(scope="session")
def rtx() -> Pool:
    return Pool(model("RTXPRO6000-96GB"))


@pytest.fixture(scope="session")
def fits_8_slices() -> Callable[..., bool]:
    """Whether counts of 1g, double-memory 1g, 2g, 3g, 4g and 7g fit on so many GPUs of 8 memory slices."""

    def fits(gpus: int, one: int, double: int, two: int, three: int, four: int, seven: int) -> bool:
        # A left half (slices 0-3) holds a 4g, a 3g or two pairs. A right half holds a 3g, or a pair and
        # slices 6-7, which take a double 1g or one 1g but no 2g. A pair holds a 2g, a double 1g or two 1g.
        halves = gpus - seven
        right_threes = min(three, halves)
        left = halves - four - (three - right_threes)
        right = halves - right_threes
        if halves < 0 or left < 0:
            return False
        pairs = 2 * left + right
        double_at_the_end = min(double, right)
        rest = pairs - two - (double - double_at_the_end)
        return two <= pairs and rest >= 0 and one <= 2 * rest + (right - double_at_the_end)

    return fits
