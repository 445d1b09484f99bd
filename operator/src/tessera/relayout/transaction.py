"""Changing layouts as one transaction over all the GPUs that a plan names.

    apply:    journal both layouts -> destroy what goes, on every GPU -> create what comes -> verify -> clear
    undo:     the same walk towards the old layout
    recover:  after a kill; keeps the new layout when it is complete, else undoes

There is one walk, `settling.settle`, for both directions. Because in it everything goes before anything
comes, a way out is always left: when a process has started on a new instance, which then may not be
destroyed, going forward needs creations only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tessera.api.errors import TesseraError
from tessera.gpu.driver import Driver
from tessera.gpu.faults import NVMLFault
from tessera.gpu.profiles import GPUModel
from tessera.relayout.errors import LayoutBlocked, LayoutNotApplied
from tessera.relayout.journal import Entry, Journal, Placed, Side
from tessera.relayout.plan import Change, Standing
from tessera.relayout.settling import Settled, is_at, new_in_use, settle, stop_if, verify

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GPUPlan:
    """What becomes of one GPU: its MIG mode and its instances. `pids` hold the GPU as a whole."""

    index: int
    uuid: str
    model: GPUModel
    mig_now: bool
    mig_then: bool
    change: Change
    pids: tuple[int, ...] = ()
    mode_pending: bool = False
    """Whether a switch of MIG mode waits for a reset of the GPU."""

    @property
    def is_empty(self) -> bool:
        """Whether the GPU is as asked already."""
        return self.mig_now == self.mig_then and self.change.is_empty

    def obstacles(self) -> tuple[str, ...]:
        """What forbids the change now, one sentence each."""
        found = [
            f"GPU {self.index}: {standing.place} has to go and holds {standing.obstacle}"
            for standing in self.change.blocked
        ]
        if self.mig_now != self.mig_then and self.pids:
            holders = ", ".join(map(str, self.pids))
            found.append(f"GPU {self.index}: MIG mode has to change and the GPU is held by process {holders}")
        if self.mode_pending:
            found.append(f"GPU {self.index}: a switch of its MIG mode waits for a reset of the GPU")
        return tuple(found)

    def entry(self) -> Entry:
        """The journal's entry of this change."""
        kept = [_placed(standing) for standing in self.change.kept]
        old = [_placed(standing) for standing in (*self.change.completed, *self.change.destroyed)]
        new = [Placed(s.profile, s.profile_id, s.start, s.size) for s in self.change.completed]
        for place in self.change.created:
            profile = self.model.profile(place.profile)
            new.append(Placed(profile.name, profile.id, place.start, profile.memory_slices))
        return Entry(
            gpu_uuid=self.uuid,
            index=self.index,
            old=Side(mig=self.mig_now, instances=(*kept, *old)),
            new=Side(mig=self.mig_then, instances=(*kept, *new)),
        )


async def apply(
    driver: Driver,
    plans: Sequence[GPUPlan],
    journal: Journal,
    *,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Carry the plans out, all or none. The caller holds the journal's lock and has recovered before.

    Raises `LayoutBlocked` before any change; `LayoutNotApplied` when a step failed or `stopped` said so,
    after the old layout is back, or naming what must be done for it.
    """
    plans = [plan for plan in plans if not plan.is_empty]
    obstacles = [obstacle for plan in plans for obstacle in plan.obstacles()]
    if obstacles:
        raise LayoutBlocked(
            "the layout cannot be changed now",
            "; ".join(obstacles),
            _remedy(plans),
        )
    if not plans:
        return
    entries = tuple(plan.entry() for plan in plans)
    kept = {uuid for plan in plans for standing in plan.change.kept for uuid in standing.uuids}
    journal.write(entries)
    try:
        await settle(driver, entries, Settled.NEW, stopped=stopped)
        await verify(driver, entries, Settled.NEW, kept=kept)
        stop_if(stopped)
        journal.clear()
    except (NVMLFault, TesseraError) as error:
        log.info("the change failed and is undone: %s", error)
        raise await _undone(driver, entries, journal, error) from error


def _remedy(plans: Sequence[GPUPlan]) -> str:
    pending = next((plan for plan in plans if plan.mode_pending), None)
    if pending is not None:
        return f"Reset it while nothing uses it: nvidia-smi --gpu-reset -i {pending.index}"
    if any(pid for plan in plans for standing in plan.change.blocked for pid in standing.pids):
        return "End these processes or wait for them, or ask for a layout that keeps their instances"
    if any(plan.change.blocked for plan in plans):
        return "Destroy them with nvidia-smi mig -dci, or ask for a layout without their place"
    return "End these processes or wait for them"


async def _undone(
    driver: Driver, entries: tuple[Entry, ...], journal: Journal, error: Exception
) -> LayoutNotApplied:
    """Bring the old layout back; returns the error that says what happened and what is there now."""
    try:
        settled = await recover(driver, journal, finish_new=False)
    except (NVMLFault, TesseraError) as second:
        return LayoutNotApplied(
            "the layout was not applied",
            f"{_plain(error)}; and the former layout could not be restored: {_plain(second)}",
            f"The next tessera gpu command tries again; what is owed stands in {journal.path}",
        )
    if settled is Settled.NEW:
        return LayoutNotApplied(
            "the layout was applied after an error",
            _plain(error),
            "A process runs in a new instance already, so the new layout was completed instead of undone",
        )
    return LayoutNotApplied("the layout was not applied", _plain(error), "The former layout is back")


async def recover(driver: Driver, journal: Journal, *, finish_new: bool = True) -> Settled | None:
    """Settle an unfinished change; None when there is none. The caller holds the journal's lock.

    The new layout stays when it is complete (with `finish_new`), or when a process runs in an instance that
    would have to go; else the old one is restored. Raises `NVMLFault` or `TesseraError`, and the journal
    stays for another try.
    """
    entries = journal.read()
    if entries is None:
        return None
    if finish_new and await is_at(driver, entries, Settled.NEW):
        side = Settled.NEW
    else:
        side = Settled.NEW if await new_in_use(driver, entries) else Settled.OLD
        await settle(driver, entries, side)
        await verify(driver, entries, side)
    journal.clear()
    return side


def _placed(standing: Standing) -> Placed:
    whole = standing.compute_instances > 0
    return Placed(standing.profile, standing.profile_id, standing.start, standing.size, whole=whole)


def _plain(error: Exception) -> str:
    """The error without a remedy of its own that speaks of the agent."""
    if isinstance(error, NVMLFault):
        detail = f" ({error.detail})" if error.detail else ""
        return f"{error.call} on {error.target}: {error.symbol}, {error.meaning}{detail}"
    return " ".join(str(error).split())
