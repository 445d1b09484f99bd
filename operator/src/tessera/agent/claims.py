"""What a ResourceClaim asks of this node: its allocated devices of our driver.

The kubelet names a claim by namespace, name and UID; what was allocated stands in the claim's status. The
UID decides: a claim of the same name made again is another claim.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tessera.api.gpu_node import PREPARE_FAILURES_LIMIT
from tessera.api.names import DRIVER
from tessera.api.reasons import Reason

_FORGOTTEN_AFTER = timedelta(minutes=10)
"""The kubelet tries a pod again every few minutes at most; what it does not try is gone."""


class PrepareError(Exception):
    """A claim cannot be prepared. The kubelet shows the text on the pod and tries again."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ClaimKey:
    """The identity of a ResourceClaim."""

    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class PrepareFailure:
    """Why a claim could not be prepared, since when, and when it was tried last."""

    claim: ClaimKey
    message: str
    since: datetime
    last: datetime


class PrepareFailures:
    """The claims that could not be prepared, so that the node's status can name them.

    In memory only: the kubelet tries again, so that a restarted agent soon knows them. At most
    `PREPARE_FAILURES_LIMIT`, the longest untried ones go first.
    """

    def __init__(self) -> None:
        self._failures: dict[str, PrepareFailure] = {}

    def add(self, claim: ClaimKey, message: str, *, now: datetime) -> None:
        """A try failed."""
        before = self._failures.pop(claim.uid, None)
        since = before.since if before is not None else now
        self._failures[claim.uid] = PrepareFailure(claim, message, since, now)
        while len(self._failures) > PREPARE_FAILURES_LIMIT:
            del self._failures[next(iter(self._failures))]

    def remove(self, claim: ClaimKey) -> None:
        """The claim is prepared, or nobody wants it any more."""
        self._failures.pop(claim.uid, None)

    def current(self, *, now: datetime) -> tuple[PrepareFailure, ...]:
        """Those that the kubelet still tries, in an order that a further try does not change."""
        self._failures = {
            uid: failure for uid, failure in self._failures.items() if now - failure.last < _FORGOTTEN_AFTER
        }
        return tuple(sorted(self._failures.values(), key=lambda failure: (failure.since, failure.claim.uid)))


@dataclass(frozen=True, slots=True)
class AllocatedDevice:
    """One result of the allocation: which request got which device."""

    request: str
    device: str


@dataclass(frozen=True, slots=True)
class AllocatedClaim:
    """A claim with its devices on this node."""

    key: ClaimKey
    devices: tuple[AllocatedDevice, ...]


def key_of(claim: Mapping[str, Any]) -> ClaimKey:
    """The key of a ResourceClaim object."""
    metadata = claim["metadata"]
    return ClaimKey(namespace=metadata["namespace"], name=metadata["name"], uid=metadata["uid"])


def allocated_here(claim: Mapping[str, Any], *, node: str) -> AllocatedClaim | None:
    """The claim's devices of our driver on that node; None when it has none."""
    allocation = (claim.get("status") or {}).get("allocation") or {}
    results = (allocation.get("devices") or {}).get("results") or []
    devices = tuple(
        AllocatedDevice(request=result["request"], device=result["device"])
        for result in results
        if result.get("driver") == DRIVER and result.get("pool") == node
    )
    return AllocatedClaim(key=key_of(claim), devices=devices) if devices else None
