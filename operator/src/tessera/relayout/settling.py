"""The walk that brings GPUs to one side of a journal, the old layout or the new one.

It touches only instances that the journal names, and asks the driver what is there before each part, so it
may be cut off anywhere and begun again. Everything goes before anything comes, on all GPUs: once an instance
of one side exists, whatever of the other had to go is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum

from tessera.api.errors import TesseraError
from tessera.gpu.driver import GPU, Driver, GPUInstance
from tessera.gpu.faults import RESET_REQUIRED, NVMLFault
from tessera.relayout.errors import JournalInTheWay, LayoutBlocked, LayoutNotApplied
from tessera.relayout.journal import Entry, Placed, Side
from tessera.relayout.reading import pids_in


class Settled(StrEnum):
    """Which layout an unfinished change ended in."""

    OLD = "old"
    NEW = "new"


class Interrupted(TesseraError):
    """The user wants the change to end; raised between two steps."""


async def settle(
    driver: Driver,
    entries: Sequence[Entry],
    side: Settled,
    *,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Bring every GPU to that side: first everything that goes, on all GPUs, then everything that comes."""
    for entry, gpu in await _gpus(driver, entries):
        goal, other = _sides(entry, side)
        for instance in gpu.instances:
            if _target(instance, goal) is None and _target(instance, other) is not None:
                await _destroy(driver, entry, instance, stopped)
        if (gpu.mig_current, gpu.mig_pending) != (goal.mig, goal.mig):
            stop_if(stopped)
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
        stop_if(stopped)
        number = await driver.create_gpu_instance(
            entry.gpu_uuid, profile_id=placed.profile_id, start=placed.start, size=placed.size
        )
    else:
        number = here.id
    compute = here.compute if here is not None else ()
    if placed.whole and not compute:
        stop_if(stopped)
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
        stop_if(stopped)
        await driver.destroy_compute_instance(
            entry.gpu_uuid, gpu_instance_id=instance.id, compute_instance_id=compute.id
        )
    stop_if(stopped)
    await driver.destroy_gpu_instance(entry.gpu_uuid, gpu_instance_id=instance.id)


async def _switch(driver: Driver, entry: Entry, *, enabled: bool) -> None:
    """Switch MIG mode. NVML reports what hinders it as a status beside a call that succeeds."""
    status = await driver.set_mig_mode(entry.gpu_uuid, enabled)
    if status == RESET_REQUIRED:
        word = "enabled" if enabled else "disabled"
        raise LayoutNotApplied(
            f"MIG mode of GPU {entry.index} cannot be {word} at once",
            "this generation needs a reset of the GPU for it",
            f"While nothing uses the GPU: nvidia-smi -i {entry.index} -mig {int(enabled)}, then "
            f"nvidia-smi --gpu-reset -i {entry.index}, then this command again",
        )
    if status:
        raise NVMLFault(status, call="nvmlDeviceSetMigMode", target=entry.gpu_uuid)


async def verify(
    driver: Driver, entries: Sequence[Entry], side: Settled, *, kept: set[str] | None = None
) -> None:
    """Ask the driver whether that side is there now, kept instances untouched."""
    present = set()
    for entry, gpu in await _gpus(driver, entries):
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


async def is_at(driver: Driver, entries: Sequence[Entry], side: Settled) -> bool:
    """Whether every GPU is at that side already."""
    return all(_stands(gpu, *_sides(entry, side)) for entry, gpu in await _gpus(driver, entries))


async def new_in_use(driver: Driver, entries: Sequence[Entry]) -> bool:
    """Whether a process runs in an instance that only the new layout has."""
    for entry, gpu in await _gpus(driver, entries):
        for instance in gpu.instances:
            before = _target(instance, entry.old)
            is_new = _target(instance, entry.new) is not None and (before is None or not before.whole)
            if is_new and await pids_in(driver, instance):
                return True
    return False


async def _gpus(driver: Driver, entries: Sequence[Entry]) -> list[tuple[Entry, GPU]]:
    """The entries with their GPUs now. Raises `JournalInTheWay` when one is gone or does not answer."""
    present = {gpu.uuid: gpu for gpu in (await driver.inventory()).gpus}
    found = []
    for entry in entries:
        gpu = present.get(entry.gpu_uuid)
        if gpu is None or gpu.fault:
            raise JournalInTheWay(
                f"GPU {entry.index} ({entry.gpu_uuid}) cannot be brought to a known layout",
                gpu.fault if gpu is not None else "the driver does not list it",
                "Reset the GPU or reboot, then try again; remove the journal when the GPU is gone for good",
            )
        found.append((entry, gpu))
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


def stop_if(stopped: Callable[[], bool]) -> None:
    """Raise `Interrupted` when the user wants the change to end."""
    if stopped():
        raise Interrupted("the change was interrupted")
