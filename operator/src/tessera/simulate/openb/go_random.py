"""Go's `math/rand`, so that our arrivals are those of the published runs.

The published experiments shuffle and sample their pods with the random numbers of Go's standard library,
seeded with 42 to 51. With the same generator each of our runs sees the same pods in the same order as
theirs, and a policy can be compared seed by seed instead of mean by mean.

The generator (Mitchell and Reeds) adds two of its last 607 outputs: s[n] = s[n-607] + s[n-273] modulo 2^64.
Go mixes the seed into a table that is the generator's own state after 7.8e12 steps. We do not copy that
table, we compute it: a step is multiplication by x modulo x^607 - x^334 - 1, so 7.8e12 steps are one power,
which 43 squarings give. Source: `src/math/rand/rng.go`, `rand.go` and `gen_cooked.go` of the Go
distribution (seeded generator, Go 1.0 to now).
"""

from __future__ import annotations

import functools
from collections.abc import MutableSequence
from typing import TypeVar

T = TypeVar("T")

LENGTH = 607
TAP = 273
WORD = (1 << 64) - 1
TABLE_STEPS = 7_800_000_000_000

_SLOT_BYTES = 18  # one coefficient of a product: 607 terms of 128 bits need 138
_LEHMER_MODULUS = (1 << 31) - 1


def _lehmer(seed: int, shifts: tuple[int, int]) -> list[int]:
    """The state that Go fills from a seed: three draws of a Lehmer generator per word."""
    x = seed % _LEHMER_MODULUS or 89482311
    for _ in range(20):
        x = x * 48271 % _LEHMER_MODULUS
    words = []
    for _ in range(LENGTH):
        word = 0
        for shift in (*shifts, 0):
            x = x * 48271 % _LEHMER_MODULUS
            word ^= x << shift
        words.append(word & WORD)
    return words


def _times(a: list[int], b: list[int]) -> list[int]:
    """Product of two polynomials modulo x^607 - x^334 - 1 and 2^64 (as one product of long integers)."""
    packed = [
        int.from_bytes(b"".join(c.to_bytes(_SLOT_BYTES, "little") for c in p), "little") for p in (a, b)
    ]
    raw = (packed[0] * packed[1]).to_bytes(2 * LENGTH * _SLOT_BYTES, "little")
    product = [
        int.from_bytes(raw[at : at + _SLOT_BYTES], "little")
        for at in range(0, (2 * LENGTH - 1) * _SLOT_BYTES, _SLOT_BYTES)
    ]
    for degree in range(2 * LENGTH - 2, LENGTH - 1, -1):
        product[degree - LENGTH] += product[degree]
        product[degree - TAP] += product[degree]
    return [c & WORD for c in product[:LENGTH]]


@functools.cache
def seeding_table() -> tuple[int, ...]:
    """Go's `rngCooked`: the state that seed 1 reaches after 7.8e12 steps."""
    start = _lehmer(1, (20, 10))
    # Step k writes index (334 - k) mod 607; put the state in the order in which it was written.
    written = [(LENGTH - TAP - k) % LENGTH for k in range(1, LENGTH + 1)]
    history = [start[index] for index in written]
    power, x = [1] + [0] * (LENGTH - 1), [0, 1] + [0] * (LENGTH - 2)
    for bit in bin(TABLE_STEPS)[2:]:
        power = _times(power, power)
        if bit == "1":
            power = _times(power, x)
    window = []
    for _ in range(LENGTH):
        window.append(sum(c * s for c, s in zip(power, history, strict=True)) & WORD)
        top = power.pop()
        power.insert(0, top)
        power[LENGTH - TAP] = (power[LENGTH - TAP] + top) & WORD
    table = [0] * LENGTH
    for offset, value in enumerate(window):
        table[(LENGTH - TAP - (TABLE_STEPS + 1 + offset)) % LENGTH] = value
    return tuple(table)


class GoRandom:
    """`rand.New(rand.NewSource(seed))`, with the methods that the protocol draws with."""

    def __init__(self, seed: int) -> None:
        mixed = zip(_lehmer(seed, (40, 20)), seeding_table(), strict=True)
        self._state = [word ^ cooked for word, cooked in mixed]
        self._tap = 0
        self._feed = LENGTH - TAP

    def int63(self) -> int:
        """The next number below 2^63."""
        self._tap = (self._tap - 1) % LENGTH
        self._feed = (self._feed - 1) % LENGTH
        value = (self._state[self._feed] + self._state[self._tap]) & WORD
        self._state[self._feed] = value
        return value & (WORD >> 1)

    def intn(self, n: int) -> int:
        """A number below `n` (at most 2^31 - 1), as `Intn` draws it."""
        if n <= 0:
            raise ValueError(f"n must be positive, not {n}")
        if n & (n - 1) == 0:
            return (self.int63() >> 32) & (n - 1)
        limit = (1 << 31) - 1 - (1 << 31) % n
        value = self.int63() >> 32
        while value > limit:
            value = self.int63() >> 32
        return value % n

    def shuffle(self, items: MutableSequence[T]) -> None:
        """Fisher and Yates in place, as `Shuffle` does it."""
        for last in range(len(items) - 1, 0, -1):
            chosen = self._below(last + 1)
            items[last], items[chosen] = items[chosen], items[last]

    def permutation(self, n: int) -> list[int]:
        """A permutation of 0 to n-1, as `Perm` draws it."""
        order = [0] * n
        for i in range(n):
            j = self.intn(i + 1)
            order[i] = order[j]
            order[j] = i
        return order

    def _below(self, n: int) -> int:
        # Lemire's multiplication, which Go uses for Shuffle but not for Intn.
        product = (self.int63() >> 31) * n
        if product & 0xFFFFFFFF < n:
            threshold = (1 << 32) % n
            while product & 0xFFFFFFFF < threshold:
                product = (self.int63() >> 31) * n
        return product >> 32
