"""An agent that serves one simulated node, as tests of fixed layouts use it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from simulation.agent_looks import Looking
from simulation.agent_node import AgentNode
from tessera.api.names import DEVICE_TAINT_KEY

HALVES = ("3g.40gb@0", "3g.40gb@4")
MIXED = ("2g.20gb@0", "1g.10gb@2", "3g.40gb@4")
APPLIED = {"state": "Applied"}


class Serving(Looking):
    """An agent that serves the node, until the next one does."""

    def __init__(self, node: AgentNode) -> None:
        self.node = node
        self._stack = ExitStack()
        self.start()

    def start(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stack.close()
        self.process = self._stack.enter_context(self.node.start(clock=clock))

    def end(self) -> None:
        self._stack.close()

    @property
    def uuid(self) -> str:
        return self.gpu.uuid

    async def look(self) -> dict[str, Any]:
        """One look at the node; how far the layout is."""
        await self.refresh()
        return self.node.api.layout()

    async def get(self, *places: str) -> dict[str, Any]:
        """The layout is demanded; how far it is after one look."""
        self.node.demand(*places)
        return await self.look()

    async def leave_warm(self, name: str, place: str) -> None:
        assert await self.claim(name, place) == ""
        assert await self.process.unprepare(name) == {name: ""}

    def stands(self) -> tuple[str, ...]:
        return tuple(self.node.layout().split())

    def offered(self) -> dict[str, set[str]]:
        """The taints of each device, without the one that all have."""
        return {
            place: {taint["key"] for taint in taints} - {DEVICE_TAINT_KEY}
            for place, taints in self.node.api.taints().items()
        }

    def mig_uuids(self) -> dict[int, str]:
        return {instance.start: instance.compute[0].uuid for instance in self.node.instances()}

    async def foreign(self, profile_id: int, start: int, size: int, *, whole: bool = False) -> int:
        """Another program makes an instance."""
        driver = self.driver
        number = await driver.create_gpu_instance(self.uuid, profile_id=profile_id, start=start, size=size)
        if whole:
            await driver.create_compute_instance(self.uuid, gpu_instance_id=number)
        return number

    def lose_checkpoint(self) -> None:
        self.node.checkpoint.path.write_text("torn")
        self.start()
