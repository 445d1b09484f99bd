"""What all kinds share: the base model, conditions, and the small types that carry their own validation.

A field is written once, in Python: its type, its limits, its default and (as the string below it) its
description. `crd.py` turns that into the schema which the API server enforces, so a rule that a user can
break carries a message which says what to do. Limits on every string, list and map are not decoration: the
API server computes the worst-case cost of each CEL rule from them and refuses a CRD that is too expensive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic.alias_generators import to_camel

from tessera.api.names import PROFILE_PATTERN, WHOLE_GPU


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One CEL rule of a schema node (``x-kubernetes-validations``)."""

    rule: str
    """The expression; it must be true. ``oldSelf`` in it makes it a rule on updates only."""
    message: str | None = None
    """What is wrong and what to do, for the user who reads ``kubectl apply``'s answer."""
    message_expression: str | None = None
    """CEL that yields the message, where it should quote the object; `message` is the fall-back."""

    def as_schema(self) -> dict[str, str]:
        """The rule as the API server spells it."""
        body = {"rule": self.rule}
        if self.message_expression is not None:
            body["messageExpression"] = self.message_expression
        if self.message is not None:
            body["message"] = self.message
        return body


class ApiModel(BaseModel):
    """Base of everything inside our objects: camelCase outside, snake_case inside, described by docstrings.

    Unknown fields are ignored on reading: the API server has already pruned them, and an operator that is one
    release older than its CRDs must not fail on a new field. NaN and infinity are refused: JSON has no word
    for them, so no object that holds one can be stored.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
        extra="ignore",
        allow_inf_nan=False,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()
    """CEL rules on this object; `crd.py` adds them to its schema."""

    def to_json(self) -> dict[str, Any]:
        """The object as Kubernetes stores it: camelCase, without what is unset."""
        return self.model_dump(by_alias=True, exclude_none=True, mode="json")


def string_type(*, max_length: int, rule: Rule | None = None, **schema: Any) -> WithJsonSchema:
    """The schema of a string type whose rule has a message (a bare ``pattern`` could not have one)."""
    body: dict[str, Any] = {"type": "string", "maxLength": max_length, **schema}
    if rule is not None:
        body["x-kubernetes-validations"] = [rule.as_schema()]
    return WithJsonSchema(body)


def _profile_name(rule: str, remedy: str) -> WithJsonSchema:
    return string_type(
        max_length=32,
        rule=Rule(
            rule=rule,
            message_expression=f'"\'" + self + "\' is not the name of a MIG profile; {remedy}"',
            message=f"not the name of a MIG profile; {remedy}",
        ),
    )


_IS_PROFILE = f"self.matches(r'{PROFILE_PATTERN}')"
_AS_NVIDIA = "write it as NVIDIA does, such as 2g.20gb or 1g.10gb+me"

Profile = Annotated[
    str,
    StringConstraints(pattern=PROFILE_PATTERN, max_length=32),
    _profile_name(_IS_PROFILE, _AS_NVIDIA),
]
"""A MIG profile's name. Whether a GPU has it is decided later, against the GPUs of the cluster."""

ProfileOrGPU = Annotated[
    str,
    StringConstraints(pattern=f"^{WHOLE_GPU}$|{PROFILE_PATTERN}", max_length=32),
    _profile_name(
        f"self == '{WHOLE_GPU}' || {_IS_PROFILE}",
        f"{_AS_NVIDIA}, or {WHOLE_GPU} for a GPU whose MIG mode is off",
    ),
]
"""The same, or the word for a GPU as a whole."""

Timestamp = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
"""RFC 3339, UTC."""

QUANTITY_RULE = Rule(
    rule="type(self) == int ? self > 0 : isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))",
    message="not a quantity above zero; write it as Kubernetes does, such as 2, 500m or 4Gi",
)
Quantity = Annotated[
    int | str,
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "maxLength": 32,
            "x-kubernetes-validations": [QUANTITY_RULE.as_schema()],
        }
    ),
]
"""An amount as Kubernetes writes it."""

Name = Annotated[str, StringConstraints(max_length=253)]
"""A Kubernetes object's name."""

COUNT_LIMIT = 2**53
"""The greatest count: up to here every reader of JSON, also one that knows only floats, sees it exactly."""

Count = Annotated[int, Field(ge=0, le=COUNT_LIMIT)]
"""How many of something, such as steps."""

ShortText = Annotated[str, StringConstraints(max_length=256)]
LongText = Annotated[str, StringConstraints(max_length=32768)]


class Condition(ApiModel):
    """One observation about the object, in the shape of ``metav1.Condition``."""

    type: Annotated[str, StringConstraints(max_length=316)]
    """What is observed."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """The generation of the object that was looked at."""
    last_transition_time: Timestamp
    """When `status` last changed."""
    reason: Annotated[str, StringConstraints(max_length=1024, min_length=1)]
    """Why, in one word that is also the reason of the event and the label of the metric."""
    message: LongText = ""
    """Why, for a human, with what to do about it."""


Conditions = Annotated[
    list[Condition],
    Field(
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of ``kubectl get``."""

    name: str
    json_path: str
    type: Literal["string", "integer", "number", "boolean", "date"] = "string"
    description: str = ""
    wide: bool = False
    """Only with ``-o wide``."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How a kind is named and shown; its schema comes from the models."""

    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...]
    scope: Literal["Namespaced", "Cluster"]
    spec: type[ApiModel]
    status: type[ApiModel]
    description: str
    columns: tuple[Column, ...]
    spec_required: bool = True
    selectable_fields: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    """Rules on the whole object (they alone see ``metadata.name``)."""
