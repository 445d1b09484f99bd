"""The placement core's state, kept in step with the cluster: who holds which placement.

The state is changed by difference from one snapshot to the next, and built anew only when the published GPUs
change. Looked at are the claims that have changed, and whoever took or gave back something in the last round:
a promise that was written is in the snapshot by now, and one that was not must go.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from dataclasses import dataclass

from tessera.metrics import registry as metrics
from tessera.placement.state import ClusterState
from tessera.scheduler.changes import Changes
from tessera.scheduler.inventory import Inventory
from tessera.scheduler.objects import Claim, Key, Pod
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


class WatchedState(ClusterState):
    """A cluster state that remembers who took or gave back anything, so that what a round has tried or
    promised can be compared with what came of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.touched: dict[Hashable, None] = {}

    def occupy_at(self, number: int, index: int, owner: Hashable, *, force: bool = False) -> None:
        """As in a cluster state."""
        self.touched[owner] = None
        super().occupy_at(number, index, owner, force=force)

    def release(self, owner: Hashable) -> None:
        """As in a cluster state."""
        self.touched[owner] = None
        super().release(owner)


class Occupancy:
    """The cluster state that belongs to the last snapshot."""

    def __init__(self) -> None:
        self.state = WatchedState()
        self.inventory = Inventory()
        self.releases = 0
        """Grows whenever room may have become free: what did not fit may be tried again."""
        self._of_claim: dict[Key, tuple[Holder, ...]] = {}
        self._holders: dict[Holder, Key] = {}
        self._gone: dict[Holder, tuple[Key, float]] = {}
        self._counter_sets: dict[str, list[str]] = {}
        """Of the GPUs of each node."""
        self._reported: set[Holder] = set()

    def follow(self, snapshot: Snapshot, changes: Changes) -> bool:
        """Bring the state up to the snapshot. Returns whether the published GPUs changed (so that the state
        is a new one).
        """
        doubtful = dict(self.state.touched)
        for key in changes.claims:
            before = self._of_claim.pop(key, ())
            claim = snapshot.claims.get(key)
            now = () if claim is None else _holders(claim)
            if now:
                self._of_claim[key] = now
            for holder in before:
                del self._holders[holder]
                if holder not in now:
                    self._gone.pop(holder, None)
            self._holders |= dict.fromkeys(now, key)
            doubtful |= dict.fromkeys((*before, *now))
        rebuilt = snapshot.inventory is not self.inventory
        if rebuilt:
            self.inventory = snapshot.inventory
            self.state = WatchedState()
            self._counter_sets = {}
            for gpu in snapshot.inventory.gpus:
                self.state.add_gpu(gpu.name, node=gpu.node, geometry=gpu.geometry)
                self._counter_sets.setdefault(gpu.node, []).append(gpu.name.rpartition("/")[2])
            self.releases += 1
            doubtful = dict.fromkeys(self._holders)
        entering: list[Holder] = []
        for owner in doubtful:
            held = self.state.holds(owner) is not None
            if isinstance(owner, Holder) and owner in self._holders:
                if not held:
                    entering.append(owner)
            elif held:
                self.state.release(owner)
                self.releases += 1
        # In a fixed order, so that of two overlapping claims always the same one is called the intruder.
        for holder in sorted(entering, key=lambda h: (h.pool, h.device, h.claim)):
            self._occupy(holder, now=snapshot.now)
        self.state.touched.clear()
        return rebuilt

    @property
    def gone(self) -> dict[Key, float]:
        """Claims with a device that its GPU does not offer any more, though it offers others, and when the
        last such device was first missed (seconds since 1970). An agent offers what it has prepared, so this
        was not.
        """
        return dict(self._gone.values())

    def _occupy(self, holder: Holder, *, now: float) -> None:
        device = self.inventory.device(holder.pool, holder.device)
        here = self._counter_sets.get(holder.pool, ())
        if device is None and any(holder.device.startswith(f"{counter_set}-") for counter_set in here):
            self._gone.setdefault(holder, (self._holders[holder], now))
        else:
            self._gone.pop(holder, None)
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


def _holders(claim: Claim) -> tuple[Holder, ...]:
    if claim.allocated is None:
        return ()
    return tuple(Holder(claim.uid, "/".join(claim.key), *at) for at in dict.fromkeys(claim.allocated.devices))


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
