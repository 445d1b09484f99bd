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
from tessera.agent.devices import Owner
from tessera.agent.gauges import NodeGauges
from tessera.agent.gpunode import READY, GPUNodeWriter, View, foreign_instances
from tessera.agent.layouts import Layouts
from tessera.agent.orphans import Orphans
from tessera.agent.publisher import Publisher
from tessera.agent.recovery import published_uuids, rebuild
from tessera.agent.transactions import Transactions
from tessera.api.names import DRIVER
from tessera.api.reasons import Reason
from tessera.gpu.driver import GPU, Driver, Inventory
from tessera.gpu.faults import NVMLFault, symbol
from tessera.kube.client import KubeClient
from tessera.kube.conditions import is_true
from tessera.kube.errors import ApiError, Unreachable
from tessera.kube.events import EventRecorder
from tessera.kube.informer import Informer
from tessera.kube.resources import GPU_NODES, NODES, RESOURCE_CLAIMS, RESOURCE_SLICES
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
        self._owner: Owner | None = None
        self._publisher: Publisher | None = None
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
        watches = self._watches()
        for watch in watches:
            watch.start()
        try:
            await self._refresh_forever()
        finally:
            await asyncio.gather(*(watch.stop() for watch in watches))

    def _watches(self) -> tuple[Informer, Informer]:
        """What others change of ours:

        a restarted kubelet wipes the slices, the operator writes the GPUNode's spec.
        """
        name = self._options.name

        def slice_moved(kind: str, obj: dict[str, Any], old: dict[str, Any] | None) -> None:
            if kind == "DELETED":
                self.poke()

        def node_moved(kind: str, obj: dict[str, Any], old: dict[str, Any] | None) -> None:
            generations = {item["metadata"].get("generation") for item in (obj, old) if item is not None}
            if kind == "DELETED" or len(generations) > 1:
                self.poke()

        selector = f"spec.nodeName={name},spec.driver={DRIVER}"
        return (
            Informer(self._client, RESOURCE_SLICES, field_selector=selector, on_change=slice_moved),
            Informer(self._client, GPU_NODES, field_selector=f"metadata.name={name}", on_change=node_moved),
        )

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
        text = ", ".join(
            f"{device.profile} at {device.start} on {device.gpu_uuid}" for device in record.devices
        )
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
            rest = "keeps the slice warm" if record.phase is Phase.PREPARED else "undoes what is half made"
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
        if self._owner is None:
            node = await self._client.get(NODES, self._options.name)
            self._owner = Owner(name=self._options.name, uid=node["metadata"]["uid"])
            self._publisher = Publisher(self._client, self._owner)
        writer = GPUNodeWriter(self._client, self._owner)
        gpu_node = await writer.ensure()
        self._layouts.demand(gpu_node)
        fault: NVMLFault | None = None
        notes: tuple[str, ...] = ()
        ledger = self.ledger
        try:
            if self._lost_ledger:
                await self._rebuild(gpu_node)
            self._inventory, ledger = await self._transactions.refresh()
            if any(_wants_mig(gpu) for gpu in self._inventory.gpus):
                notes = await self._enable_mig(self._inventory, gpu_node)
                self._inventory, ledger = await self._transactions.refresh()
            if await self._release_orphans():
                self._inventory, ledger = await self._transactions.refresh()
            self._faulty_since = None
            if await self._lay_out(self._inventory, ledger):
                self._inventory, ledger = await self._transactions.refresh()
        except NVMLFault as error:
            fault = error
            if self._faulty_since is None:
                self._faulty_since = self._clock()
        await self._publish(ledger)
        view = View(
            inventory=self._inventory,
            ledger=ledger,
            fault=fault,
            registered=self.registered or self._awaits_registration(gpu_node),
            simulated=self._driver.simulated,
            mig_notes=notes,
            prepare_failures=self._prepare_failures.current(now=datetime.now(UTC)),
            layouts=self._layouts.progress(self._inventory, ledger) if self._inventory else {},
        )
        await writer.write(view, generation=int(gpu_node["metadata"].get("generation") or 0))
        self._gauges.show(view)
        self.refreshed = True

    async def _lay_out(self, inventory: Inventory, ledger: Ledger) -> bool:
        """Try the layouts that are due; whether there were any. What goes is withdrawn before."""
        due = self._layouts.due(inventory, ledger)
        if due:
            await self._publish(ledger)
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
                f"the claim exists no more and the kubelet of node {self._options.name} did not release it; "
                "its slice is warm now",
            )
        return bool(released)

    def _awaits_registration(self, gpu_node: Mapping[str, Any]) -> bool:
        """A restarted agent of a ready node stays ready while the kubelet finds it again:

        seconds, as a rule.
        """
        ready = is_true((gpu_node.get("status") or {}).get("conditions"), READY)
        return ready and time.monotonic() - self._started < _REGISTRATION_SECONDS

    async def _publish(self, ledger: Ledger) -> None:
        """Publish usable GPUs. A failed look changes nothing; failures without a break for
        `withdraw_seconds` withdraw the devices.
        """
        assert self._publisher is not None
        if self._faulty_since is None:
            assert self._inventory is not None
            foreign = foreign_instances(self._inventory, ledger)
            offers = self._layouts.offers(self._inventory, ledger)
            await self._publisher.publish(self._inventory.gpus, foreign=foreign, offers=offers)
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

    async def _enable_mig(self, inventory: Inventory, gpu_node: Mapping[str, Any]) -> tuple[str, ...]:
        """Switch MIG on where it is wanted and the GPU is idle; returns what the driver said against it."""
        desired = (gpu_node.get("spec") or {}).get("gpus") or []
        wanted = {entry["uuid"] for entry in desired if entry.get("migMode", "Enabled") == "Enabled"}
        notes: list[str] = []
        for gpu in inventory.gpus:
            if not _wants_mig(gpu) or not (self._options.enable_mig or gpu.uuid in wanted):
                continue
            try:
                status = await self._driver.set_mig_mode(gpu.uuid, True)
            except NVMLFault as fault:  # one GPU's trouble; the others are served
                notes.append(f"GPU {gpu.index}: enabling MIG failed: {fault}")
                continue
            if status:
                notes.append(
                    f"GPU {gpu.index}: enabling MIG answered {symbol(status)}; "
                    "stop the processes that use the GPU, then reset it"
                )
            else:
                log.info("MIG mode of GPU %s is enabled", gpu.uuid)
        return tuple(notes)

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


def _wants_mig(gpu: GPU) -> bool:
    """Whether MIG could be switched on: capable, off, not pending already, healthy and empty."""
    return (
        gpu.model is not None
        and not gpu.mig_current
        and not gpu.mig_pending
        and not gpu.fault
        and not gpu.instances
    )
