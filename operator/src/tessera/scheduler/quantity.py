"""Kubernetes quantities ("250m", "16Gi", "1e3") as exact numbers."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

_SUFFIXES = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "": Fraction(1),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "P": Fraction(10**15),
    "E": Fraction(10**18),
    "Ki": Fraction(2**10),
    "Mi": Fraction(2**20),
    "Gi": Fraction(2**30),
    "Ti": Fraction(2**40),
    "Pi": Fraction(2**50),
    "Ei": Fraction(2**60),
}
_PATTERN = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|([numkMGTPE]|[KMGTPE]i)?)$")

# Users write quantities into selectors. Kubernetes knows none beyond 2^63 and below 1/10^9; the exact value
# of "1e9999999" would take this process minutes.
_MOST_CHARACTERS = 200
_MOST_EXPONENT = 100


@lru_cache(maxsize=8192)
def parse_quantity(text: str) -> Fraction:
    """The exact value. Raises ValueError when the text is not a quantity."""
    found = _PATTERN.match(text)
    if not found:
        raise ValueError(f"{text!r} is not a quantity")
    number, exponent, suffix = found.groups()
    if len(text) > _MOST_CHARACTERS or (exponent and abs(int(exponent[1:])) > _MOST_EXPONENT):
        raise ValueError(f"{text[:_MOST_CHARACTERS]!r} is too large or too fine for a quantity")
    if exponent:
        return Fraction(number) * Fraction(10) ** int(exponent[1:])
    return Fraction(number) * _SUFFIXES[suffix or ""]
