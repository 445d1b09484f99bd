"""One node with simulated GPUs, its transactions, and what a restarted agent would find."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tessera.agent.cdi import CDIDirectory
from tessera.agent.checkpoint import CheckpointFile
from tessera.agent.claims import AllocatedClaim, AllocatedDevice, ClaimKey
from tessera.agent.transactions import Transactions
from tessera.gpu.device_names import encode
from tessera.gpu.driver import GPU, LocalDriver
from tessera.gpu.nvml import NVML
from tessera.gpu.simulator.faults import Fault
from tessera.gpu.simulator.library import SimulatedLibrary


@dataclass
class Workbench:
    """A node's parts; `restart` makes new transactions from what is on disk."""

    directory: Path
    library: SimulatedLibrary
    nvml: NVML
    driver: LocalDriver
    transactions: Transactions

    @property
    def checkpoint(self) -> CheckpointFile:
        return CheckpointFile(self.directory / "checkpoint.json")

    @property
    def cdi(self) -> CDIDirectory:
        return CDIDirectory(self.directory / "cdi", simulated=True)

    @property
    def simulator(self) -> Path:
        return self.directory / "simulator"

    def restart(self) -> None:
        self.transactions = Transactions(
            driver=self.driver, checkpoint=self.checkpoint, cdi=self.cdi, ledger=self.checkpoint.load()
        )

    def gpu(self, index: int = 0) -> GPU:
        return self.nvml.inventory().gpus[index]

    def layout(self, index: int = 0) -> list[tuple[str, int, int]]:
        """(profile, start, number of compute instances) of every instance."""
        gpu = self.gpu(index)
        assert gpu.model is not None
        return [
            (gpu.model.profile_by_id(instance.profile_id).name, instance.start, len(instance.compute))
            for instance in gpu.instances
        ]

    def claim(self, name: str, *placements: tuple[str, int], index: int = 0) -> AllocatedClaim:
        uuid = self.library.read().gpus[index].uuid
        return AllocatedClaim(
            key=ClaimKey(namespace="default", name=name, uid=f"uid-{name}"),
            devices=tuple(
                AllocatedDevice(
                    request=f"slice-{number}", device=encode(gpu_uuid=uuid, profile=profile, start=start)
                )
                for number, (profile, start) in enumerate(placements)
            ),
        )

    async def leave_warm(self, name: str, profile: str, start: int) -> None:
        """The claim is prepared and released."""
        claim = self.claim(name, (profile, start))
        await self.transactions.prepare(claim)
        await self.transactions.release(claim.key.uid)

    def fail(self, *faults: Fault) -> None:
        self.library.faults.set(list(faults))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workbench]:
    """Two H100 with MIG on, nothing created."""
    # A killed process loses nothing that it has written; only a power cut needs the disk to be waited for.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    library = SimulatedLibrary.at(tmp_path / "simulator", model="H100-80GB", count=2, seed="node-a")
    nvml = NVML(library)
    for gpu in nvml.inventory().gpus:
        nvml.set_mig_mode(gpu.uuid, True)
    driver = LocalDriver(nvml, simulated=True)
    checkpoint = CheckpointFile(tmp_path / "checkpoint.json")
    transactions = Transactions(
        driver=driver,
        checkpoint=checkpoint,
        cdi=CDIDirectory(tmp_path / "cdi", simulated=True),
        ledger=checkpoint.load(),
    )
    yield Workbench(directory=tmp_path, library=library, nvml=nvml, driver=driver, transactions=transactions)
    asyncio.run(driver.close())
