"""The random numbers of Go's `math/rand/v2`, so that the published MIGBench traces can be drawn again bit
by bit.

MIGBench draws its jobs with Go's PCG generator and Go's exponential and normal variates. The same seed must
give the same 500 jobs here, or a comparison with its published runs would compare two workloads. Sources:
PCG-DXSM from O'Neill (pcg-random.org, `pcg_engines::cm_setseq_dxsm_128_64`) with the full 128-bit
multiplier, and the ziggurat of Marsaglia and Tsang, "The Ziggurat Method for Generating Random Variables"
(Journal of Statistical Software 5(8), 2000), with 256 strips for the exponential and 128 for the normal
distribution. Go keeps the ziggurat tables in single precision, so they are rounded here at the same places.
"""

from __future__ import annotations

import math
import struct
from functools import cache
from typing import NamedTuple

_64 = (1 << 64) - 1
_128 = (1 << 128) - 1
_MULTIPLIER = 2549297995355413924 << 64 | 4865540595714422341
_INCREMENT = 6364136223846793005 << 64 | 1442695040888963407
_CHEAP_MULTIPLIER = 0xDA942042E4DD58B5

_EXPONENTIAL_TAIL = 7.69711747013104972
_EXPONENTIAL_AREA = 3.949659822581572e-3
_NORMAL_TAIL = 3.442619855899
_NORMAL_AREA = 9.91256303526217e-3


class GoRandom:
    """One stream; equal to Go's `rand.New(rand.NewPCG(high, low))`."""

    def __init__(self, high: int, low: int) -> None:
        self._state = (high & _64) << 64 | low & _64

    def uint64(self) -> int:
        """64 uniform bits."""
        self._state = (self._state * _MULTIPLIER + _INCREMENT) & _128
        high, low = self._state >> 64, self._state & _64
        high ^= high >> 32
        high = high * _CHEAP_MULTIPLIER & _64
        high ^= high >> 48
        return high * (low | 1) & _64

    def uniform(self) -> float:
        """Uniform in [0, 1), with 53 bits."""
        return (self.uint64() & ((1 << 53) - 1)) / (1 << 53)

    def exponential(self) -> float:
        """Exponential with mean 1."""
        tables = _exponential_tables()
        while True:
            bits = self.uint64()
            j, strip = bits & 0xFFFFFFFF, bits >> 32 & 0xFF
            x = j * tables.widths[strip]
            if j < tables.limits[strip]:
                return x
            if strip == 0:
                return _EXPONENTIAL_TAIL - math.log(self.uniform())
            if self._below(tables.heights, strip) < _single(math.exp(-x)):
                return x

    def normal(self) -> float:
        """Normal with mean 0 and standard deviation 1."""
        tables = _normal_tables()
        while True:
            bits = self.uint64()
            low = bits & 0xFFFFFFFF
            j, strip = low - (1 << 32) if low >> 31 else low, bits >> 32 & 0x7F
            x = j * tables.widths[strip]
            if abs(j) < tables.limits[strip]:
                return x
            if strip == 0:
                while True:
                    x = -math.log(self.uniform()) * (1.0 / _NORMAL_TAIL)
                    y = -math.log(self.uniform())
                    if y + y >= x * x:
                        return _NORMAL_TAIL + x if j > 0 else -_NORMAL_TAIL - x
            if self._below(tables.heights, strip) < _single(math.exp(-0.5 * x * x)):
                return x

    def _below(self, heights: tuple[float, ...], strip: int) -> float:
        """A height between the two edges of a strip, in single precision at every step, as Go computes it."""
        span = _single(heights[strip - 1] - heights[strip])
        return _single(heights[strip] + _single(_single(self.uniform()) * span))


class _Tables(NamedTuple):
    """Of each strip: below which integer the answer is certain, the width of one unit, the height."""

    limits: tuple[int, ...]
    widths: tuple[float, ...]
    heights: tuple[float, ...]


@cache
def _exponential_tables() -> _Tables:
    edges = [_EXPONENTIAL_TAIL]
    for _ in range(254):
        edges.append(-math.log(_EXPONENTIAL_AREA / edges[-1] + math.exp(-edges[-1])))
    base = _EXPONENTIAL_AREA / math.exp(-_EXPONENTIAL_TAIL)
    return _tables(edges[::-1], base, [math.exp(-x) for x in edges[::-1]], 1 << 32)


@cache
def _normal_tables() -> _Tables:
    def density(x: float) -> float:
        return math.exp(-0.5 * x * x)

    edges = [_NORMAL_TAIL]
    for _ in range(126):
        edges.append(math.sqrt(-2.0 * math.log(_NORMAL_AREA / edges[-1] + density(edges[-1]))))
    base = _NORMAL_AREA / density(_NORMAL_TAIL)
    return _tables(edges[::-1], base, [density(x) for x in edges[::-1]], 1 << 31)


def _tables(edges: list[float], base: float, densities: list[float], scale: int) -> _Tables:
    """`edges` are the right edges of strips 1.., ascending; strip 0 is the base strip with the tail."""
    limits = [int(edges[-1] / base * scale), 0]
    limits += [int(edges[i - 1] / edges[i] * scale) for i in range(1, len(edges))]
    widths = [base / scale, *(x / scale for x in edges)]
    heights = [1.0, *densities]
    return _Tables(tuple(limits), tuple(map(_single, widths)), tuple(map(_single, heights)))


def _single(value: float) -> float:
    """Rounded to single precision."""
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded
