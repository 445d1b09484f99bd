"""The rules of MIG as pure functions over the simulated state. Each returns an NVML code, or the thing asked
for.

Sources: `mig_profiles.csv` for the geometry; NVIDIA's MIG User Guide for the media rules, the life cycle
by generation and the driver's unplaced choice (on A100, creating 19,19,14,9 puts 1g at 6, 1g at 4, 2g at
0, and the 3g then fails).
"""

from __future__ import annotations

import hashlib

import pynvml

from tessera.gpu.profiles import GPUModel, Placement, Profile, UnknownProfile, board, model
from tessera.gpu.simulator.state import Compute, Event, Instance, Node, SimulatedGPU
from tessera.gpu.xids import FELL_OFF_THE_BUS, Harm, harm_of_xid

SUCCESS = 0
INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NOT_FOUND = 6
INSUFFICIENT_SIZE = 7
GPU_IS_LOST = 15
RESET_REQUIRED = 16
IN_USE = 19
INSUFFICIENT_RESOURCES = 23
VERSION_MISMATCH = 25

BARE_METAL = 0
PASSTHROUGH = 1
VGPU = 2
_MOST_EVENTS = 256
_GPU_INSTANCE_IDS = range(1, 15)
_DRIVER_PREFERENCE = {1: (6, 4, 5, 0, 2, 1, 3), 4: (4, 0)}
"""Start order of the driver's unplaced choice by width in memory slices, on 8-slice boards."""


def geometry(gpu: SimulatedGPU) -> GPUModel:
    """The GPU's profile table."""
    return model(gpu.model)


def nominal_memory_mib(gpu: SimulatedGPU, profile: Profile) -> int:
    """The profile's memory; where no source states it, the board's memory by share of slices."""
    if profile.memory_mib is not None:
        return profile.memory_mib
    return board(gpu.model).memory_mib * profile.memory_slices // geometry(gpu).memory_slices


def _refuses(gpu: SimulatedGPU, profile: Profile, start: int) -> bool:
    """Whether occupancy, count, compute slices or media engines forbid this placement now."""
    table = geometry(gpu)
    present = [table.profile_by_id(instance.profile_id) for instance in gpu.instances]
    wanted = Placement(profile, start)
    taken = 0
    for instance, its_profile in zip(gpu.instances, present, strict=True):
        taken |= Placement(its_profile, instance.start).mask
    if taken & wanted.mask:
        return True
    if sum(other.id == profile.id for other in present) >= profile.max_count:
        return True
    if sum(other.compute_slices for other in present) + profile.compute_slices > table.compute_slices:
        return True
    if profile.media_extensions and any(other.media_extensions for other in present):
        return True
    if profile.all_media and any(not other.no_media for other in present):
        return True
    return not profile.no_media and any(other.all_media for other in present)


def can_change(gpu: SimulatedGPU) -> bool:
    """Whether instances can be made and destroyed at all: MIG is on, and this is no vGPU in a VM."""
    return gpu.mig_current and gpu.virtualization != VGPU


def check_create(gpu: SimulatedGPU, *, profile_id: int, start: int, size: int) -> int:
    """What creating a GPU instance at that placement answers."""
    if not can_change(gpu):
        return NOT_SUPPORTED
    try:
        profile = geometry(gpu).profile_by_id(profile_id)
    except UnknownProfile:
        return INVALID_ARGUMENT
    if start not in profile.starts or size != profile.memory_slices:
        return INVALID_ARGUMENT
    return INSUFFICIENT_RESOURCES if _refuses(gpu, profile, start) else SUCCESS


def driver_choice(gpu: SimulatedGPU, profile: Profile) -> int | None:
    """Where the driver itself would put this profile: an order-dependent habit, not an optimum."""
    order = profile.starts
    if geometry(gpu).memory_slices == 8:
        order = _DRIVER_PREFERENCE.get(profile.memory_slices, order)
    for start in order:
        if start in profile.starts and not _refuses(gpu, profile, start):
            return start
    return None


def remaining_capacity(gpu: SimulatedGPU, profile: Profile) -> int:
    """How many more instances of that profile fit now.

    Equal widths, so taking the lowest start first is optimal.
    """
    trial = SimulatedGPU(
        index=gpu.index, uuid=gpu.uuid, model=gpu.model, serial=gpu.serial, instances=list(gpu.instances)
    )
    for start in profile.starts:
        if not _refuses(trial, profile, start):
            trial.instances.append(
                Instance(id=0, profile_id=profile.id, start=start, size=profile.memory_slices, serial=0)
            )
    return len(trial.instances) - len(gpu.instances)


def create_instance(node: Node, gpu: SimulatedGPU, *, profile_id: int, start: int, size: int) -> Instance:
    """Add a GPU instance that `check_create` allowed. Its id says nothing about its placement."""
    serial = node.next_serial()
    free = [number for number in _GPU_INSTANCE_IDS if all(number != other.id for other in gpu.instances)]
    digest = hashlib.sha256(f"{node.seed}/{serial}".encode()).digest()
    instance = Instance(
        id=free[digest[0] % len(free)], profile_id=profile_id, start=start, size=size, serial=serial
    )
    gpu.instances.append(instance)
    return instance


def compute_profiles(gpu: SimulatedGPU, instance: Instance) -> dict[int, tuple[int, int]]:
    """Compute profiles of a GPU instance: enum -> (id, width in compute slices).

    Valid widths follow go-nvlib's filter: C = G, or C < G and 2C <= G + 1. A `+me` slice has the REV1
    compute profile.
    """
    profile = geometry(gpu).profile_by_id(instance.profile_id)
    if profile.compute_slices == 1 and profile.media_extensions:
        return {7: (7, 1)}
    widths = {0: 1, 1: 2, 2: 3, 3: 4, 4: 7}
    whole = profile.compute_slices
    return {
        enum: (enum, width)
        for enum, width in widths.items()
        if width == whole or (width < whole and 2 * width <= whole + 1)
    }


def compute_engines(profile: Profile, *, width: int) -> dict[str, int]:
    """What a compute instance of that width has, under NVML's field names.

    Multiprocessors are its own, by share of the compute slices; the other engines are shared by all compute
    instances of the GPU instance.
    """
    return {
        "multiprocessorCount": (profile.multiprocessors or 0) * width // profile.compute_slices,
        "sharedCopyEngineCount": profile.copy_engines or 0,
        "sharedDecoderCount": profile.decoders or 0,
        "sharedEncoderCount": profile.encoders or 0,
        "sharedJpegCount": profile.jpeg_engines or 0,
        "sharedOfaCount": profile.optical_flow_engines or 0,
    }


def compute_starts(gpu: SimulatedGPU, instance: Instance, width: int) -> tuple[int, ...]:
    """Legal starts of a compute instance of that width inside the GPU instance."""
    whole = geometry(gpu).profile_by_id(instance.profile_id).compute_slices
    return tuple(range(0, whole - width + 1, width))


def free_compute_starts(gpu: SimulatedGPU, instance: Instance, width: int) -> list[int]:
    """The legal starts whose compute slices are free, lowest first."""
    return [
        start
        for start in compute_starts(gpu, instance, width)
        if all(start + width <= item.start or item.start + item.size <= start for item in instance.compute)
    ]


def create_compute(
    node: Node, gpu: SimulatedGPU, instance: Instance, *, profile_id: int, start: int, size: int
) -> Compute:
    """Add a compute instance: a new UUID each time, in the lowest free slot of the GPU's MIG device list."""
    serial = node.next_serial()
    slots = {item.slot for other in gpu.instances for item in other.compute}
    ids = {item.id for item in instance.compute}
    compute = Compute(
        id=min(set(range(8)) - ids),
        profile_id=profile_id,
        start=start,
        size=size,
        uuid=node.uuid_for("MIG", serial),
        serial=serial,
        slot=min(set(range(max_mig_devices(gpu))) - slots),
    )
    instance.compute.append(compute)
    return compute


def max_mig_devices(gpu: SimulatedGPU) -> int:
    """Length of the GPU's list of MIG devices."""
    return geometry(gpu).compute_slices


def compute_in_use(compute: Compute) -> bool:
    """Whether a live process runs on it."""
    return any(process.alive() for process in compute.processes)


def set_mig_mode(gpu: SimulatedGPU, *, enabled: bool) -> int:
    """Switch the mode; returns the *activation status* (the call itself succeeds).

    Ampere needs a reset: the mode stays pending. Hopper and newer switch at once, unless a client holds
    the GPU or instances exist.
    """
    gpu.mig_pending = enabled
    if gpu.mig_current == enabled:
        return SUCCESS
    if gpu.instances or any(client.alive() for client in gpu.clients):
        return IN_USE
    if board(gpu.model).architecture == "ampere":
        return RESET_REQUIRED
    gpu.mig_current = enabled
    return SUCCESS


def reset(gpu: SimulatedGPU) -> None:
    """Reset the GPU:

    instances vanish on every generation; a pending mode takes effect; a lost GPU returns.
    """
    gpu.instances.clear()
    gpu.mig_current = gpu.mig_pending
    gpu.lost = False
    gpu.recovery_action = pynvml.NVML_GPU_RECOVERY_ACTION_NONE


def reload_driver(gpu: SimulatedGPU) -> None:
    """Unload and load the kernel modules: instances vanish; Hopper and newer forget the MIG mode too."""
    gpu.instances.clear()
    gpu.recovery_action = pynvml.NVML_GPU_RECOVERY_ACTION_NONE
    if board(gpu.model).architecture != "ampere":
        gpu.mig_current = gpu.mig_pending = False


def in_use(gpu: SimulatedGPU) -> bool:
    """Whether a live process holds the GPU or one of its MIG devices."""
    return any(client.alive() for client in gpu.clients) or any(
        compute_in_use(compute) for instance in gpu.instances for compute in instance.compute
    )


def used_memory_mib(instance: Instance) -> int:
    """Memory that live processes use in a GPU instance; its compute instances share one memory."""
    return sum(
        process.memory_mib for compute in instance.compute for process in compute.processes if process.alive()
    )


def report_xid(node: Node, gpu: SimulatedGPU, xid: int, *, instance: int = -1, compute: int = -1) -> None:
    """Put an Xid error on record. The oldest go when there are many, as in a driver's ring buffer.

    After one that NVIDIA's catalogue answers with a reset, the driver says that the GPU needs it.
    """
    if harm_of_xid(xid, of_instance=instance >= 0) is Harm.RESET:
        gpu.recovery_action = pynvml.NVML_GPU_RECOVERY_ACTION_GPU_RESET
    event = Event(node.next_serial(), gpu.serial, xid, gpu_instance=instance, compute_instance=compute)
    node.events = [*node.events, event][-_MOST_EVENTS:]


def lose(node: Node, gpu: SimulatedGPU) -> None:
    """The GPU falls off the bus, which is Xid 79."""
    gpu.lost = True
    report_xid(node, gpu, FELL_OFF_THE_BUS)


def reboot(gpu: SimulatedGPU) -> None:
    """Reboot the node: Ampere keeps its MIG mode (InfoROM), Hopper and newer lose it."""
    reset(gpu)  # a VM can reboot where it cannot reset
    gpu.clients.clear()
    if board(gpu.model).architecture != "ampere":
        gpu.mig_current = gpu.mig_pending = False
