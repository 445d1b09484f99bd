"""Typed parameters: one frozen dataclass per workload is its whole configuration surface.

A field says its type, default, range and help in one place; parsing, error messages, `describe` and the JSON
schema are read off it. A key that is not a field is refused with the nearest name that is, because a misspelt
`learning_rat` that silently trains with the default costs hours.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

from tessera_workloads.errors import InvalidParameter

Value = int | float | bool | str
"""What one parameter can hold."""


@dataclass(frozen=True)
class Bounds:
    """What a field declares beside its type and default. Both ends belong to the range."""

    help: str
    minimum: float | None = None
    maximum: float | None = None


def parameter(
    default: Value, *, help: str, minimum: float | None = None, maximum: float | None = None
) -> Any:
    """Declare one field of a `Parameters` dataclass; choices are declared by a `Literal[...]` type."""
    return field(default=default, metadata={"bounds": Bounds(help=help, minimum=minimum, maximum=maximum)})


@dataclass(frozen=True)
class Parameters:
    """Base of every workload's parameters. `sizes` names what `--size` changes; `ci` keeps the defaults."""

    sizes: ClassVar[Mapping[str, Mapping[str, Value]]] = {"ci": {}, "slice": {}, "full": {}}

    @classmethod
    def parse(cls, assignments: Mapping[str, str], *, size: str = "ci") -> Self:
        """Read `key -> text` on top of the given size.

        Raises:
            InvalidParameter: for an unknown size or key, a value of the wrong type, or one out of range.
        """
        if size not in cls.sizes:
            raise InvalidParameter(f"unknown size {size!r}: choose one of {', '.join(cls.sizes)}")
        specs = {spec.name: spec for spec in cls.specs()}
        values = dict(cls.sizes[size])
        for key, text in assignments.items():
            if key not in specs:
                raise InvalidParameter(_unknown(key, list(specs)))
            values[key] = specs[key].read(text)
        return cls(**values)

    def __post_init__(self) -> None:
        for spec in self.specs():
            spec.check(getattr(self, spec.name))

    @classmethod
    def specs(cls) -> "list[ParameterSpec]":
        """The declared parameters, in the order in which they are written."""
        types = get_type_hints(cls)
        return [
            ParameterSpec(name=f.name, kind=types[f.name], default=f.default, bounds=f.metadata["bounds"])
            for f in dataclasses.fields(cls)
        ]

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The same declaration as a JSON schema that admits no other keys."""
        return {
            "type": "object",
            "additionalProperties": False,
            "properties": {spec.name: spec.json_schema() for spec in cls.specs()},
        }

    def as_dict(self) -> dict[str, Value]:
        """Every parameter with the value that is used."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class ParameterSpec:
    """One declared parameter."""

    name: str
    kind: Any
    default: Any
    bounds: Bounds

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed words, empty when the parameter is a number or a free text."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    @property
    def domain(self) -> str:
        """What is allowed, in words: `an integer from 1 to 4096`."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        noun = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}[self.kind]
        low, high = self.bounds.minimum, self.bounds.maximum
        if low is not None and high is not None:
            return f"{noun} from {low:g} to {high:g}"
        if low is not None:
            return f"{noun} of at least {low:g}"
        return f"{noun} of at most {high:g}" if high is not None else noun

    def read(self, text: str) -> Value:
        """Turn the text of `--set` into a value of the declared type."""
        try:
            if self.kind is bool:
                return {"true": True, "false": False}[text.lower()]
            return text if self.choices else self.kind(text)
        except (ValueError, KeyError):
            raise InvalidParameter(f"parameter {self.name}={text!r} is not {self.domain}") from None

    def check(self, value: Value) -> None:
        """Raise `InvalidParameter` unless the value lies in the declared range."""
        low, high = self.bounds.minimum, self.bounds.maximum
        if self.choices:
            inside = value in self.choices
        elif isinstance(value, str | bool):
            inside = True
        else:
            inside = (
                math.isfinite(value) and (low is None or value >= low) and (high is None or value <= high)
            )
        if not inside:
            raise InvalidParameter(f"parameter {self.name}={value} is out of range: it must be {self.domain}")

    def json_schema(self) -> dict[str, Any]:
        """This parameter as one property of the JSON schema."""
        names = {int: "integer", float: "number", bool: "boolean", str: "string"}
        schema: dict[str, Any] = {
            "type": "string" if self.choices else names[self.kind],
            "default": self.default,
            "description": self.bounds.help,
        }
        if self.choices:
            schema["enum"] = list(self.choices)
        if self.bounds.minimum is not None:
            schema["minimum"] = self.bounds.minimum
        if self.bounds.maximum is not None:
            schema["maximum"] = self.bounds.maximum
        return schema


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f'did you mean "{near[0]}"? ' if near else ""
    return f'unknown parameter "{key}": {hint}(known: {", ".join(known)})'
