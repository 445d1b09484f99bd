"""Values and functions that Kubernetes adds to CEL: quantities, semantic versions, optional values, and the
string functions. Each is a plain Python value; the CEL library hands them through.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import total_ordering
from typing import Any

from celpy import celtypes

from tessera.scheduler.quantity import parse_quantity

_SEMVER = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?")


@total_ordering
@dataclass(frozen=True)
class Quantity:
    value: Fraction

    def __lt__(self, other: Quantity) -> bool:
        return self.value < other.value


@total_ordering
@dataclass(frozen=True)
class Semver:
    """A semantic version; `rest` orders pre-releases as semver.org says: before the release, numbers before
    words.
    """

    numbers: tuple[int, int, int]
    rest: tuple[tuple[int, int, str], ...]

    @classmethod
    def parse(cls, text: str) -> Semver:
        """Raises ValueError when the text is not a semantic version."""
        found = _SEMVER.fullmatch(text)
        if not found:
            raise ValueError(f"{text!r} is not a semantic version")
        major, minor, patch, early = found.groups()
        words = early.split(".") if early else []
        rest = tuple((0, int(word), "") if word.isdigit() else (1, 0, word) for word in words)
        return cls((int(major), int(minor), int(patch)), rest)

    def __lt__(self, other: Semver) -> bool:
        return (self.numbers, not self.rest, self.rest) < (other.numbers, not other.rest, other.rest)


@dataclass(frozen=True)
class Optional:
    """CEL's optional value: at most one value."""

    values: tuple[Any, ...] = ()

    @property
    def value(self) -> Any:
        """The value. Raises ValueError when there is none."""
        if not self.values:
            raise ValueError("the optional value is empty")
        return self.values[0]


def _select(holder: Any, key: Any) -> Optional:
    """`holder.?key` and `holder[?key]`."""
    if isinstance(holder, Optional):
        return _select(holder.value, key) if holder.values else holder
    if isinstance(holder, celtypes.ListType):
        return Optional((holder[key],)) if 0 <= key < len(holder) else Optional()
    every = getattr(holder, "holds_every_key", False)
    return Optional((holder[key],)) if every or key in holder else Optional()


def _semver(text: str) -> Semver:
    return Semver.parse(str(text))


def _is_semver(text: str) -> Any:
    return celtypes.BoolType(_SEMVER.fullmatch(str(text)) is not None)


def _string(function: Callable[..., str]) -> Callable[..., Any]:
    return lambda *arguments: celtypes.StringType(function(*arguments))


def _substring(text: str, start: int, end: int | None = None) -> str:
    stop = len(text) if end is None else end
    if not 0 <= start <= stop <= len(text):
        raise ValueError(f"substring {start}..{stop} of a text of {len(text)} characters")
    return text[start:stop]


def _split(text: str, separator: str, limit: int = -1) -> Any:
    if limit == 0:
        return celtypes.ListType([])
    parts = text.split(separator, limit - 1 if limit > 0 else -1) if separator else list(text)
    return celtypes.ListType([celtypes.StringType(part) for part in parts])


def _quantity(text: str) -> Quantity:
    return Quantity(parse_quantity(str(text)))


def _is_quantity(text: str) -> Any:
    try:
        parse_quantity(str(text))
    except ValueError:
        return celtypes.BoolType(False)
    return celtypes.BoolType(True)


def _compare(a: Quantity, b: Quantity) -> Any:
    return celtypes.IntType((a > b) - (a < b))


def _added(a: Quantity, b: Quantity | int) -> Quantity:
    return Quantity(a.value + (b.value if isinstance(b, Quantity) else int(b)))


def _subtracted(a: Quantity, b: Quantity | int) -> Quantity:
    return Quantity(a.value - (b.value if isinstance(b, Quantity) else int(b)))


def _as_integer(quantity: Quantity) -> Any:
    if quantity.value.denominator != 1:
        raise ValueError(f"quantity {float(quantity.value)} is not an integer")
    return celtypes.IntType(quantity.value.numerator)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "quantity": _quantity,
    "isQuantity": _is_quantity,
    "compareTo": _compare,
    "isGreaterThan": lambda a, b: celtypes.BoolType(a > b),
    "isLessThan": lambda a, b: celtypes.BoolType(a < b),
    "isInteger": lambda q: celtypes.BoolType(q.value.denominator == 1),
    "asInteger": _as_integer,
    "asApproximateFloat": lambda q: celtypes.DoubleType(float(q.value)),
    "sign": lambda q: celtypes.IntType((q.value > 0) - (q.value < 0)),
    "add": _added,
    "sub": _subtracted,
    "semver": _semver,
    "isSemver": _is_semver,
    "major": lambda version: celtypes.IntType(version.numbers[0]),
    "minor": lambda version: celtypes.IntType(version.numbers[1]),
    "patch": lambda version: celtypes.IntType(version.numbers[2]),
    "optionalSelect": _select,
    "optionalOf": lambda value: Optional((value,)),
    "optionalNone": lambda: Optional(),
    "orValue": lambda optional, other: optional.value if optional.values else other,
    "or": lambda optional, other: optional if optional.values else other,
    "hasValue": lambda optional: celtypes.BoolType(bool(optional.values)),
    "value": lambda optional: optional.value,
    "lowerAscii": _string(lambda text: text.lower()),
    "upperAscii": _string(lambda text: text.upper()),
    "trim": _string(lambda text: text.strip()),
    "replace": _string(lambda text, old, new, limit=-1: text.replace(old, new, limit)),
    "substring": _string(_substring),
    "charAt": _string(lambda text, at: _substring(text, at, min(at + 1, len(text)))),
    "indexOf": lambda text, part: celtypes.IntType(text.find(part)),
    "lastIndexOf": lambda text, part: celtypes.IntType(text.rfind(part)),
    "split": _split,
    "join": _string(lambda parts, separator="": separator.join(parts)),
}
