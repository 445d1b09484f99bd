"""What is wrong with the node's GPUs, and what a GPU that does not answer was before.

Three sources, from the plainest to the finest: a call that fails (the GPU is lost, or gone from the driver's
list), what the driver says that the GPU needs before it can be used again, and the Xids that it has reported
(`tessera.gpu.xids` says what each means). What they amount to is an `Ailment`; `devices` makes a taint of it.

A GPU that does not answer stays published as it was at the last good look: only a device that is still there
can carry the taint by which Kubernetes ends the pods on it. What the driver merely cannot say now (a call
fails, the GPU is missing for a moment) keeps new work away and ends nothing.

An ailment is over when its source says so: the GPU answers, its driver needs nothing any more. A driver that
does not say what it needs (before 565) tells a reset by what every reset does: the GPU's instances are gone.
The same ends the harm to one instance, which is why the agent takes such a slice away as soon as no claim
holds it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from tessera.gpu.driver import GPU, Driver, GPUInstance, Inventory, Xid
from tessera.gpu.faults import NVMLFault
from tessera.gpu.xids import Harm, harm_of_action, harm_of_xid, words_of_action
from tessera.kube.conditions import timestamp
from tessera.metrics.registry import XIDS_TOTAL

log = logging.getLogger(__name__)


XID_CAUSE = "xid-"
"""Beginning of the cause that is an Xid; its number follows."""


@dataclass(frozen=True, slots=True)
class Ailment:
    """One thing that is wrong. `cause` is a word for machines: the value of the taint."""

    cause: str
    message: str
    """What, since when, and what to do."""
    harm: Harm
    mask: int | None = None
    """The memory slices that it concerns; None: all."""

    def concerns(self, mask: int) -> bool:
        """Whether these memory slices are among them."""
        return self.mask is None or bool(self.mask & mask)


Ailments = Mapping[str, tuple[Ailment, ...]]
"""By GPU UUID; of healthy GPUs there is none."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The GPUs, those that do not answer as they were before, and what is wrong with them."""

    inventory: Inventory
    ailments: Ailments


@dataclass(frozen=True, slots=True)
class Struck:
    """An instance whose device had the taint of an Xid; `everywhere`: as all devices of its GPU."""

    gpu_uuid: str
    mig_uuid: str
    mask: int
    """Its memory slices."""
    xid: int
    everywhere: bool
    since: datetime | None


@dataclass(frozen=True, slots=True)
class _Note:
    """An Xid that did harm, until that is over. `standing`: the MIG UUIDs whose end proves it."""

    xid: int
    harm: Harm
    since: datetime
    standing: frozenset[str]
    mask: int | None

    def holds(self, gpu: GPU) -> bool:
        """Whether the harm is still there; the GPU answers."""
        if self.mask is None and gpu.recovery_action is not None:
            return harm_of_action(gpu.recovery_action) is not Harm.NONE
        return not self.standing or bool(self.standing & _uuids(gpu.instances))


class Health:
    """One node's GPUs over time. `clock` counts seconds and never goes back."""

    def __init__(
        self,
        *,
        grace_seconds: float,
        may_shrink: bool = False,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`grace_seconds`: how long a GPU must be gone from the driver's list to count as lost. `may_shrink`:
        it never does, but was taken out, as by a smaller --simulate-count.
        """
        self._grace_seconds = grace_seconds
        self._may_shrink = may_shrink
        self._clock = clock
        self._now = now
        self._known: dict[str, GPU] = {}
        self._missing_since: dict[str, float] = {}
        self._lost: set[str] = set()
        self._heard: list[tuple[Xid, datetime]] = []
        self._unheard: Mapping[str, str] = {}
        self._notes: dict[str, dict[tuple[int, int | None], _Note]] = {}

    def remember(self, gpus: Iterable[GPU], struck: Iterable[Struck]) -> None:
        """The GPUs and the Xids that an agent before this one has told. What is seen counts more, and what is
        over is forgotten at the next look.
        """
        for gpu in gpus:
            self._known.setdefault(gpu.uuid, gpu)
        for one in struck:
            whole = one.everywhere and harm_of_xid(one.xid, of_instance=False) is not Harm.NONE
            mask = None if whole else one.mask
            notes = self._notes.setdefault(one.gpu_uuid, {})
            before = notes.get((one.xid, mask))
            notes[one.xid, mask] = _Note(
                xid=one.xid,
                harm=harm_of_xid(one.xid, of_instance=not whole),
                since=one.since or self._now(),
                standing=(before.standing if before else frozenset()) | {one.mig_uuid},
                mask=mask,
            )

    async def listen(self, driver: Driver) -> None:
        """Take in what the driver has reported.

        That it cannot be asked is told of each GPU, and is no reason not to look at them.
        """
        try:
            events = await driver.events()
        except NVMLFault as fault:
            log.warning("the driver's events cannot be read, it will be tried again: %s", fault)
            self._unheard = dict.fromkeys(self._known, str(fault))
            return
        self._unheard = events.unheard
        for xid in events.xids:
            XIDS_TOTAL.labels(str(xid.xid), xid.gpu_uuid).inc(xid.count)
            log.warning("GPU %s: %d times Xid %d", xid.gpu_uuid, xid.count, xid.xid)
            if harm_of_xid(xid.xid, of_instance=xid.gpu_instance_id is not None) is not Harm.NONE:
                self._heard.append((xid, self._now()))

    def judge(self, inventory: Inventory) -> Diagnosis:
        """What is wrong at this look."""
        gpus = self._complete(inventory)
        self._note(gpus)
        self._forget(gpus)
        found = {gpu.uuid: tuple(self._ailments(gpu)) for gpu in gpus}
        return Diagnosis(
            inventory=replace(inventory, gpus=tuple(gpus)),
            ailments={uuid: ailments for uuid, ailments in found.items() if ailments},
        )

    def _complete(self, inventory: Inventory) -> list[GPU]:
        """The GPUs, with those that do not answer or are gone as they were at the last good look."""
        gpus: list[GPU] = []
        for gpu in inventory.gpus:
            self._missing_since.pop(gpu.uuid, None)
            if gpu.fault and gpu.uuid in self._known:
                before = self._known[gpu.uuid]
                gpu = replace(before, index=gpu.index, fault=gpu.fault, lost=gpu.lost)
            elif gpu.model is not None and not gpu.fault:
                self._known[gpu.uuid] = gpu
            gpus.append(gpu)
        present = {gpu.uuid for gpu in gpus}
        if self._may_shrink:
            self._known = {uuid: gpu for uuid, gpu in self._known.items() if uuid in present}
        return gpus + [self._missing(gpu) for uuid, gpu in self._known.items() if uuid not in present]

    def _missing(self, gpu: GPU) -> GPU:
        since = self._missing_since.setdefault(gpu.uuid, self._clock())
        fault = (
            "the driver does not list this GPU any more; remedy: look for Xid 79 in dmesg, reboot the node, "
            "or take the GPU out for good by rebooting without it"
        )
        return replace(gpu, fault=fault, lost=self._clock() - since >= self._grace_seconds)

    def _note(self, gpus: Iterable[GPU]) -> None:
        by_uuid = {gpu.uuid: gpu for gpu in gpus}
        heard, self._heard = self._heard, []
        for xid, at in heard:
            gpu = by_uuid.get(xid.gpu_uuid)
            note = _note_of(xid, gpu, at) if gpu is not None else None
            if note is not None:
                notes = self._notes.setdefault(xid.gpu_uuid, {})
                notes.setdefault((xid.xid, note.mask), note)

    def _forget(self, gpus: Iterable[GPU]) -> None:
        """Drop the notes of harm that is over."""
        for gpu in gpus:
            if gpu.lost:
                self._lost.add(gpu.uuid)
            if gpu.fault:
                continue
            if gpu.uuid in self._lost:  # nothing but a reset brings a lost GPU back
                self._lost.remove(gpu.uuid)
                self._notes.pop(gpu.uuid, None)
            notes = self._notes.get(gpu.uuid, {})
            self._notes[gpu.uuid] = {key: note for key, note in notes.items() if note.holds(gpu)}

    def _ailments(self, gpu: GPU) -> Iterable[Ailment]:
        notes = self._notes.get(gpu.uuid, {}).values()
        after = " and ".join(f"after {_words(note)}" for note in notes if note.mask is None)
        if gpu.fault:
            yield Ailment(
                cause="lost" if gpu.lost else "unreachable",
                message=f"{after}: {gpu.fault}" if after else gpu.fault,
                harm=Harm.RESET if gpu.lost else Harm.DRAIN,
            )
            return
        action = gpu.recovery_action
        if action is not None and (harm := harm_of_action(action)) is not Harm.NONE:
            asked = ", ".join(filter(None, [words_of_action(action), after]))
            told = f"the driver asks to {asked}; {_remedy(gpu, harm)}"
            yield Ailment(cause=f"recovery-action-{action}", message=told, harm=harm)
        for note in notes:
            if note.mask is not None or gpu.recovery_action is None:
                yield Ailment(
                    cause=f"{XID_CAUSE}{note.xid}",
                    message=f"{_words(note)}; {_remedy(gpu, note.harm)}",
                    harm=note.harm,
                    mask=note.mask,
                )
        if gpu.uuid in self._unheard:
            told = f"its Xids cannot be read: {self._unheard[gpu.uuid]}"
            yield Ailment(cause="unheard", message=told, harm=Harm.NONE)


def how_to_reset(gpu: GPU) -> str:
    """What a person does to reset the GPU."""
    if gpu.virtualization:
        return "reboot this virtual machine, which cannot reset its GPU itself"
    return f"run nvidia-smi -i {gpu.index} --gpu-reset, or reboot the node"


def _remedy(gpu: GPU, harm: Harm) -> str:
    if harm is Harm.INSTANCE:
        return "its slice is taken away when its pod has ended, and is cut anew"
    if harm is Harm.DRAIN:
        return f"remedy: let its pods end, then {how_to_reset(gpu)}"
    return f"its pods are ended; remedy: {how_to_reset(gpu)}"


def _words(note: _Note) -> str:
    return f"Xid {note.xid} at {timestamp(note.since)}"


def _note_of(xid: Xid, gpu: GPU, at: datetime) -> _Note | None:
    """None when the instance that it names is gone already."""
    harm = harm_of_xid(xid.xid, of_instance=xid.gpu_instance_id is not None)
    if harm is not Harm.INSTANCE:
        return _Note(xid.xid, harm, at, standing=_uuids(gpu.instances), mask=None)
    for instance in gpu.instances:
        if instance.id == xid.gpu_instance_id:
            return _Note(xid.xid, harm, at, standing=_uuids([instance]), mask=instance.mask)
    return None


def _uuids(instances: Iterable[GPUInstance]) -> frozenset[str]:
    return frozenset(compute.uuid for instance in instances for compute in instance.compute)


def healthy(ailments: Iterable[Ailment]) -> bool:
    """Whether a GPU with these may take new work, on one of its slices at least."""
    return all(ailment.mask is not None or ailment.harm is Harm.NONE for ailment in ailments)


def struck(gpu: GPU, ailments: Iterable[Ailment]) -> tuple[GPUInstance, ...]:
    """The instances that an ailment of their own concerns."""
    masks = [ailment.mask for ailment in ailments if ailment.mask is not None]
    return tuple(instance for instance in gpu.instances if any(instance.mask & mask for mask in masks))
