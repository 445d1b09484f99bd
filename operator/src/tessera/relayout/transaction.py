"""Changing layouts as one transaction over all the GPUs that a plan names.

    apply:    journal both layouts -> destroy what goes, on every GPU -> create what comes -> verify -> clear
    undo:     the same walk towards the old layout
    recover:  after a kill; keeps the new layout when it is complete, else undoes

There is one walk, `_settle`: it brings the GPUs to one side of the journal and touches only instances that
the journal names, so it may be cut off anywhere and begun again. Everything goes before anything comes: once
an instance of the new layout exists, whatever had to go is gone. That is why a way out is always left, also
when a process has started on a new instance, which then may not be destroyed: forward needs creations only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tessera.api.errors import TesseraError
from tessera.gpu.driver import GPU, Driver, GPUInstance
from tessera.gpu.faults import NVMLFault
from tessera.gpu.profiles import GPUModel
from tessera.relayout.errors import JournalInTheWay, LayoutBlocked, LayoutNotApplied
from tessera.relayout.journal import Entry, Journal, Placed, Side
from tessera.relayout.plan import Change, Standing
from tessera.relayout.reading import pids_in

_RESET_REQUIRED = 16

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


class Settled(StrEnum):
    """Which layout an unfinished change ended in."""

    OLD = "old"
    NEW = "new"


class Interrupted(TesseraError):
    """The user wants the change to end; raised between two steps."""


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
        await _settle(driver, entries, Settled.NEW, stopped=stopped)
        await _verify(driver, entries, Settled.NEW, kept=kept)
        _stop_if(stopped)
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
    if finish_new and await _is_at(driver, entries, Settled.NEW):
        side = Settled.NEW
    else:
        side = Settled.NEW if await _new_in_use(driver, entries) else Settled.OLD
        await _settle(driver, entries, side)
        await _verify(driver, entries, side)
    journal.clear()
    return side


async def _settle(
    driver: Driver,
    entries: Sequence[Entry],
    side: Settled,
    *,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Bring every GPU to that side: first everything that goes, on all GPUs, then everything that comes."""
    for entry in entries:
        goal, other = _sides(entry, side)
        gpu = await _gpu(driver, entry)
        for instance in gpu.instances:
            if _target(instance, goal) is None and _target(instance, other) is not None:
                await _destroy(driver, entry, instance, stopped)
        if (gpu.mig_current, gpu.mig_pending) != (goal.mig, goal.mig):
            _stop_if(stopped)
            await _switch(driver, entry, enabled=goal.mig)
    for entry in entries:
        goal, _ = _sides(entry, side)
        present = await driver.instances(entry.gpu_uuid) if goal.instances else ()
        for placed in goal.instances:
            here = [instance for instance in present if _same_place(instance, placed)]
            await _make(driver, entry, placed, here[0] if here else None, stopped)


async def _make(
    driver: Driver,
    entry: Entry,
    placed: Placed,
    here: GPUInstance | None,
    stopped: Callable[[], bool],
) -> None:
    """Make the instance as the journal has it, from nothing, or from what stands there half made."""
    if here is None:
        _stop_if(stopped)
        number = await driver.create_gpu_instance(
            entry.gpu_uuid, profile_id=placed.profile_id, start=placed.start, size=placed.size
        )
    else:
        number = here.id
    compute = here.compute if here is not None else ()
    if placed.whole and not compute:
        _stop_if(stopped)
        await driver.create_compute_instance(entry.gpu_uuid, gpu_instance_id=number)
    if not placed.whole:
        for item in compute:
            await driver.destroy_compute_instance(
                entry.gpu_uuid, gpu_instance_id=number, compute_instance_id=item.id
            )


async def _destroy(driver: Driver, entry: Entry, instance: GPUInstance, stopped: Callable[[], bool]) -> None:
    """Destroy an instance in which no process runs; the driver itself refuses one that has just begun."""
    pids = await pids_in(driver, instance)
    if pids:
        raise LayoutBlocked(
            f"GPU {entry.index}: the instance at {instance.start} cannot be destroyed",
            f"process {', '.join(map(str, pids))} runs in it",
            "End it or wait for it",
        )
    for compute in instance.compute:
        _stop_if(stopped)
        await driver.destroy_compute_instance(
            entry.gpu_uuid, gpu_instance_id=instance.id, compute_instance_id=compute.id
        )
    _stop_if(stopped)
    await driver.destroy_gpu_instance(entry.gpu_uuid, gpu_instance_id=instance.id)


async def _switch(driver: Driver, entry: Entry, *, enabled: bool) -> None:
    """Switch MIG mode. NVML reports what hinders it as a status beside a call that succeeds."""
    status = await driver.set_mig_mode(entry.gpu_uuid, enabled)
    if status == _RESET_REQUIRED:
        word = "enabled" if enabled else "disabled"
        raise LayoutNotApplied(
            f"MIG mode of GPU {entry.index} cannot be {word} at once",
            "this generation needs a reset of the GPU for it",
            f"While nothing uses the GPU: nvidia-smi -i {entry.index} -mig {int(enabled)}, then "
            f"nvidia-smi --gpu-reset -i {entry.index}, then this command again",
        )
    if status:
        raise NVMLFault(status, call="nvmlDeviceSetMigMode", target=entry.gpu_uuid)


async def _verify(
    driver: Driver, entries: Sequence[Entry], side: Settled, *, kept: set[str] | None = None
) -> None:
    """Ask the driver whether that side is there now, kept instances untouched."""
    present = set()
    for entry in entries:
        gpu = await _gpu(driver, entry)
        present |= {compute.uuid for instance in gpu.instances for compute in instance.compute}
        if not _stands(gpu, *_sides(entry, side)):
            there = ", ".join(f"profile {i.profile_id} at {i.start}" for i in gpu.instances) or "no instance"
            raise LayoutNotApplied(
                f"GPU {entry.index} is not as it should be",
                f"after the last step it has {there} and MIG mode {'on' if gpu.mig_current else 'off'}",
                "Another program changes its instances; stop that one first",
            )
    if kept is not None and not kept <= present:
        raise LayoutNotApplied(
            "an instance that was to be kept is gone",
            ", ".join(sorted(kept - present)),
            "Another program changes the instances; stop that one first",
        )


async def _is_at(driver: Driver, entries: Sequence[Entry], side: Settled) -> bool:
    for entry in entries:
        if not _stands(await _gpu(driver, entry), *_sides(entry, side)):
            return False
    return True


async def _new_in_use(driver: Driver, entries: Sequence[Entry]) -> bool:
    """Whether a process runs in an instance that only the new layout has."""
    for entry in entries:
        for instance in (await _gpu(driver, entry)).instances:
            before = _target(instance, entry.old)
            is_new = _target(instance, entry.new) is not None and (before is None or not before.whole)
            if is_new and await pids_in(driver, instance):
                return True
    return False


async def _gpu(driver: Driver, entry: Entry) -> GPU:
    """The entry's GPU now. Raises `JournalInTheWay` when it is gone or does not answer."""
    found = next((gpu for gpu in (await driver.inventory()).gpus if gpu.uuid == entry.gpu_uuid), None)
    if found is None or found.fault:
        raise JournalInTheWay(
            f"GPU {entry.index} ({entry.gpu_uuid}) cannot be brought to a known layout",
            found.fault if found is not None else "the driver does not list it",
            "Reset the GPU or reboot, then try again; remove the journal when the GPU is gone for good",
        )
    return found


def _stands(gpu: GPU, goal: Side, other: Side) -> bool:
    if gpu.mig_current != goal.mig:
        return False
    complete = all(
        any(_same_place(i, placed) and len(i.compute) == int(placed.whole) for i in gpu.instances)
        for placed in goal.instances
    )
    left_over = any(
        _target(instance, other) is not None and _target(instance, goal) is None for instance in gpu.instances
    )
    return complete and not left_over


def _sides(entry: Entry, side: Settled) -> tuple[Side, Side]:
    """The side to be reached, and the other one."""
    return (entry.new, entry.old) if side is Settled.NEW else (entry.old, entry.new)


def _target(instance: GPUInstance, side: Side) -> Placed | None:
    """What that side has at the instance's place."""
    return next((placed for placed in side.instances if _same_place(instance, placed)), None)


def _same_place(instance: GPUInstance, placed: Placed) -> bool:
    return (instance.profile_id, instance.start) == (placed.profile_id, placed.start)


def _placed(standing: Standing) -> Placed:
    whole = standing.compute_instances > 0
    return Placed(standing.profile, standing.profile_id, standing.start, standing.size, whole=whole)


def _stop_if(stopped: Callable[[], bool]) -> None:
    if stopped():
        raise Interrupted("the change was interrupted")


def _plain(error: Exception) -> str:
    """The error without a remedy of its own that speaks of the agent."""
    if isinstance(error, NVMLFault):
        detail = f" ({error.detail})" if error.detail else ""
        return f"{error.call} on {error.target}: {error.symbol}, {error.meaning}{detail}"
    return " ".join(str(error).split())
