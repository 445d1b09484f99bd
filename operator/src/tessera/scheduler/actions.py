"""What one round of scheduling decides to do. Values only; `loop.py` carries them out."""

from __future__ import annotations

from dataclasses import dataclass

from tessera.scheduler.allocation import ClaimPlacement, Result
from tessera.scheduler.move_records import MoveRecord, RoomRecord
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
    """Allocate for all these pods, and when all of that succeeded remove their gates: one pod, or a gang.

    `frees` are placeholders that hold the place of the one pod until now: their allocation is cleared just
    before, and each of them is deleted and counts as moved when the pod is allocated.
    """

    pods: tuple[PodPlacement, ...]
    frees: tuple[Claim, ...] = ()


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


@dataclass(frozen=True, slots=True)
class HoldTarget:
    """Hold a place for the replacement of a pod that is to be moved: make the placeholder claim `name` in the
    scheduler's namespace when it is not there, and allocate `result` on `node` to it, reserved for nobody.

    From the moment of the write on the placeholder is part of every snapshot, also while no watch has shown
    it yet: its place must not be given away.
    """

    name: str
    record: MoveRecord
    result: Result
    node: str


@dataclass(frozen=True, slots=True)
class KeepRoom:
    """Write on a waiting claim which place is opened for it; None: none is (any more)."""

    claim: Claim
    record: RoomRecord | None


@dataclass(frozen=True, slots=True)
class Evict:
    """Ask the API server to evict the pod, when this replica still leads. A refusal (of a
    PodDisruptionBudget) is no error: `waiting`, for whom room is made, is told, and the next rounds see that
    the pod is still there.

    `reason` is `Reason.MOVED`, `Reason.PREEMPTED`, which counts when the eviction is accepted, or
    `Reason.COMPACTED`, where nobody waits.
    """

    pod: Pod
    why: str
    reason: str
    waiting: Pod | None


@dataclass(frozen=True, slots=True)
class FreeTarget:
    """A placeholder is not needed any more: clear its allocation, drop our finalizer, delete it, and count
    the outcome (`elsewhere`, `refused`, `no_replacement` or `abandoned`). It may hold nothing, or be deleted
    half already.
    """

    claim: Claim
    outcome: str


@dataclass(frozen=True, slots=True)
class AskForReplacement:
    """The victim of a placeholder has left and no pod has come in its place yet: ask the store whether one
    will come at all. When it is clear that none will, the placeholder is freed (`no_replacement`).
    """

    claim: Claim
    record: MoveRecord


@dataclass(frozen=True, slots=True)
class NoteDepartures:
    """Write on our Lease who has left in the last hour (`departures`), for the next leader."""

    text: str


MoveAction = HoldTarget | KeepRoom | Evict | FreeTarget | AskForReplacement | NoteDepartures
Action = Place | Refuse | GiveUp | Protect | MoveAction
