"""CEL device selectors: which published devices a request admits.

The expressions are those of `resource.k8s.io/v1`: `device.driver`, `device.attributes["<domain>"].<name>` and
`device.capacity["<domain>"].<name>` (quantities), with the quantity functions and the string functions of
Kubernetes. An expression is compiled once. Its verdict is kept per set of values that it can see: 80,000 GPUs
of one model have the same two dozen sets unless the expression names the UUID, so that a selector costs two
dozen evaluations, not a million.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import total_ordering
from typing import Any

import celpy
from celpy import celtypes

from tessera.scheduler.quantity import parse_quantity

AttributeValue = str | int | bool
Attributes = Mapping[tuple[str, str], AttributeValue]
Capacity = Mapping[tuple[str, str], Fraction]

_LONGEST = 10 * 1024
"""The API server's own limit for an expression, in bytes."""


class InvalidSelector(ValueError):
    """The expression does not compile, or its evaluation failed on a device."""


@dataclass(frozen=True)
class DeviceView:
    """What an expression sees of a device; attributes and capacity are keyed by (domain, name)."""

    driver: str
    attributes: Attributes
    capacity: Capacity


@total_ordering
@dataclass(frozen=True)
class _Quantity:
    value: Fraction

    def __lt__(self, other: _Quantity) -> bool:
        return self.value < other.value


class _Domains(celtypes.MapType):  # type: ignore[misc]  # celpy has no types
    """An unknown domain is an empty map, as in the API; a missing name in it is then an error as in any
    other.
    """

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if key in self else celtypes.MapType()


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


def _quantity(text: str) -> _Quantity:
    return _Quantity(parse_quantity(str(text)))


def _is_quantity(text: str) -> Any:
    try:
        parse_quantity(str(text))
    except ValueError:
        return celtypes.BoolType(False)
    return celtypes.BoolType(True)


def _compare(a: _Quantity, b: _Quantity) -> Any:
    return celtypes.IntType((a > b) - (a < b))


def _added(a: _Quantity, b: _Quantity | int) -> _Quantity:
    return _Quantity(a.value + (b.value if isinstance(b, _Quantity) else int(b)))


def _subtracted(a: _Quantity, b: _Quantity | int) -> _Quantity:
    return _Quantity(a.value - (b.value if isinstance(b, _Quantity) else int(b)))


def _as_integer(quantity: _Quantity) -> Any:
    if quantity.value.denominator != 1:
        raise ValueError(f"quantity {float(quantity.value)} is not an integer")
    return celtypes.IntType(quantity.value.numerator)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
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

_LITERAL = r"(?:\"[^\"\\]*\"|'[^'\\]*')"
_PLAIN_USE = re.compile(
    # device.attributes["domain"].name and ["name"], but not a macro or function over the whole map.
    rf"\bdevice\.(?:attributes|capacity)\[{_LITERAL}\](?:\.\w+\b(?!\s*\()|\[{_LITERAL}\])"
    rf"|{_LITERAL}\s+in\s+device\.(?:attributes|capacity)\[{_LITERAL}\](?!\s*[.\[])"
    r"|\bdevice\.driver\b"
)


class Selector:
    """One compiled expression."""

    def __init__(self, expression: str) -> None:
        self.expression = expression
        try:
            if len(expression.encode()) > _LONGEST:
                raise ValueError(f"longer than {_LONGEST} bytes")
            environment = celpy.Environment()
            self._program = environment.program(environment.compile(expression), functions=_FUNCTIONS)
        except Exception as error:  # the library lets whatever its parser raises through
            raise InvalidSelector(
                f"selector {_short(expression)} does not compile: {_first_line(error)}"
            ) from error
        # Names that the text does not contain cannot influence the verdict, unless it computes names.
        self._names = (
            None
            if re.search(r"\bdevice\b", _PLAIN_USE.sub("", expression))
            else frozenset(re.findall(r"\w+", expression))
        )
        self._verdicts: dict[frozenset[tuple[Any, ...]], bool] = {}

    def sees_any(self, attributes: frozenset[str]) -> bool:
        """Whether the verdict may depend on one of these attributes."""
        return self._names is None or not self._names.isdisjoint(attributes)

    def matches(self, device: DeviceView) -> bool:
        """Whether the device is admitted. Raises InvalidSelector when the expression fails on it."""
        visible = frozenset(
            item
            for item in (
                *(("a", *key, type(value), value) for key, value in device.attributes.items()),
                *(("c", *key, value) for key, value in device.capacity.items()),
                ("d", device.driver, device.driver),
            )
            if self._names is None or item[0] == "d" or _last_name(str(item[2])) in self._names
        )
        verdict = self._verdicts.get(visible)
        if verdict is None:
            verdict = self._verdicts[visible] = self._evaluate(device)
        return verdict

    def _evaluate(self, device: DeviceView) -> bool:
        try:
            result = self._program.evaluate({"device": _cel_device(device)})
        except Exception as error:  # the library lets whatever a function raises through
            raise InvalidSelector(
                f"selector {_short(self.expression)} failed on a device: {_first_line(error)}"
            ) from error
        if not isinstance(result, celtypes.BoolType | bool):
            raise InvalidSelector(
                f"selector {_short(self.expression)} gives a {type(result).__name__}, not a bool"
            )
        return bool(result)


class SelectorCache:
    """Compiled expressions by their text; also remembers those that do not compile."""

    def __init__(self, *, limit: int = 1024) -> None:
        self._limit = limit
        self._compiled: dict[str, Selector | InvalidSelector] = {}

    def get(self, expression: str) -> Selector:
        """The compiled expression. Raises InvalidSelector."""
        found = self._compiled.get(expression)
        if found is None:
            if len(self._compiled) >= self._limit:
                self._compiled.pop(next(iter(self._compiled)))
            try:
                found = Selector(expression)
            except InvalidSelector as error:
                found = error
            self._compiled[expression] = found
        if isinstance(found, InvalidSelector):
            raise found
        return found

    def all(self, expressions: Sequence[str]) -> tuple[Selector, ...]:
        """Several at once. Raises InvalidSelector for the first that does not compile."""
        return tuple(self.get(expression) for expression in expressions)


def _cel_device(device: DeviceView) -> Any:
    attributes = _Domains()
    for (domain, name), value in device.attributes.items():
        _put(attributes, domain, name, _cel_value(value))
    capacity = _Domains()
    for (domain, name), quantity in device.capacity.items():
        _put(capacity, domain, name, _Quantity(quantity))
    text = celtypes.StringType
    return celtypes.MapType(
        {
            text("driver"): text(device.driver),
            text("attributes"): attributes,
            text("capacity"): capacity,
            text("allowMultipleAllocations"): celtypes.BoolType(False),
        }
    )


def _put(domains: Any, domain: str, name: str, value: Any) -> None:
    key = celtypes.StringType(domain)
    if key not in domains:
        domains[key] = celtypes.MapType()
    domains[key][celtypes.StringType(name)] = value


def _cel_value(value: AttributeValue) -> Any:
    if isinstance(value, bool):
        return celtypes.BoolType(value)
    if isinstance(value, int):
        return celtypes.IntType(value)
    return celtypes.StringType(value)


def _last_name(name: str) -> str:
    return name.rpartition("-")[2].rpartition(".")[2]


def _short(expression: str) -> str:
    text = " ".join(expression.split())
    return repr(text if len(text) <= 160 else text[:157] + "...")


def _first_line(error: BaseException) -> str:
    text = str(error.args[0]) if error.args else str(error)
    lines = text.strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    # celpy prints its whole activation after the cause.
    return line.partition(" (in activation")[0][:200]
