"""Two simulated H100s whose layout is to change in every way that there is, and what became of it."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tessera.gpu.driver import GPU, Driver, LocalDriver
from tessera.gpu.nvml import NVML
from tessera.gpu.simulator import control
from tessera.gpu.simulator.faults import Fault, FaultInjector
from tessera.gpu.simulator.library import SimulatedLibrary
from tessera.gpu.simulator.state import StateFile
from tessera.relayout.journal import Journal
from tessera.relayout.planning import plan_machine
from tessera.relayout.reading import Machine, read_machine
from tessera.relayout.settling import Settled
from tessera.relayout.transaction import GPUPlan, apply, recover
from tessera.relayout.wanted import Rule, parse_words

Result = TypeVar("Result")

OLD = ("2g.20gb@0 1g.10gb@2 1g.10gb@3(half made) 3g.40gb@4", "MIG off")
NEW = ("1g.20gb@0 1g.10gb@3 3g.40gb@4", "4g.40gb@0")
ASKED = ("3g.40gb@4,1g.10gb@3,1g.20gb@0", "4g.40gb")


@dataclass
class Bench:
    """A node in a directory. Every question opens it anew, as every call of the command does."""

    directory: Path

    @property
    def journal(self) -> Journal:
        return Journal(self.directory)

    def fresh(self, name: str) -> Bench:
        """A copy of the node, journal and all."""
        copy = self.directory.with_name(f"{self.directory.name}-{name}")
        shutil.copytree(self.directory, copy)
        return Bench(copy)

    def with_driver(self, work: Callable[[Driver], Coroutine[Any, Any, Result]]) -> Result:
        async def run() -> Result:
            driver = LocalDriver(NVML(SimulatedLibrary(StateFile(self.directory))), simulated=True)
            result = await work(driver)
            await driver.close()
            return result

        return asyncio.run(run())

    def machine(self) -> Machine:
        return self.with_driver(read_machine)

    def plans(self, rules: tuple[Rule, ...]) -> tuple[GPUPlan, ...]:
        return plan_machine(self.machine(), rules)

    def apply(self, asked: tuple[str, ...] = ASKED, *, stopped: Callable[[], bool] = lambda: False) -> None:
        """Plan and apply a layout in words for each GPU, then leave."""

        async def work(driver: Driver) -> None:
            rules = [parse_words(words, gpus=(str(index),)) for index, words in enumerate(asked)]
            plans = plan_machine(await read_machine(driver), rules)
            await apply(driver, plans, self.journal, stopped=stopped)

        self.with_driver(work)

    def recover(self) -> Settled | None:
        return self.with_driver(lambda driver: recover(driver, self.journal))

    def fail(self, *faults: Fault) -> None:
        FaultInjector(self.directory).set(list(faults))

    def layouts(self) -> tuple[str, ...]:
        """Each GPU's layout in words."""
        return tuple(_in_words(read.gpu) for read in self.machine().gpus)

    def uuid(self, index: int, start: int) -> str:
        """The MIG device at that start."""
        gpu = self.machine().gpus[index].gpu
        return next(i.compute[0].uuid for i in gpu.instances if i.start == start)

    def occupy(self, index: int, start: int, pid: int | None = None) -> None:
        """A process (this one) starts to use an instance."""
        control.occupy(self.directory, mig_uuid=self.uuid(index, start), pid=pid or os.getpid())


def _in_words(gpu: GPU) -> str:
    assert gpu.model is not None and not gpu.fault
    if not gpu.mig_current:
        return "MIG off"
    return " ".join(
        f"{gpu.model.profile_name(i.profile_id)}@{i.start}{'' if i.compute else '(half made)'}"
        for i in gpu.instances
    )


async def _old_layout(driver: Driver) -> None:
    first = (await driver.inventory()).gpus[0]
    assert first.model is not None
    await driver.set_mig_mode(first.uuid, True)
    for profile, start in (("2g.20gb", 0), ("1g.10gb", 2), ("1g.10gb", 3), ("3g.40gb", 4)):
        shape = first.model.profile(profile)
        number = await driver.create_gpu_instance(
            first.uuid, profile_id=shape.id, start=start, size=shape.memory_slices
        )
        if start != 3:
            await driver.create_compute_instance(first.uuid, gpu_instance_id=number)


def old_node(directory: Path) -> Bench:
    """GPU 0 has the old layout with a process on its 3g.40gb; MIG is off on GPU 1."""
    SimulatedLibrary.at(directory, model="H100-80GB", count=2, seed="node")
    bench = Bench(directory)
    bench.with_driver(_old_layout)
    bench.occupy(0, 4)
    assert bench.layouts() == OLD
    return bench
