"""What the driver says about every GPU, as the values that plans are made of."""

from __future__ import annotations

from dataclasses import dataclass

from tessera.boards import every_profile, geometry_of_model
from tessera.gpu.driver import GPU, Driver, GPUInstance, Inventory
from tessera.gpu.faults import NO_PERMISSION, NOT_FOUND, NVMLFault
from tessera.gpu.profiles import GPUModel
from tessera.placement.geometry import Geometry
from tessera.relayout.plan import Standing


@dataclass(frozen=True, slots=True)
class ReadGPU:
    """A GPU, its instances with the processes inside, and the processes that hold the GPU as a whole.

    `processes_hidden` is true where the driver does not tell this user who they are. It still refuses to
    destroy an instance in use.
    """

    gpu: GPU
    standing: tuple[Standing, ...]
    pids: tuple[int, ...]
    processes_hidden: bool = False

    @property
    def model_name(self) -> str:
        """The model of the profile table; the product's name where the board cannot do MIG."""
        return self.gpu.model.name if self.gpu.model is not None else self.gpu.product

    @property
    def geometry(self) -> Geometry | None:
        """What the GPU allows; None where it cannot do MIG or does not answer."""
        if self.gpu.model is None or not self.gpu.model.profiles:
            return None
        return geometry_of_model(self.gpu.model, profiles=every_profile(self.gpu.model))


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything at one moment."""

    inventory: Inventory
    gpus: tuple[ReadGPU, ...]
    simulated: bool


async def read_machine(driver: Driver) -> Machine:
    """Ask the driver for everything. Raises `NVMLFault` when it does not answer at all."""
    inventory = await driver.inventory()
    gpus = tuple([await _read_gpu(driver, gpu) for gpu in inventory.gpus])
    return Machine(inventory=inventory, gpus=gpus, simulated=driver.simulated)


async def _read_gpu(driver: Driver, gpu: GPU) -> ReadGPU:
    if gpu.fault or gpu.model is None:
        return ReadGPU(gpu=gpu, standing=(), pids=())
    inside: list[tuple[int, ...]] = []
    everyone: tuple[int, ...] = ()
    hidden = False
    try:
        inside = [await pids_in(driver, instance) for instance in gpu.instances]
        everyone = await driver.processes(gpu.uuid)
    except NVMLFault as fault:
        if fault.code != NO_PERMISSION:
            raise
        hidden = True
    pids = inside if len(inside) == len(gpu.instances) else [()] * len(gpu.instances)
    standing = tuple(_standing(gpu.model, *pair) for pair in zip(gpu.instances, pids, strict=True))
    known = {pid for pids in inside for pid in pids}
    return ReadGPU(
        gpu=gpu,
        standing=standing,
        pids=tuple(pid for pid in everyone if pid not in known),
        processes_hidden=hidden,
    )


def _standing(model: GPUModel, instance: GPUInstance, pids: tuple[int, ...]) -> Standing:
    return Standing(
        profile=model.profile_name(instance.profile_id),
        profile_id=instance.profile_id,
        start=instance.start,
        size=instance.size,
        compute_instances=len(instance.compute),
        uuids=tuple(compute.uuid for compute in instance.compute),
        pids=pids,
    )


async def pids_in(driver: Driver, instance: GPUInstance) -> tuple[int, ...]:
    """The processes that run in an instance; none in one that has just gone."""
    found: set[int] = set()
    for compute in instance.compute:
        try:
            found.update(await driver.processes(compute.uuid))
        except NVMLFault as fault:
            if fault.code != NOT_FOUND:
                raise
    return tuple(sorted(found))
