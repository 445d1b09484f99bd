"""Preparing and releasing claims as transactions over the GPU.

    prepare:  checkpoint the intent -> destroy warm slices in the way -> create GPU instance and
              compute instance, see that they are where they should be -> write the CDI spec ->
              checkpoint that it is done
    release:  remove the CDI spec -> checkpoint; the slice stays, warm, for the next claim of this placement
              (a GPU as a whole is just free)
    layout:   as prepare, for all that is missing on a GPU; without a CDI spec, and what is made is warm

Any error undoes what this claim did: instances made for it are destroyed, warm slices destroyed for it are
made again. When the process dies in the middle, the intent on disk says what to undo, and it is undone before
anything else is prepared; every instance at an intended placement that no other record knows is the dead
attempt's. Nothing else is ever destroyed, and NVML itself refuses to destroy a slice that a process uses. CDI
specs follow the ledger: none without a prepared claim, and none missing. One transaction runs at a time; a
transaction that has begun runs to its end, also when the kubelet gives up waiting.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from tessera.agent.cdi import CDIDirectory
from tessera.agent.checkpoint import CheckpointFile, ClaimRecord, DeviceRecord, Ledger, Phase, Slice
from tessera.agent.claims import AllocatedClaim, PrepareError
from tessera.agent.device_nodes import DriverFilesMissing
from tessera.agent.layout_plan import Layout, plan_layout, refuse_outside
from tessera.agent.plan import exists, is_among, is_at, make_plan, resolve, silent
from tessera.api.reasons import Reason
from tessera.gpu.driver import GPU, Driver, GPUInstance, Inventory
from tessera.gpu.faults import NVMLFault

log = logging.getLogger(__name__)


class NotAsAsked(RuntimeError):
    """The driver says that it made an instance, but something else is there."""

    def __init__(self, wanted: DeviceRecord | Slice, made: GPUInstance | None) -> None:
        found = (
            "is not there" if made is None else f"is profile id {made.profile_id} at {made.start}:{made.size}"
        )
        super().__init__(
            f"{wanted.profile} at {wanted.start}:{wanted.size} of {wanted.gpu_uuid} was made but {found}; "
            "look whether another program (mig-manager, nvidia-smi) changes this GPU"
        )


_FAILURES = (NVMLFault, OSError, NotAsAsked)
"""What may go wrong with a change: the driver, the disk, or another program at the GPU."""


class Transactions:
    """All changes of a node's slices go through one object of this class."""

    def __init__(
        self, *, driver: Driver, checkpoint: CheckpointFile, cdi: CDIDirectory, ledger: Ledger
    ) -> None:
        self._driver = driver
        self._checkpoint = checkpoint
        self._cdi = cdi
        self._turn = asyncio.Lock()
        self._disk_differs = False
        self.ledger = ledger
        self.layouts: Mapping[str, Layout] = {}
        """What the GPUs are to be cut into, by GPU UUID; the others are cut as claims need it."""

    @asynccontextmanager
    async def undisturbed(self) -> AsyncIterator[Ledger]:
        """No claim comes or goes in the block, which has the ledger."""
        async with self._turn:
            yield self.ledger

    async def adopt(self, ledger: Ledger) -> Path | None:
        """Start from another ledger, found by recovery, and store it in place of the damaged one.

        Returns where the damaged one is kept, None when there was none. Raises `OSError`.
        """
        async with self._turn:
            aside = self._checkpoint.set_aside()
            self._commit(claims=ledger.claims, warm=ledger.warm)
            return aside

    def _commit(self, *, claims: Mapping[str, ClaimRecord], warm: Mapping[str, Slice]) -> None:
        """Make this the ledger: on disk first, so that memory never knows more than the next agent will.

        Raises `OSError`; the ledger is then what it was.
        """
        ledger = Ledger(claims=dict(claims), warm=dict(warm))
        self._store(ledger)
        self.ledger = ledger

    def _store(self, ledger: Ledger) -> None:
        self._disk_differs = True  # a write that fails at its end may be on the disk nevertheless
        self._checkpoint.store(ledger)
        self._disk_differs = False

    async def prepare(self, claim: AllocatedClaim) -> ClaimRecord:
        """Make the claim's slices exist.

        Doing it again returns the same. Raises `PrepareError`, with nothing left behind.
        """
        async with self._turn:
            await self._undo_cut_off()
            record = self.ledger.claims.get(claim.key.uid)
            if record is not None and record.phase is Phase.PREPARING:
                raise _half_made(f"claim {claim.key}")
            gpus = {gpu.uuid: gpu for gpu in await self._ask_inventory()}
            if record is not None:
                try:
                    if self._still_prepared(record, claim, gpus):
                        if not self._cdi.exists(claim.key.uid):
                            self._cdi.write(record)
                        return record
                    self._forget(record, gpus)
                except OSError as error:
                    raise _not_stored(record, error) from error
            devices = tuple(resolve(device, gpus) for device in claim.devices)
            refuse_outside(claim.key, devices, gpus=gpus, ledger=self.ledger, layouts=self.layouts)
            plan = make_plan(devices, gpus, self.ledger)
            intent = ClaimRecord(
                key=claim.key, phase=Phase.PREPARING, devices=plan.devices, removed=plan.remove
            )
            try:
                return await self._carry_out(intent, self._hand_over)
            except _FAILURES as error:
                raise PrepareError(Reason.NVML_ERROR, f"claim {claim.key}: {error}") from error

    async def lay_out(self, layout: Layout) -> None:
        """Bring the GPU to the layout, unless something is in the way of it.

        Raises `PrepareError`, with the former slices back.
        """
        async with self._turn:
            await self._undo_cut_off()
            if layout.as_claim().key.uid in self.ledger.claims:
                raise _half_made(f"layout of GPU {layout.gpu_uuid}")
            plan = plan_layout(layout, {gpu.uuid: gpu for gpu in await self._ask_inventory()}, self.ledger)
            if plan.stands or plan.blocked:
                return
            try:
                await self._carry_out(plan.intent(layout), self._keep_warm)
            except _FAILURES as error:
                raise PrepareError(Reason.NVML_ERROR, f"{error}; what was begun is undone") from error

    async def release(self, claim_uid: str) -> ClaimRecord | None:
        """Give the claim's slices up; they stay warm. Needs neither the API nor, for a prepared claim, the
        driver.

        Returns the record, None when the claim was unknown. What a half-made claim leaves on a GPU that does
        not answer stays on record and is undone later, because its pod could not end as long as this failed.
        Raises `PrepareError` when the disk refuses; the claim is then still held.
        """
        async with self._turn:
            record = self.ledger.claims.get(claim_uid)
            if record is None:
                self._cdi.remove(claim_uid)
                return None
            if record.phase is Phase.PREPARING:
                await self._undo(record)
                return record
            try:
                self._cdi.remove(claim_uid)
                self._let_go(record, record.slices)
            except OSError as error:
                raise _not_stored(record, error) from error
            return record

    async def refresh(self) -> tuple[Inventory, Ledger]:
        """The driver's and our own view at one moment. Undoes what was cut off, forgets warm slices that
        vanished, and brings the CDI specs in step.

        Raises `NVMLFault` when the driver does not answer.
        """
        async with self._turn:
            await self._undo_cut_off()
            inventory = await self._driver.inventory()
            self._mend_specs({gpu.uuid: gpu for gpu in inventory.gpus})
            readable = {gpu.uuid for gpu in inventory.gpus if not gpu.fault}
            present = {
                compute.uuid
                for gpu in inventory.gpus
                for instance in gpu.instances
                for compute in instance.compute
            }
            vanished = [
                warm.uuid
                for warm in self.ledger.warm.values()
                if warm.gpu_uuid in readable and warm.uuid not in present
            ]
            if vanished:
                log.info("%d warm slices are gone from the driver, as after a GPU reset", len(vanished))
            if vanished or self._disk_differs:
                kept = {uuid: warm for uuid, warm in self.ledger.warm.items() if uuid not in vanished}
                try:
                    self._commit(claims=self.ledger.claims, warm=kept)
                except OSError as error:
                    log.error("the checkpoint cannot be written, it will be tried again: %s", error)
            return inventory, Ledger(claims=dict(self.ledger.claims), warm=dict(self.ledger.warm))

    async def _undo_cut_off(self) -> None:
        """Undo what a dead agent, or a driver that failed even at undoing, has left half done."""
        for record in list(self.ledger.claims.values()):
            if record.phase is Phase.PREPARING:
                await self._undo(record)

    def _mend_specs(self, gpus: Mapping[str, GPU]) -> None:
        """Remove specs that no prepared claim has, and write those that are missing.

        A release that was cut off has taken the spec away and left the claim; and a container that starts
        again needs its spec, which the kubelet would not ask for.
        """
        prepared = {
            uid: record for uid, record in self.ledger.claims.items() if record.phase is Phase.PREPARED
        }
        try:
            self._cdi.keep_only(prepared)
            for uid, record in prepared.items():
                if not self._cdi.exists(uid) and all(exists(d.slice, gpus) for d in record.devices):
                    log.info("the CDI spec of claim %s was gone and is written again", record.key)
                    self._cdi.write(record)
        except OSError as error:
            log.error("the CDI specs cannot be brought in step, it will be tried again: %s", error)

    async def _ask_inventory(self) -> tuple[GPU, ...]:
        try:
            return (await self._driver.inventory()).gpus
        except NVMLFault as error:
            raise PrepareError(Reason.NVML_ERROR, str(error)) from error

    def _still_prepared(self, record: ClaimRecord, claim: AllocatedClaim, gpus: Mapping[str, GPU]) -> bool:
        """Raises `PrepareError` while nobody knows, because a GPU does not answer."""
        asked = {(device.request, device.device) for device in claim.devices}
        if asked != {(device.request, device.device) for device in record.devices}:
            return False
        for device in record.devices:
            if silent(device.slice, gpus):
                fault = gpus[device.gpu_uuid].fault if device.gpu_uuid in gpus else "it is not on this node"
                text = f"claim {record.key} holds {device.device}, but GPU {device.gpu_uuid} does not answer"
                raise PrepareError(Reason.GPU_UNHEALTHY, f"{text}: {fault}")
        return all(exists(device.slice, gpus) for device in record.devices)

    def _forget(self, record: ClaimRecord, gpus: Mapping[str, GPU]) -> None:
        """Drop a record that no longer fits, and its spec:

        what of it still exists, or may, becomes warm; the rest vanished with a GPU reset.
        """
        self._cdi.remove(record.key.uid)
        self._let_go(record, [made for made in record.slices if exists(made, gpus) or silent(made, gpus)])

    def _let_go(self, record: ClaimRecord, warm: Iterable[Slice]) -> None:
        """Drop the record, and with it the slices that made room; these of its slices become warm, but for a
        GPU as a whole.

        Raises `OSError`, having changed nothing.
        """
        claims = {uid: other for uid, other in self.ledger.claims.items() if uid != record.key.uid}
        removed = {gone.uuid for gone in record.removed}
        kept = {uuid: before for uuid, before in self.ledger.warm.items() if uuid not in removed}
        self._commit(claims=claims, warm=kept | {made.uuid: made for made in warm if not made.is_whole_gpu})

    async def _carry_out(
        self, intent: ClaimRecord, finish: Callable[[ClaimRecord, ClaimRecord], None]
    ) -> ClaimRecord:
        """Checkpoint the intent, change the GPU, finish; returns what is made.

        Raises one of `_FAILURES` after all of it is undone.
        """
        try:
            self._commit(claims={**self.ledger.claims, intent.key.uid: intent}, warm=self.ledger.warm)
            for warm in intent.removed:
                await self._destroy(warm.gpu_uuid, warm.gpu_instance_id, [warm.compute_instance_id])
            made = [
                device if device.slice is not None else replace(device, slice=await self._create(device))
                for device in intent.devices
            ]
            done = ClaimRecord(key=intent.key, phase=Phase.PREPARED, devices=tuple(made))
            finish(intent, done)
        except _FAILURES as error:
            log.warning("cutting slices for %s failed, undoing: %s", intent.key, error)
            await self._undo(intent)
            raise
        return done

    def _hand_over(self, intent: ClaimRecord, done: ClaimRecord) -> None:
        """The slices are the claim's."""
        self._cdi.write(done)
        taken = {made.uuid for made in (*intent.removed, *done.slices)}
        kept = {uuid: warm for uuid, warm in self.ledger.warm.items() if uuid not in taken}
        self._commit(claims={**self.ledger.claims, done.key.uid: done}, warm=kept)

    def _keep_warm(self, intent: ClaimRecord, done: ClaimRecord) -> None:
        """The slices are nobody's."""
        self._let_go(intent, done.slices)

    async def _create(self, wanted: DeviceRecord | Slice) -> Slice:
        """Make the slice and look whether it is there. Raises `NVMLFault` or `NotAsAsked`."""
        instance_id = await self._driver.create_gpu_instance(
            wanted.gpu_uuid, profile_id=wanted.profile_id, start=wanted.start, size=wanted.size
        )
        compute = await self._driver.create_compute_instance(wanted.gpu_uuid, gpu_instance_id=instance_id)
        made = next(
            (one for one in await self._driver.instances(wanted.gpu_uuid) if one.id == instance_id), None
        )
        if made is None or not is_at(made, wanted) or made.size != wanted.size or made.compute != (compute,):
            if made is not None:  # undoing looks at the wanted placement and would not find it
                await self._destroy(wanted.gpu_uuid, instance_id, [other.id for other in made.compute])
            raise NotAsAsked(wanted, made)
        return Slice(
            gpu_uuid=wanted.gpu_uuid,
            profile=wanted.profile,
            profile_id=wanted.profile_id,
            start=wanted.start,
            size=wanted.size,
            gpu_instance_id=instance_id,
            compute_instance_id=compute.id,
            uuid=compute.uuid,
        )

    async def _destroy(self, gpu_uuid: str, gpu_instance_id: int, compute_ids: list[int]) -> None:
        for compute_id in compute_ids:
            await self._driver.destroy_compute_instance(
                gpu_uuid, gpu_instance_id=gpu_instance_id, compute_instance_id=compute_id
            )
        await self._driver.destroy_gpu_instance(gpu_uuid, gpu_instance_id=gpu_instance_id)

    async def _undo(self, intent: ClaimRecord) -> None:
        """Bring the GPU back to what it was before the intent.

        When the driver fails even here, the intent stays on record and is undone at the next prepare,
        release or refresh.
        """
        try:
            self._cdi.remove(intent.key.uid)
            for device in intent.devices:
                if not device.reused:
                    await self._clear(device)
            for warm in intent.removed:
                await self._restore(warm)
            self.ledger.claims.pop(intent.key.uid, None)
            self._store(self.ledger)
        except (NVMLFault, OSError) as error:
            self.ledger.claims[intent.key.uid] = intent
            log.error("undoing claim %s failed, it will be tried again: %s", intent.key, error)

    async def _clear(self, place: DeviceRecord | Slice) -> None:
        """Destroy what stands at that placement and is on no record: the remains of a dead attempt."""
        for instance in await self._driver.instances(place.gpu_uuid):
            if is_at(instance, place) and not self._known(instance):
                await self._destroy(place.gpu_uuid, instance.id, [compute.id for compute in instance.compute])

    async def _restore(self, warm: Slice) -> None:
        """Make a warm slice again that was destroyed to make room.

        It has no owner, so the driver may refuse it.
        """
        if is_among(await self._driver.instances(warm.gpu_uuid), warm):
            return
        self.ledger.warm.pop(warm.uuid, None)
        await self._clear(warm)
        try:
            again = await self._create(warm)
        except (NVMLFault, NotAsAsked) as error:
            log.warning("warm slice %s at %d was not restored: %s", warm.profile, warm.start, error)
            await self._clear(warm)
            return
        self.ledger.warm[again.uuid] = again

    def _known(self, instance: GPUInstance) -> bool:
        """Whether a record names this instance: warm, or held by a claim."""
        return any(
            compute.uuid in self.ledger.warm or self.ledger.holder(compute.uuid) is not None
            for compute in instance.compute
        )


def _half_made(whose: str) -> PrepareError:
    return PrepareError(Reason.NVML_ERROR, f"{whose}: half-made slices could not be removed")


def _not_stored(record: ClaimRecord, error: OSError) -> PrepareError:
    what = f"claim {record.key} stays as it is on record"
    if isinstance(error, DriverFilesMissing):
        return PrepareError(Reason.RECONCILE_ERROR, f"{what}: {error}")
    return PrepareError(
        Reason.RECONCILE_ERROR,
        f"{what}, because a file cannot be written: {error}; "
        "make room on, or repair, the disk of the agent's --state-dir and --cdi-dir",
    )
