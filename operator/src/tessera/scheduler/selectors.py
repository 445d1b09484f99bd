"""CEL device selectors: which published devices a request admits.

The expressions are those of `resource.k8s.io/v1`: `device.driver`, `device.attributes["<domain>"].<name>` and
`device.capacity["<domain>"].<name>` (quantities), with the functions that Kubernetes adds (`cel_values`) and
its optional syntax (`cel_syntax`). An expression is compiled once. Its verdict is kept per set of values that
it can see: 80,000 GPUs of one model have the same two dozen sets unless the expression tells single GPUs
apart, so that a selector costs two dozen evaluations, not a million.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import celpy
from celpy import celtypes

from tessera.scheduler.cel_syntax import plain_cel
from tessera.scheduler.cel_values import FUNCTIONS, Quantity, Semver


class Version(str):
    """An attribute of the API's type `version`."""


AttributeValue = str | int | bool | Version
Attributes = Mapping[tuple[str, str], AttributeValue]
Capacity = Mapping[tuple[str, str], Fraction]

_LONGEST = 10 * 1024
"""The API server's own limit for an expression, in bytes."""


class InvalidSelector(ValueError):
    """The expression does not compile, its evaluation failed on a device, or it is not served."""

    def __init__(self, expression: str, message: str) -> None:
        self.expression = expression
        super().__init__(f"selector {_short(expression)} {message}")


@dataclass(frozen=True)
class DeviceView:
    """What an expression sees of a device; attributes and capacity are keyed by (domain, name)."""

    driver: str
    attributes: Attributes
    capacity: Capacity


class _Domains(celtypes.MapType):  # type: ignore[misc]  # celpy has no types
    """An unknown domain is an empty map, as in the API; a missing name in it is then an error as in any
    other.
    """

    holds_every_key = True

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if key in self else celtypes.MapType()


_LITERAL = r"(?:\"[^\"\\]*\"|'[^'\\]*')"
_PLAIN_USE = re.compile(
    # device.attributes["domain"].name and ["name"], but not a macro or function over the whole map.
    rf"\bdevice\.(?:attributes|capacity)\[\??{_LITERAL}\](?:\.\??\w+\b(?!\s*\()|\[\??{_LITERAL}\])"
    rf"|{_LITERAL}\s+in\s+device\.(?:attributes|capacity)\[{_LITERAL}\](?!\s*[.\[])"
    r"|\bdevice\.driver\b"
)
_COMPARED = (
    # The whole of an operand, compared with a literal, or looked up in a list of literals.
    r"(?:(?<=^)|(?<=[(&|?:,]))\s*"
    rf"device\.attributes\[{_LITERAL}\](?:\.%(name)s\b|\[[\"']%(name)s[\"']\])\s*"
    rf"(?:[=!]=\s*{_LITERAL}|in\s*\[\s*{_LITERAL}(?:\s*,\s*{_LITERAL})*\s*\])(?=\s*(?:$|[)&|?:,]))"
)


class Selector:
    """One compiled expression."""

    def __init__(self, expression: str) -> None:
        self.expression = expression
        try:
            if len(expression.encode()) > _LONGEST:
                raise ValueError(f"longer than {_LONGEST} bytes")
            environment = celpy.Environment()
            plain = plain_cel(expression)
            self._program = environment.program(environment.compile(plain), functions=FUNCTIONS)
        except Exception as error:  # the library lets whatever its parser raises through
            raise InvalidSelector(expression, f"does not compile: {_first_line(error)}") from error
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

    def told_apart_by(self, device: DeviceView, attributes: frozenset[str]) -> Hashable:
        """What of these attributes of a device may decide the verdict: devices that differ in nothing else
        and have this equal are judged alike. A value that the expression only compares with other literals
        is as good as any other such value.
        """
        if not self.sees_any(attributes):
            return ()
        return tuple(
            value if self._depends_on_value(key[1], value) else None
            for key, value in sorted(device.attributes.items())
            if key[1] in attributes and (self._names is None or key[1] in self._names)
        )

    def _depends_on_value(self, name: str, value: AttributeValue) -> bool:
        if self._names is None or not isinstance(value, str):
            return True
        rest = re.sub(_COMPARED % {"name": re.escape(name)}, "", self.expression)
        return bool(re.search(rf"\b{re.escape(name)}\b", rest)) or value in re.findall(
            r"[\"']([^\"'\\]*)[\"']", self.expression
        )

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
            raise InvalidSelector(self.expression, f"failed on a device: {_first_line(error)}") from error
        if not isinstance(result, celtypes.BoolType | bool):
            raise InvalidSelector(self.expression, f"gives a {type(result).__name__}, not a bool")
        return bool(result)


@lru_cache(maxsize=4096)
def _compiled(expression: str) -> Selector:
    """Compiling costs some 25 ms and depends on the text alone, so a new leader need not do it again."""
    return Selector(expression)


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
                found = _compiled(expression)
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
        _put(capacity, domain, name, Quantity(quantity))
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
    if isinstance(value, Version):
        return Semver.parse(value)
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
