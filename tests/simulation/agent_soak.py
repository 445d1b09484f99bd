"""Random changes of a GPU's layout under random faults: does anything get lost, overlap, or stay behind?

A scheduler gives claims random placements that no living claim has; a kubelet prepares and releases them and
asks until it gets what it wants, or its pod is deleted first. On each prepared slice a process runs until the
pod ends. Now and then an operator demands a random layout, in which most of the running slices have their
places, or none at all; the scheduler then chooses among what is published. Before two of three requests a
fault is laid: the agent is killed before a random side effect, an NVML call fails or loses its answer, or a
side effect is refused. A change is a preparation that made at least one instance, or a layout that came about
by making or destroying one.

    python -m simulation.agent_soak --changes 10000 --seed 0          (or: make soak-agent)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import os
import random
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from simulation.agent_effects import Effects, Killed
from simulation.agent_node import AgentNode, Process
from tessera.api.names import DEVICE_TAINT_KEY
from tessera.gpu import profiles
from tessera.gpu.profiles import Placement
from tessera.kube.errors import Unreachable

_SIDE_EFFECTS = 30
_NVML_CALLS = 260
"""How far ahead a fault is laid: beyond what most requests do, so that some meet none."""
_TRIES = 12
_PLACEMENTS = [
    placement
    for placement in profiles.model("H100-80GB").placements()
    if placement.profile.name in ("1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb")
]


@dataclass
class Soak:
    """One node and its tally. `wrong` has a line for everything that should not be."""

    node: AgentNode
    random: random.Random
    tally: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    running: dict[str, tuple[Placement, str]] = field(default_factory=dict)
    """Placement and MIG UUID of each claim that has a process."""
    _agent: ExitStack = field(default_factory=ExitStack)
    _process: Process | None = None

    async def run(self, changes: int, *, seconds: float = math.inf) -> None:
        """Go on until so many changes are done, or so much time is gone."""
        with self.node.start() as process:  # from now on, devices are published
            await process.agent.refresh()
        number = 0
        end = time.monotonic() + seconds
        while self.tally["changes"] < changes and time.monotonic() < end:
            number += 1
            await self._one(f"claim-{number}")
        self._agent.close()

    async def _one(self, name: str) -> None:
        used = 0
        for placement, _ in self.running.values():
            used |= placement.mask
        offered = self.node.api.taints()
        free = [
            placement
            for placement in _PLACEMENTS
            if [taint["key"] for taint in offered.get(_name(placement), ())] == [DEVICE_TAINT_KEY]
            and not placement.mask & used
        ]
        if self.random.random() < 0.15 or not (free or self.running):
            await self._demand(name)
            return
        if not free or (self.running and self.random.random() < 0.45):
            await self._release(self.random.choice(sorted(self.running)))
            return
        placement = self.random.choice(free)
        self.node.allocate(name, _name(placement))
        before = self._mig_uuids()
        if await self._ask(name, release=False, patient=self.random.random() < 0.9):
            ((uuid,),) = (uuids for uid, uuids in self.node.specs().items() if uid == f"uid-{name}")
            self.tally["reused" if uuid in before else "changes"] += 1
            self.node.occupy(placement.start, os.getpid())
            self.running[name] = (placement, uuid)
        else:
            self.tally["pods deleted before they ran"] += 1
            await self._release(name)
        self._look(name)

    async def _demand(self, name: str) -> None:
        """The operator writes the spec; the agent looks until the layout has come about or is blocked."""
        places = self._random_layout()
        if places is None:
            self.node.api.demand_nothing()
        else:
            self.node.demand(*places)
        before = self._mig_uuids()
        self._lay_fault()
        for _ in range(_TRIES):
            try:
                process = await self._alive()
                await process.agent.refresh()
            except Killed:
                await self._bury()
                continue
            except (Unreachable, OSError):
                self.tally["refusals"] += 1
                continue
            state = self.node.api.layout().get("state", "none")
            self.tally[f"layouts {state}"] += 1
            if state == "Failed":  # not tried again soon by the same agent
                self._dismiss()
            if places is not None and state not in ("Applied", "Blocked"):
                continue
            if state == "Applied" and set(places or ()) != set(self.node.layout().split()):
                self.wrong.append(f"{name}: {places} is said to be applied, there is {self.node.layout()}")
            self.tally["changes"] += state == "Applied" and before != self._mig_uuids()
            break
        else:
            self.wrong.append(f"{name}: {places} did not come about")
        self._look(name)

    def _random_layout(self) -> list[str] | None:
        """Random slices that fit together, as a rule beside those that run; None takes the layout back."""
        if self.random.random() < 0.3:
            return None
        kept = [placement for placement, _ in self.running.values() if self.random.random() < 0.9]
        layout: list[Placement] = []
        for placement in [*kept, *self.random.sample(_PLACEMENTS, 6)]:
            compute = sum(other.profile.compute_slices for other in (*layout, placement))
            if compute <= 7 and not any(placement.overlaps(other) for other in layout):
                layout.append(placement)
        return [_name(placement) for placement in layout]

    def _mig_uuids(self) -> set[str]:
        return {compute.uuid for one in self.node.instances() for compute in one.compute}

    async def _release(self, name: str) -> None:
        self.running.pop(name, None)
        uuids = self.node.specs().get(f"uid-{name}", ())
        with self.node.state.change() as state:  # the pod's process ends
            for compute in (one for instance in state.gpus[0].instances for one in instance.compute):
                if compute.uuid in uuids:
                    compute.processes.clear()
        if not await self._ask(name, release=True, patient=True):
            self.wrong.append(f"{name} could not be released")
        self.node.api.objects.pop(("ResourceClaim", name), None)
        self._look(name)

    async def _ask(self, name: str, *, release: bool, patient: bool) -> bool:
        """The kubelet asks until it is done; an impatient one asks once."""
        self._lay_fault()
        for _ in range(_TRIES if patient else 1):
            try:
                process = await self._alive()
                told = await (process.unprepare(name) if release else process.prepare(name))
                if not told[name]:
                    return True
                self.tally["refusals"] += 1
                if self.random.random() < 0.3:
                    await process.agent.refresh()
            except Killed:
                await self._bury()
            except (Unreachable, OSError):  # from a look at the node, or the answer is lost
                self.tally["refusals"] += 1
        return False

    async def _alive(self) -> Process:
        if self._process is None:
            self._process = self._agent.enter_context(self.node.start(Effects()))
            if self.random.random() < 0.5:
                await self._process.agent.refresh()
        return self._process

    async def _bury(self) -> None:
        assert self._process is not None
        self.tally["kills"] += 1
        await self._process.ended()
        self._dismiss()

    def _dismiss(self) -> None:
        """The agent is gone; the next request finds a new one."""
        self._process = None
        self._agent.close()

    def _lay_fault(self) -> None:
        if self._process is None:
            return
        effects = self._process.effects
        effects.expect()
        kind = self.random.choice(["none", "kill", "kill", "nvml", "disk or API", "none"])
        if kind == "kill":
            effects.kill = self.random.randint(1, _SIDE_EFFECTS)
        elif kind == "nvml":
            effects.fail_call = self.random.randint(1, _NVML_CALLS)
            effects.fail_after = self.random.random() < 0.5
        elif kind == "disk or API":
            effects.refuse = self.random.randint(1, _SIDE_EFFECTS)
            effects.error = OSError(28, "No space left on device")

    def _look(self, name: str) -> None:
        """Count what is wrong now, with the change just settled."""
        instances = self.node.instances()
        taken = 0
        for instance in instances:
            mask = ((1 << instance.size) - 1) << instance.start
            if mask & taken:
                self.tally["overlaps"] += 1
                self.wrong.append(f"{name}: overlap in {self.node.layout()}")
            taken |= mask
        pids = self.node.pids()
        for claim, (_, uuid) in self.running.items():
            if uuid not in pids:
                self.tally["lost processes"] += 1
                self.wrong.append(f"{name}: the process of {claim} is gone")
        ledger = self.node.checkpoint.load()
        known = set(ledger.warm) | {
            device.slice.uuid
            for record in ledger.claims.values()
            for device in record.devices
            if device.slice is not None
        }
        orphans = [one for one in instances if not {compute.uuid for compute in one.compute} & known]
        if orphans and not any(record.phase == "Preparing" for record in ledger.claims.values()):
            self.tally["orphans"] += len(orphans)
            self.wrong.append(f"{name}: nobody knows of {orphans}")


def _name(placement: Placement) -> str:
    return f"{placement.profile.name}@{placement.start}"


async def soak(directory: Path, *, seed: int, changes: int, seconds: float = math.inf) -> Soak:
    """Run that many changes on a node in that directory, or as many as the time allows."""
    run = Soak(AgentNode.new(directory), random.Random(seed))
    await run.run(changes, seconds=seconds)
    with run.node.start() as process:  # what is left half done is undone by the next look
        await process.agent.refresh()
        run.node.assert_in_agreement(process)
    return run


def main() -> None:
    """Print the tally as JSON; exit 1 when anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--changes", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after that time")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # every fault is logged, and they are meant
    with tempfile.TemporaryDirectory(prefix="soak-agent-") as place:
        seconds = options.minutes * 60
        node = Path(place) / "node"
        run = asyncio.run(soak(node, seed=options.seed, changes=options.changes, seconds=seconds))
    wanted = {"overlaps": 0, "orphans": 0, "lost processes": 0}
    print(json.dumps({"seed": options.seed, **wanted, **run.tally, "wrong": run.wrong[:10]}, indent=1))
    raise SystemExit(1 if run.wrong else 0)


if __name__ == "__main__":
    main()
