"""What a pod asks for, as one round reads it from the pod's claims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tessera.placement.request import Constraint, Request
from tessera.scheduler.objects import Claim, Pod
from tessera.scheduler.requests import ClaimRequests


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a pod asks for: its claims, those that must be placed now, and how they were read."""

    pod: Pod
    claims: tuple[Claim, ...]
    todo: tuple[Claim, ...]
    read: tuple[ClaimRequests, ...]

    @property
    def requests(self) -> list[Request]:
        """To the engine."""
        return [request for one in self.read for request in one.requests]

    @property
    def constraints(self) -> list[Constraint]:
        """Within the claims."""
        return [constraint for one in self.read for constraint in one.constraints]

    @property
    def node_terms(self) -> list[tuple[Mapping[str, Any], ...]]:
        """Of the claims that are allocated already, by us or by others: the nodes that they are bound to."""
        return [
            c.allocated.node_terms
            for c in self.claims
            if c.allocated is not None and c.allocated.node_terms is not None
        ]
