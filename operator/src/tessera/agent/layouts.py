"""How far each GPU is with the layout that the GPUNode's spec demands, and when it is tried.

The state is found anew at each look, from what stands and who is in the way. Only failures are remembered,
because trying again what the driver has just refused would cost slices that are warm: such a layout is tried
again when the spec or the GPU's instances have changed, after `RETRY_SECONDS`, or by the next agent.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tessera.agent.checkpoint import Ledger
from tessera.agent.claim_reader import before_the_first_look
from tessera.agent.claims import ClaimKey, PrepareError
from tessera.agent.devices import Offer
from tessera.agent.layout_plan import Layout, layouts_in, offer, plan_layout
from tessera.agent.transactions import Transactions
from tessera.api.gpu_node import LayoutState
from tessera.api.reasons import Reason
from tessera.gpu.driver import GPU, Inventory
from tessera.kube.client import KubeClient
from tessera.kube.resources import GPU_NODES

log = logging.getLogger(__name__)

RETRY_SECONDS = 300.0
_PASSING = {Reason.GPU_UNHEALTHY, Reason.MIG_DISABLED}
"""What hinders any layout of a GPU; others are the layout's own."""

_Standing = frozenset[tuple[int, int, int]]
"""Profile id, start and number of compute instances of each instance."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one GPU is with its layout, as the GPUNode's status tells it."""

    state: LayoutState
    message: str = ""
    blockers: tuple[ClaimKey, ...] = ()
    generation: int | None = None
    """Which layout that is."""


@dataclass(slots=True)
class _Failure:
    """A layout that could not be had at that time, and what stood there after it was undone."""

    layout: Layout
    message: str
    at: float
    standing: _Standing | None = None


class Layouts:
    """One node's layouts. `clock` counts seconds and never goes back."""

    def __init__(
        self,
        client: KubeClient,
        *,
        node: str,
        transactions: Transactions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._node = node
        self._transactions = transactions
        self._clock = clock
        self._known = False
        self._failures: dict[str, _Failure] = {}

    def demand(self, gpu_node: Mapping[str, Any]) -> None:
        """From now on the layouts in that GPUNode's spec hold."""
        layouts = self._transactions.layouts = layouts_in(gpu_node)
        self._failures = {
            uuid: failure for uuid, failure in self._failures.items() if layouts.get(uuid) == failure.layout
        }
        self._known = True

    async def learn(self, *, timeout_seconds: float) -> None:
        """Read the spec for a claim that comes before the first look at the node: a slice of a layout must
        not go for it. Raises `PrepareError`.
        """
        if self._known:
            return
        async with before_the_first_look(f"GPUNode {self._node}", timeout_seconds=timeout_seconds):
            found = await self._client.list(GPU_NODES, field_selector=f"metadata.name={self._node}")
        if not self._known:  # a look at the node that came meanwhile has read a newer one
            self.demand(found.items[0] if found.items else {})

    def progress(self, inventory: Inventory, ledger: Ledger) -> dict[str, Progress]:
        """The state of every layout, by GPU UUID. One that is `Changing` is to be tried now."""
        gpus = {gpu.uuid: gpu for gpu in inventory.gpus}
        layouts = self._transactions.layouts.items()
        return {
            uuid: replace(self._of(layout, gpus, ledger), generation=layout.generation)
            for uuid, layout in layouts
            if uuid in gpus
        }

    def offers(
        self, inventory: Inventory, ledger: Ledger, progress: Mapping[str, Progress]
    ) -> dict[str, Offer]:
        """What the GPUs with a layout offer, by GPU UUID. One that has failed offers what is there until it
        has come about, also while it is tried again.
        """
        return {
            gpu.uuid: offer(
                self._transactions.layouts[gpu.uuid],
                gpu,
                ledger,
                failed=gpu.uuid in self._failures or progress[gpu.uuid].state == "Failed",
            )
            for gpu in inventory.gpus
            if gpu.uuid in progress
        }

    async def bring_about(self, gpu_uuid: str) -> None:
        """Try the layout of that GPU; what it comes to is seen at the next look."""
        layout = self._transactions.layouts[gpu_uuid]
        try:
            await self._transactions.lay_out(layout)
        except PrepareError as error:
            log.error("GPU %s has not got its layout (%s): %s", gpu_uuid, layout, error)
            self._failures[gpu_uuid] = _Failure(layout, str(error), self._clock())
        else:
            self._failures.pop(gpu_uuid, None)

    def _of(self, layout: Layout, gpus: Mapping[str, GPU], ledger: Ledger) -> Progress:
        try:
            plan = plan_layout(layout, gpus, ledger)
        except PrepareError as error:
            return Progress("Blocked" if error.reason in _PASSING else "Failed", str(error))
        if plan.stands:
            return Progress("Applied")
        if plan.blocked:
            return Progress("Blocked", _obstacles(plan.blockers, plan.foreign), plan.blockers)
        failure = self._failures.get(layout.gpu_uuid)
        if failure is None or self._is_over(failure, gpus[layout.gpu_uuid], ledger):
            return Progress("Changing")
        return Progress("Failed", failure.message)

    def _is_over(self, failure: _Failure, gpu: GPU, ledger: Ledger) -> bool:
        """Whether the failure is no reason any more not to try."""
        if self._clock() - failure.at >= RETRY_SECONDS:
            return True
        # While it stands there it is not undone yet: the driver refuses that too.
        if failure.layout.as_claim().key.uid in ledger.claims:
            return False
        standing = frozenset((one.profile_id, one.start, len(one.compute)) for one in gpu.instances)
        if failure.standing is None:
            failure.standing = standing
        return standing != failure.standing


def _obstacles(blockers: tuple[ClaimKey, ...], foreign: tuple[str, ...]) -> str:
    if not blockers:
        return "; ".join(foreign)
    claims = f"{'claim' if len(blockers) == 1 else 'claims'} {', '.join(map(str, blockers))}"
    held = f"slices that have to go are held by {claims}; end their pods, or wait until they do"
    return "; ".join([held, *foreign])
