"""What a ResourceClaim asks of this node: its allocated devices of our driver.

The kubelet names a claim by namespace, name and UID; what was allocated stands in the claim's status. The
UID decides: a claim of the same name made again is another claim.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tessera.api.names import DRIVER
from tessera.api.reasons import Reason


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
