"""What an agent does, from which state, and in which layouts it may end when it is killed in the middle.

One GPU, an H100. At memory slice 0 stands a neighbour, a 1g.10gb on which a process runs: whatever happens,
it must stay as it is.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from simulation.agent_effects import Effects, Killed
from simulation.agent_node import AgentNode, Process

Step = Callable[[AgentNode, Process], Awaitable[object]]
NEIGHBOUR = 0


@dataclass(frozen=True)
class Scenario:
    """`warm`, `held` and `asked` are claims with their placements; `work` is what may be interrupted."""

    name: str
    work: Step
    layouts: tuple[str, ...]
    """Allowed after a kill and one start, the old layout first and the new one last."""
    warm: tuple[str, ...] = ()
    held: tuple[tuple[str, ...], ...] = ()
    asked: tuple[tuple[str, ...], ...] = ()
    mig: bool = True
    """MIG is on, an agent has been there before, and the neighbour is."""
    whole: bool = False
    """MIG is off, as the spec wants it; an agent has been there before, and no neighbour is."""
    releases: bool = False
    """The kubelet asks again for a release, not for a preparation."""
    damage: Callable[[AgentNode], Awaitable[None]] | None = None
    """What happens to the node between the set-up and the work, while no agent runs."""

    @property
    def is_start(self) -> bool:
        """Whether the work is a start alone, without a request of the kubelet."""
        return self.work is _start

    def claims(self) -> tuple[str, ...]:
        """Names of the claims that the kubelet asks for."""
        return tuple(f"asked-{number}" for number in range(len(self.asked or self.held)))

    async def node(self, directory: Path) -> AgentNode:
        """The state that the work begins in."""
        node = AgentNode.new(directory, mig=self.mig and not self.whole)
        if not self.mig:
            return node
        if self.whole:
            node.want("Disabled")
        with node.start() as process:
            await process.agent.refresh()
            if not self.whole:
                node.allocate("neighbour", f"1g.10gb@{NEIGHBOUR}")
                assert await process.prepare("neighbour") == {"neighbour": ""}
                node.occupy(NEIGHBOUR, os.getpid())
            for number, placement in enumerate(self.warm):
                node.allocate(f"warm-{number}", placement)
                assert await process.prepare(f"warm-{number}") == {f"warm-{number}": ""}
                assert await process.unprepare(f"warm-{number}") == {f"warm-{number}": ""}
                del node.api.objects["ResourceClaim", f"warm-{number}"]
            for number, placements in enumerate(self.held):
                node.allocate(f"asked-{number}", *placements)
                assert await process.prepare(f"asked-{number}") == {f"asked-{number}": ""}
            await process.agent.refresh()
        for number, placements in enumerate(self.asked):
            node.allocate(f"asked-{number}", *placements)
        if self.damage is not None:
            await self.damage(node)
        return node


def _prepare(*names: str) -> Step:
    async def work(node: AgentNode, process: Process) -> None:
        assert set((await process.prepare(*names)).values()) == {""}
        await process.agent.refresh()

    return work


def _unprepare(*names: str) -> Step:
    async def work(node: AgentNode, process: Process) -> None:
        assert set((await process.unprepare(*names)).values()) == {""}
        await process.agent.refresh()

    return work


async def _start(node: AgentNode, process: Process) -> None:
    await process.agent.refresh()


async def _die_half_way(node: AgentNode) -> None:
    """The agent before this one died when it had the most to undo: room is made, the new slice half made."""
    effects = Effects()
    with node.fresh("counted").start(effects) as process:
        await process.prepare("asked-0")
    last = len(effects.names) - effects.names[::-1].index("NVML: create compute instance")
    try:
        with node.start(Effects(kill=last)) as process:
            await process.prepare("asked-0")
    except Killed:
        assert node.layout() == "1g.10gb@0 3g.40gb@4(half made)"


async def _tear_checkpoint(node: AgentNode) -> None:
    node.checkpoint.path.write_text("torn")


async def _look(node: AgentNode, process: Process) -> None:
    await process.agent.refresh()


async def _demand_layout(node: AgentNode) -> None:
    """The neighbour's slice is part of it; a claim will ask for the others."""
    node.demand(f"1g.10gb@{NEIGHBOUR}", "2g.20gb@2", "3g.40gb@4")


async def _want_slices(node: AgentNode) -> None:
    node.want("Enabled")


SCENARIOS = (
    Scenario("cold", _prepare("asked-0"), ("1g.10gb@0", "1g.10gb@0 3g.40gb@4"), asked=(("3g.40gb@4",),)),
    Scenario(
        "with room to make",
        _prepare("asked-0"),
        ("1g.10gb@0 2g.20gb@4 1g.10gb@6", "1g.10gb@0 3g.40gb@4"),
        warm=("2g.20gb@4", "1g.10gb@6"),
        asked=(("3g.40gb@4",),),
    ),
    Scenario(
        "warm",
        _prepare("asked-0"),
        ("1g.10gb@0 2g.20gb@4", "1g.10gb@0 2g.20gb@4"),
        warm=("2g.20gb@4",),
        asked=(("2g.20gb@4",),),
    ),
    Scenario(
        "two requests in one claim",
        _prepare("asked-0"),
        ("1g.10gb@0 1g.10gb@2 2g.20gb@4", "1g.10gb@0 2g.20gb@2 2g.20gb@4"),
        warm=("1g.10gb@2", "2g.20gb@4"),
        asked=(("2g.20gb@4", "2g.20gb@2"),),
    ),
    Scenario(
        "two claims in one call",
        _prepare("asked-0", "asked-1"),
        ("1g.10gb@0", "1g.10gb@0 2g.20gb@4", "1g.10gb@0 2g.20gb@4 1g.10gb@6"),
        asked=(("2g.20gb@4",), ("1g.10gb@6",)),
    ),
    Scenario(
        "moved allocation",
        _prepare("asked-0"),
        ("1g.10gb@0 2g.20gb@4", "1g.10gb@0 2g.20gb@2 2g.20gb@4"),
        held=(("2g.20gb@4",),),
        asked=(("2g.20gb@2",),),
    ),
    Scenario(
        "release",
        _unprepare("asked-0", "asked-1"),
        ("1g.10gb@0 2g.20gb@4 1g.10gb@6",) * 2,
        held=(("2g.20gb@4",), ("1g.10gb@6",)),
        releases=True,
    ),
    Scenario(
        "layout",
        _look,
        ("1g.10gb@0 2g.20gb@4", "1g.10gb@0 2g.20gb@2 3g.40gb@4"),
        warm=("2g.20gb@4",),
        asked=(("3g.40gb@4", "2g.20gb@2"),),
        damage=_demand_layout,
    ),
    Scenario(
        "start after a kill",
        _start,
        ("1g.10gb@0 2g.20gb@4", "1g.10gb@0 2g.20gb@4"),
        warm=("2g.20gb@4",),
        asked=(("3g.40gb@4",),),
        damage=_die_half_way,
    ),
    Scenario(
        "start with a torn checkpoint",
        _start,
        ("1g.10gb@0 2g.20gb@2 2g.20gb@4",) * 2,
        warm=("2g.20gb@4",),
        held=(("2g.20gb@2",),),
        damage=_tear_checkpoint,
    ),
    Scenario("start for the first time", _start, ("", ""), mig=False),
    Scenario("whole GPU", _prepare("asked-0"), ("", ""), asked=(("gpu@0",),), whole=True),
    Scenario(
        "whole GPU released", _unprepare("asked-0"), ("", ""), held=(("gpu@0",),), whole=True, releases=True
    ),
    Scenario("MIG mode switched on", _start, ("", ""), whole=True, damage=_want_slices),
)
