"""What the agent asks of a GPU driver, as plain values: the seam between everything above and NVML.

`Driver` has one method per question or change; every answer is a frozen dataclass that can cross a process
boundary. Two drivers exist: `nvml_process.NVMLProcess` (a child process, so that a hung call can be
killed) and `LocalDriver` (calls in this process, for many simulated nodes in one program). Both end in
`nvml.NVML` and therefore in the unmodified `pynvml`.
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tessera.gpu.profiles import GPUModel

if TYPE_CHECKING:
    from tessera.gpu.nvml import NVML


@dataclass(frozen=True, slots=True)
class ComputeInstance:
    """A compute instance inside a GPU instance. `uuid` is the MIG device's."""

    id: int
    profile_id: int
    uuid: str


@dataclass(frozen=True, slots=True)
class GPUInstance:
    """A GPU instance as the driver reports it; `start` and `size` in memory slices."""

    id: int
    profile_id: int
    start: int
    size: int
    compute: tuple[ComputeInstance, ...]

    @property
    def mask(self) -> int:
        """Bit k is set when memory slice k is taken."""
        return ((1 << self.size) - 1) << self.start


@dataclass(frozen=True, slots=True)
class GPU:
    """One physical GPU.

    `model` is None when the board cannot do MIG; `fault` says why it cannot be used now. `lost`: it answers
    to nothing before it is reset. `recovery_action` is NVML's (`xids`), None where the driver has none;
    `virtualization` is NVML's mode: 0 bare metal, 1 passed through to this VM, 2 a vGPU of this VM.
    """

    index: int
    uuid: str
    product: str
    memory_mib: int
    architecture: str
    mig_current: bool
    mig_pending: bool
    model: GPUModel | None
    instances: tuple[GPUInstance, ...]
    fault: str = ""
    lost: bool = False
    recovery_action: int | None = None
    virtualization: int = 0


@dataclass(frozen=True, slots=True)
class Xid:
    """Equal Xids of one GPU since the last look. `gpu_instance_id` is None where they name none."""

    gpu_uuid: str
    xid: int
    gpu_instance_id: int | None
    count: int


@dataclass(frozen=True, slots=True)
class Events:
    """What the driver has reported by itself. `unheard`: GPUs whose events cannot be read, and why."""

    xids: tuple[Xid, ...]
    unheard: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything the driver knows at one moment."""

    driver_version: str
    nvml_version: str
    gpus: tuple[GPU, ...]


class Driver(abc.ABC):
    """Typed, asynchronous NVML. Every method may raise `NVMLFault`. Calls run one at a time."""

    simulated: bool = False

    @abc.abstractmethod
    async def call(self, method: str, *arguments: Any) -> Any:
        """Run the `NVML` method of that name with these arguments."""

    @abc.abstractmethod
    async def close(self) -> None:
        """End the session; later calls start a new one."""

    async def inventory(self) -> Inventory:
        """All GPUs with geometry, MIG mode and instances."""
        inventory: Inventory = await self.call("inventory")
        return inventory

    async def events(self) -> Events:
        """The Xids since the last call; of a GPU that is new here, none from before. Waits for nothing."""
        events: Events = await self.call("events")
        return events

    async def instances(self, gpu_uuid: str) -> tuple[GPUInstance, ...]:
        """The GPU's instances now, ours and others'."""
        instances: tuple[GPUInstance, ...] = await self.call("instances", gpu_uuid)
        return instances

    async def processes(self, mig_uuid: str) -> tuple[int, ...]:
        """Process ids that run on the MIG device now; `NOT_FOUND` when there is no such device."""
        processes: tuple[int, ...] = await self.call("processes", mig_uuid)
        return processes

    async def set_mig_mode(self, gpu_uuid: str, enabled: bool) -> int:
        """Switch MIG mode.

        Returns NVML's activation status: 0, or e.g. 19 (in use) or 16 (reset required).
        """
        status: int = await self.call("set_mig_mode", gpu_uuid, enabled)
        return status

    async def create_gpu_instance(self, gpu_uuid: str, *, profile_id: int, start: int, size: int) -> int:
        """Create a GPU instance at that placement; returns its id."""
        instance: int = await self.call("create_gpu_instance", gpu_uuid, profile_id, start, size)
        return instance

    async def create_compute_instance(self, gpu_uuid: str, *, gpu_instance_id: int) -> ComputeInstance:
        """Create the full-width compute instance in a GPU instance; its UUID is the MIG device's."""
        compute: ComputeInstance = await self.call("create_compute_instance", gpu_uuid, gpu_instance_id)
        return compute

    async def destroy_compute_instance(
        self, gpu_uuid: str, *, gpu_instance_id: int, compute_instance_id: int
    ) -> None:
        """Destroy a compute instance; `IN_USE` while a process runs on it."""
        await self.call("destroy_compute_instance", gpu_uuid, gpu_instance_id, compute_instance_id)

    async def destroy_gpu_instance(self, gpu_uuid: str, *, gpu_instance_id: int) -> None:
        """Destroy a GPU instance; `IN_USE` while it has a compute instance."""
        await self.call("destroy_gpu_instance", gpu_uuid, gpu_instance_id)


class LocalDriver(Driver):
    """NVML in this process. Only for simulators: a hung call would stop the program."""

    def __init__(self, nvml: NVML, *, simulated: bool) -> None:
        self._nvml = nvml
        self._turn = asyncio.Lock()
        self.simulated = simulated

    async def call(self, method: str, *arguments: Any) -> Any:
        """Run the call on a thread, one at a time."""
        async with self._turn:
            return await asyncio.to_thread(getattr(self._nvml, method), *arguments)

    async def close(self) -> None:
        """Shut NVML down."""
        async with self._turn:
            await asyncio.to_thread(self._nvml.close)
