"""The placement core's state, kept in step with the cluster: who holds which placement.

The state is changed by difference from one snapshot to the next, and built anew only when the published GPUs
change.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from tessera.metrics import registry as metrics
from tessera.placement.state import ClusterState
from tessera.scheduler.inventory import Inventory
from tessera.scheduler.objects import Claim, Pod
from tessera.scheduler.snapshot import Snapshot
from tessera.scheduler.takeback import pinned_node

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Holder:
    """A claim that holds a device; its text names both in messages."""

    claim_uid: str
    claim: str
    pool: str
    device: str

    def __str__(self) -> str:
        return f"{self.device} (claim {self.claim})"


class Occupancy:
    """The cluster state that belongs to the last snapshot."""

    def __init__(self) -> None:
        self.state = ClusterState()
        self.inventory = Inventory()
        self.releases = 0
        """Grows whenever room may have become free: what did not fit may be tried again."""
        self._reported: set[Holder] = set()

    def follow(self, snapshot: Snapshot) -> bool:
        """Bring the state up to the snapshot. Returns whether the published GPUs changed (so that the state
        is a new one).
        """
        rebuilt = snapshot.inventory is not self.inventory
        if rebuilt:
            self.inventory = snapshot.inventory
            self.state = ClusterState()
            for gpu in snapshot.inventory.gpus:
                self.state.add_gpu(gpu.name, node=gpu.node, geometry=gpu.geometry)
            self.releases += 1
        wanted = set(_holders(snapshot.claims.values()))
        for holder in [h for h in self.state.owners() if h not in wanted]:
            self.state.release(holder)
            self.releases += 1
        # In a fixed order, so that of two overlapping claims always the same one is called the intruder.
        for holder in sorted(wanted, key=lambda h: (h.pool, h.device, h.claim)):
            if self.state.holds(holder) is None:
                self._occupy(holder)
        return rebuilt

    def _occupy(self, holder: Holder) -> None:
        device = self.inventory.device(holder.pool, holder.device)
        if device is None:
            self._report(holder, "points to a device that is not published")
            return
        gpu = self.state.gpu(device.gpu)
        assert gpu is not None
        if not gpu.geometry.fits(gpu.key, device.index):
            self._report(holder, f"overlaps another claim on {gpu.name}; delete one of them")
        self.state.occupy(device.gpu, device.index, owner=holder, force=True)

    def _report(self, holder: Holder, what: str) -> None:
        if holder not in self._reported:
            self._reported.add(holder)
            _log.error("claim %s with device %s %s", holder.claim, holder.device, what)
            metrics.ALLOCATION_DEFECTS_TOTAL.inc()


def _holders(claims: Iterable[Claim]) -> Iterable[Holder]:
    for claim in claims:
        if claim.allocated is not None:
            for pool, device in claim.allocated.devices:
                yield Holder(claim.uid, "/".join(claim.key), pool, device)


def expected_node(pod: Pod, snapshot: Snapshot) -> str:
    """The node that an unbound pod's allocated claims will bring it to, or "". A gated pod that only shares
    somebody else's claim is not on its way yet.
    """
    for entry in pod.claims:
        claim = snapshot.claim_of(pod, entry.claim)
        if claim is None or not claim.holds_ours or (pod.gated and pod.uid not in claim.reserved_for):
            continue
        if node := pinned_node(claim.allocated):
            return node
    return ""
