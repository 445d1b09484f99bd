"""What a reconciliation decides: a plain value that the executor carries out.

A reconcile function looks at an object and at what surrounds it, and returns a `Plan`. It does nothing, so it
can be tried on any situation a test can write down, and asked again at any time: the same situation gives the
same plan, and a plan that was carried out gives an empty one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tessera.api.reasons import Reason
from tessera.controllers.gpu_view import Pod
from tessera.kube.resources import Resource

Object = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Key:
    """Which object is to be reconciled."""

    kind: str
    namespace: str | None
    name: str

    def __str__(self) -> str:
        where = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind} {where}"


@dataclass(frozen=True, kw_only=True)
class Child:
    """An object that must be as given: server-side apply."""

    resource: Resource
    body: Object
    owned: bool = True
    """Ours alone (it carries the owner's reference): an object of that name that belongs to another is left
    alone and reported as `NameTaken`. False for objects that somebody else makes and in which we own only
    some fields."""


@dataclass(frozen=True, kw_only=True)
class FieldChange:
    """A merge patch of an existing child whose other fields cannot change any more (a Job's pod template)."""

    resource: Resource
    name: str
    namespace: str | None
    body: Object


@dataclass(frozen=True, kw_only=True)
class News:
    """One event about the object."""

    type: Literal["Normal", "Warning"]
    reason: Reason
    message: str
    action: str = "Reconcile"


@dataclass(frozen=True, kw_only=True)
class Eviction:
    """A pod that has to leave its slice; PodDisruptionBudgets hold."""

    pod: Pod
    why: str
    """For the pod's owner."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that one reconciliation wants, in the order in which it is done."""

    children: tuple[Child, ...] = ()
    changes: tuple[FieldChange, ...] = ()
    status: Object | None = None
    """The whole status that is wanted; None leaves it as it is."""
    decides: bool = False
    """The status is a decision from the object as it was read: when that has changed, nothing is written and
    all is planned again."""
    evictions: tuple[Eviction, ...] = ()
    news: tuple[News, ...] = field(default=())
    """Told after the status is written, so that a write which fails is not told twice."""
    delete: bool = False
    """Delete the object itself; its children go with it by their owner references."""
    requeue_seconds: float | None = None
    """Look again after so long, when only time will change something."""


class Terminal(Exception):
    """What is wanted cannot be done until somebody changes something; it ends in a condition, not in a
    retry."""

    def __init__(self, reason: Reason, message: str) -> None:
        self.reason = reason
        self.message = message
        super().__init__(reason, message)

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"
