"""What one round of scheduling decides to do. Values only; `loop.py` carries them out."""

from __future__ import annotations

from dataclasses import dataclass

from tessera.scheduler.allocation import ClaimPlacement
from tessera.scheduler.objects import Claim, Pod


@dataclass(frozen=True, slots=True)
class PodPlacement:
    """A pod with the placements of those of its claims that had none, and the allocated claims that it is to
    share. Both empty when only its gate is left to remove. `waiting_since` is when we first saw it wait.
    """

    pod: Pod
    claims: tuple[ClaimPlacement, ...] = ()
    shares: tuple[Claim, ...] = ()
    waiting_since: float = 0.0


@dataclass(frozen=True, slots=True)
class Place:
    """Allocate for all these pods, and when all of that succeeded remove their gates: one pod, or a gang."""

    pods: tuple[PodPlacement, ...]


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell on the pod and on its claims why they wait."""

    pod: Pod
    claims: tuple[Claim, ...]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Take a claim's allocation back."""

    claim: Claim
    pod: Pod | None
    why: str


@dataclass(frozen=True, slots=True)
class Protect:
    """Give an allocated claim the finalizer that it lacks; without it nobody clears the allocation."""

    claim: Claim


Action = Place | Refuse | GiveUp | Protect
