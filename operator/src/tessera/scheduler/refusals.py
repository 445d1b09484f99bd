"""Why a pod gets nothing in this round: the two ways in which placing it can end without a place."""

from __future__ import annotations

from tessera.api.reasons import Reason
from tessera.placement import explain

REASONS = {
    explain.UNKNOWN_PROFILE: Reason.UNKNOWN_PROFILE,
    explain.NO_NODE: Reason.UNPLACEABLE,
    explain.NO_ROOM: Reason.UNPLACEABLE,
}
"""What the placement core answers -> what users read."""


class Unserved(Exception):
    """A pod cannot be placed now, and its user is told why."""

    def __init__(self, reason: str, message: str, *, profile: str = "") -> None:
        self.reason = reason
        self.message = message
        self.profile = profile
        super().__init__(message)


class NotYet(Exception):
    """What is missing comes by itself within moments (a claim that kube-controller-manager makes, an
    allocation that this round writes); nobody needs to be told.
    """
