"""Why a pod gets nothing in this round: the two ways in which placing it can end without a place."""

from __future__ import annotations

from tessera.api.reasons import Reason
from tessera.placement import explain
from tessera.placement.request import Feasible, Unplaceable

REASONS = {
    explain.UNKNOWN_PROFILE: Reason.UNKNOWN_PROFILE,
    explain.NO_GPUS: Reason.NO_GPUS,
    explain.NO_NODE: Reason.UNPLACEABLE,
    explain.NO_ROOM: Reason.UNPLACEABLE,
}
"""What the placement core answers -> what users read."""

AVOIDED = "tried without success a short while ago"
"""The filter that excludes nodes on which the pod could not be bound."""


def words_of(answer: Unplaceable, feasible: Feasible, *, avoided: str) -> str:
    """What the user reads. `avoided` says why nodes are avoided, and is the remedy there; where nothing else
    excludes nodes, the remedy for full nodes would lead astray.
    """
    if AVOIDED not in feasible.excluded:
        return str(answer)
    astray = answer.reason == explain.NO_NODE and set(feasible.excluded) == {AVOIDED}
    return f"{answer.message if astray else answer}; {avoided}"


class Unserved(Exception):
    """A pod cannot be placed now, and its user is told why. `lacks_room`: nodes would take it, and GPUs there
    offer what it asks for; only is there no room on them.
    """

    def __init__(self, reason: str, message: str, *, profile: str = "", lacks_room: bool = False) -> None:
        self.reason = reason
        self.message = message
        self.profile = profile
        self.lacks_room = lacks_room
        super().__init__(message)


class NotYet(Exception):
    """What is missing comes by itself within moments (a claim that kube-controller-manager makes, an
    allocation that this round writes); nobody needs to be told.
    """
