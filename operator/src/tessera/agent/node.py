"""One node's agent: prepares and releases claims, and keeps what is published equal to what is there.

Everything the agent tells the cluster is recomputed from the driver and the ledger by one function,
`refresh`, which runs after each change, at intervals, and again after any failure. So a missed event, a
lost write or a GPU reset heals at the next round, and a node without a driver is just a node whose refresh
reports that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tessera.agent.cdi import CDIDirectory
from tessera.agent.checkpoint import CheckpointFile, DamagedCheckpoint, DeviceRecord, Ledger, Phase
from tessera.agent.claim_reader import ClaimReader
from tessera.agent.claims import ClaimKey, PrepareError, PrepareFailures
from tessera.agent.coexistence import Coexistence
from tessera.agent.devices import Owner
from tessera.agent.gauges import NodeGauges
from tessera.agent.gpunode import READY, GPUNodeWriter, View, foreign_instances, state_of
from tessera.agent.health import Ailments, Health, struck
from tessera.agent.layout_plan import layout_without
from tessera.agent.layouts import Layouts, Progress
from tessera.agent.mig_mode import closed_offers, due, switch, waiting, wishes
from tessera.agent.orphans import Orphans
from tessera.agent.published import told_in
from tessera.agent.publisher import Publisher
from tessera.agent.recovery import published_uuids, rebuild
from tessera.agent.transactions import Transactions
from tessera.agent.watches import watches_of
from tessera.api.reasons import Reason
from tessera.gpu.driver import Driver, Inventory
from tessera.gpu.faults import NVMLFault
from tessera.kube.client import KubeClient
from tessera.kube.conditions import is_true
from tessera.kube.errors import ApiError, Unreachable
from tessera.kube.events import EventRecorder
from tessera.kube.resources import RESOURCE_CLAIMS
from tessera.metrics.registry import (
    PREPARE_ERRORS_TOTAL,
    PREPARE_SECONDS,
    UNHANDLED_ERRORS_TOTAL,
    UNPREPARE_SECONDS,
    timed,
)

log = logging.getLogger(__name__)

_RETRY_SECONDS = 2.0
_REGISTRATION_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """How one node is served."""

    name: str
    """The Node's name; also the pool's and the GPUNode's."""
    enable_mig: bool
    """Switch MIG mode on where it is off and the GPU is idle, without a MIGPartition asking for it."""
    refresh_seconds: float = 15.0
    """Time between two looks at the driver when nothing happens."""
    withdraw_seconds: float = 30.0
    """How long every look at the driver must fail before the node's devices are withdrawn.

    A time and not a number of looks: each prepare, release and watch event causes a look, so a hiccup of a
    second may fail several of them, and claims that run would lose their devices to it.
    """
    events: bool = True
    """Tell the claims' events what was prepared and released."""


class NodeAgent:
    """Serves one node. Start with `open`, then run `serve` in a task."""

    def __init__(
        self,
        *,
        client: KubeClient,
        driver: Driver,
        checkpoint: CheckpointFile,
        cdi: CDIDirectory,
        options: NodeOptions,
        on_change: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._driver = driver
        self._checkpoint = checkpoint
        self._cdi = cdi
        self._options = options
        self._on_change = on_change
        self._reader = ClaimReader(client, node=options.name)
        self._events = EventRecorder(client, component="agent", instance=options.name)
        self._transactions = Transactions(driver=driver, checkpoint=checkpoint, cdi=cdi, ledger=Ledger())
        self._orphans = Orphans(
            reader=self._reader, transactions=self._transactions, driver=driver, clock=clock
        )
        self._layouts = Layouts(client, node=options.name, transactions=self._transactions, clock=clock)
        self._coexistence = Coexistence(client, node=options.name)
        self._health = Health(
            grace_seconds=options.withdraw_seconds, may_shrink=driver.simulated, clock=clock
        )
        self._ailments: Ailments = {}
        self._wished: dict[str, bool] = {}
        self._publisher = Publisher(client)
        self._prepare_failures = PrepareFailures()
        self._lost_ledger = False
        self._wake = asyncio.Event()
        self._inventory: Inventory | None = None
        self._clock = clock
        self._faulty_since: float | None = None
        self._gauges = NodeGauges(options.name)
        self.registered = False
        self.refreshed = False
        self.last_attempt = self._started = time.monotonic()

    def open(self) -> None:
        """Read the checkpoint.

        A damaged one, or none where CDI specs tell of claims, makes the first refresh rebuild the ledger;
        until then nothing is prepared or released, and the damaged file stays where it is. Raises
        `UnreadableCheckpoint`.
        """
        try:
            self._transactions.ledger = self._checkpoint.load()
        except DamagedCheckpoint as error:
            log.error("%s; rebuilding from CDI specs, NVML and the API", error)
            self._lost_ledger = True
        else:
            if not self._checkpoint.path.exists() and self._cdi.claim_uids():
                log.error(
                    "checkpoint %s is gone but CDI specs are there; rebuilding from them, NVML and the API",
                    self._checkpoint.path,
                )
                self._lost_ledger = True

    @property
    def ledger(self) -> Ledger:
        """Claims and warm slices now."""
        return self._transactions.ledger

    def poke(self) -> None:
        """Have the node refreshed soon, by `serve` or by whoever else drives this node."""
        if self._on_change is not None:
            self._on_change()
        self._wake.set()

    async def serve(self) -> None:
        """Refresh for ever. Failures are reported in the GPUNode where possible, and tried again."""
        watches = watches_of(self._client, node=self._options.name, poke=self.poke)
        for watch in watches:
            watch.start()
        try:
            await self._refresh_forever()
        finally:
            await asyncio.gather(*(watch.stop() for watch in watches))

    async def _refresh_forever(self) -> None:
        while True:
            self._wake.clear()
            self.last_attempt = time.monotonic()
            pause = self._options.refresh_seconds
            try:
                await self.refresh()
            except (ApiError, Unreachable, OSError) as error:  # OSError: the checkpoint's disk
                log.warning("node %s: %s", self._options.name, error)
                pause = _RETRY_SECONDS
            except Exception:
                log.exception("refreshing node %s failed", self._options.name)
                UNHANDLED_ERRORS_TOTAL.labels("agent refresh").inc()
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def prepare(self, claim: ClaimKey, *, timeout_seconds: float) -> tuple[DeviceRecord, ...]:
        """Make the claim's slices exist. Raises `PrepareError`."""
        try:
            with timed(PREPARE_SECONDS):
                self._refuse_while_lost()
                await self._coexistence.refuse(timeout_seconds=timeout_seconds)
                await self._layouts.learn(timeout_seconds=timeout_seconds)
                allocated = await self._reader.read(claim, timeout_seconds=timeout_seconds)
                record = await self._transactions.prepare(allocated)
        except PrepareError as error:
            PREPARE_ERRORS_TOTAL.labels(str(error.reason)).inc()
            self._tell(claim, "Warning", Reason.PREPARE_FAILED, str(error))
            if error.reason is not Reason.RECONCILING:  # that ends by itself, within seconds
                self._prepare_failures.add(claim, str(error), now=datetime.now(UTC))
            self.poke()
            raise
        self._prepare_failures.remove(claim)
        text = ", ".join(f"{one.profile} at {one.start} on {one.gpu_uuid}" for one in record.devices)
        self._tell(claim, "Normal", Reason.PREPARED, f"node {self._options.name} holds {text}")
        self.poke()
        return record.devices

    async def unprepare(self, claim: ClaimKey) -> None:
        """Give the claim's slices up; they stay warm. Raises `PrepareError`."""
        with timed(UNPREPARE_SECONDS):
            self._refuse_while_lost()
            record = await self._transactions.release(claim.uid)
        self._prepare_failures.remove(claim)
        if record is not None:
            rest = "has the slice back" if record.phase is Phase.PREPARED else "undoes what is half made"
            self._tell(claim, "Normal", Reason.UNPREPARED, f"node {self._options.name} {rest}")
        self.poke()

    def _refuse_while_lost(self) -> None:
        if self._lost_ledger:
            raise PrepareError(
                Reason.RECONCILING, "the agent rebuilds its lost checkpoint; the kubelet will try again"
            )

    async def refresh(self) -> None:
        """Look at the driver, then publish devices, status and metrics.

        Raises `ApiError`, `Unreachable`, or `OSError` when the checkpoint cannot be stored.
        """
        node, slices = await self._coexistence.look()
        owner = Owner(name=self._options.name, uid=node["metadata"]["uid"])
        self._publisher.saw(owner, slices)
        writer = GPUNodeWriter(self._client, owner)
        gpu_node = await writer.ensure()
        if not self.refreshed:
            self._health.remember(*told_in(slices, gpu_node))
        self._layouts.demand(gpu_node)
        fault: NVMLFault | None = None
        notes: dict[str, str] = {}
        ledger = self.ledger
        try:
            await self._health.listen(self._driver)
            if self._lost_ledger:
                await self._rebuild(gpu_node)
            if self._coexistence.found:
                self._judge(await self._driver.inventory())
            else:
                ledger, notes = await self._bring_in_line(gpu_node)
        except NVMLFault as error:
            fault = error
            if self._faulty_since is None:
                self._faulty_since = self._clock()
        progress = self._progress(ledger)
        await self._publish(ledger, progress)
        view = View(
            inventory=self._inventory,
            ledger=ledger,
            fault=fault,
            registered=self.registered or self._awaits_registration(gpu_node),
            simulated=self._driver.simulated,
            others=self._coexistence.found,
            ailments=self._ailments,
            mig_wishes=self._wished,
            mig_notes=notes | waiting(self._inventory, self._wished, progress, ledger),
            prepare_failures=self._prepare_failures.current(now=datetime.now(UTC)),
            layouts=progress,
        )
        await writer.write(view, present=gpu_node)
        self._gauges.show(view)
        self.refreshed = True

    def _progress(self, ledger: Ledger) -> dict[str, Progress]:
        """How far the layouts are; none is tried where others manage the GPUs."""
        if self._inventory is None or self._coexistence.found:
            return {}
        return self._layouts.progress(self._inventory, ledger)

    async def _bring_in_line(self, gpu_node: Mapping[str, Any]) -> tuple[Ledger, dict[str, str]]:
        """Undo what was cut off, switch MIG modes, release orphans, lay out: all that is due.

        Returns the ledger after that, and what the driver has against a MIG mode, by GPU UUID.
        """
        inventory, ledger = await self._look()
        self._wished = wishes(gpu_node, inventory.gpus, enable=self._options.enable_mig)
        notes: dict[str, str] = {}
        if due(inventory.gpus, self._wished, ledger):
            await self._publish(ledger, self._progress(ledger))  # what goes is withdrawn before
            async with self._transactions.undisturbed() as now:
                notes = await switch(self._driver, due(inventory.gpus, self._wished, now), self._wished)
            inventory, ledger = await self._look()
        if await self._release_orphans() or await self._take_away(inventory, ledger):
            inventory, ledger = await self._look()
        if await self._lay_out(inventory, ledger):
            _, ledger = await self._look()
            self.poke()  # a GPU that is empty now may be one to be switched off
        return ledger, notes

    async def _look(self) -> tuple[Inventory, Ledger]:
        """The GPUs, those that do not answer as they were, and the ledger, at one moment."""
        inventory, ledger = await self._transactions.refresh()
        return self._judge(inventory), ledger

    def _judge(self, inventory: Inventory) -> Inventory:
        diagnosis = self._health.judge(inventory)
        self._inventory, self._ailments = diagnosis.inventory, diagnosis.ailments
        self._faulty_since = None
        return self._inventory

    async def _take_away(self, inventory: Inventory, ledger: Ledger) -> bool:
        """Destroy the slices that an error has struck and that no claim holds; whether there were any."""
        found = False
        for gpu in inventory.gpus:
            hit = struck(gpu, self._ailments.get(gpu.uuid, ()))
            sick = [instance for instance in hit if state_of(instance, ledger) == "Warm"]
            if not sick:
                continue
            found = True
            try:
                await self._transactions.lay_out(layout_without(gpu, sick))
            except PrepareError as error:
                log.error("GPU %s: a slice that an error has struck stays for now: %s", gpu.uuid, error)
        return found

    async def _lay_out(self, inventory: Inventory, ledger: Ledger) -> bool:
        """Try the layouts that are due; whether there were any. What goes is withdrawn before."""
        progress = self._layouts.progress(inventory, ledger)
        due = [uuid for uuid, so_far in progress.items() if so_far.state == "Changing"]
        if due:
            await self._publish(ledger, progress)
        for uuid in due:
            await self._layouts.bring_about(uuid)
        return bool(due)

    async def _release_orphans(self) -> bool:
        """Release prepared claims that exist no more; whether there were any."""
        released = await self._orphans.release()
        for record in released:
            self._tell(
                record.key,
                "Warning",
                Reason.UNPREPARED,
                f"the claim is gone; {self._options.name} was not asked to release it; its slice is free",
            )
        return bool(released)

    def _awaits_registration(self, gpu_node: Mapping[str, Any]) -> bool:
        """A restarted agent of a ready node stays ready for the seconds until the kubelet finds it again."""
        ready = is_true((gpu_node.get("status") or {}).get("conditions"), READY)
        return ready and time.monotonic() - self._started < _REGISTRATION_SECONDS

    async def _publish(self, ledger: Ledger, progress: Mapping[str, Progress]) -> None:
        """Publish the GPUs; none where others manage them, or all looks failed for `withdraw_seconds`."""
        if self._coexistence.found:
            await self._publisher.publish(())
        elif self._faulty_since is None:
            assert self._inventory is not None
            foreign = foreign_instances(self._inventory, ledger)
            offers = closed_offers(self._inventory.gpus, self._wished, ledger)
            offers |= self._layouts.offers(self._inventory, ledger, progress)
            await self._publisher.publish(
                self._inventory.gpus, foreign=foreign, offers=offers, ailments=self._ailments
            )
        elif self._clock() - self._faulty_since >= self._options.withdraw_seconds:
            await self._publisher.publish(())

    async def _rebuild(self, gpu_node: Mapping[str, Any]) -> None:
        inventory = await self._driver.inventory()
        ledger = rebuild(
            gpus=inventory.gpus,
            specs=self._cdi.records(),
            claims=[
                *await self._reader.all_here(),
                *(layout.as_claim() for layout in self._transactions.layouts.values()),
            ],
            published=published_uuids(gpu_node, "InUse", "Warm"),
            foreign=published_uuids(gpu_node, "Foreign"),
        )
        aside = await self._transactions.adopt(ledger)
        self._lost_ledger = False
        message = (
            f"checkpoint was {'missing' if aside is None else f'damaged (kept as {aside})'}; "
            f"rebuilt with {len(ledger.claims)} claims and {len(ledger.warm)} warm slices"
        )
        log.warning("node %s: %s", self._options.name, message)
        if self._options.events:
            self._events.emit(
                gpu_node, type="Warning", reason=Reason.RECONCILING, action="Recover", message=message
            )

    def _tell(self, claim: ClaimKey, kind: Any, reason: Reason, message: str) -> None:
        if not self._options.events:
            return
        regarding = {
            "apiVersion": RESOURCE_CLAIMS.api_version,
            "kind": RESOURCE_CLAIMS.kind,
            "metadata": {"namespace": claim.namespace, "name": claim.name, "uid": claim.uid},
        }
        self._events.emit(regarding, type=kind, reason=reason, action="Prepare", message=message)

    async def flush_events(self) -> None:
        """Wait for the events that are on their way."""
        await self._events.flush()
