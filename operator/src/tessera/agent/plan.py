"""What preparing a claim takes, decided over plain values:

reuse a warm slice, or make room and create one. A GPU as a whole is there, or another claim holds it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations

from tessera.agent.checkpoint import DeviceRecord, Ledger, Phase, Slice
from tessera.agent.claims import AllocatedDevice, PrepareError
from tessera.agent.devices import consumed_by, counters_of
from tessera.agent.whole import present_model, whole_device, whole_slice
from tessera.api.names import WHOLE_GPU
from tessera.api.reasons import Reason
from tessera.gpu.device_names import BadDeviceName, decode, short_uuid
from tessera.gpu.driver import GPU, GPUInstance
from tessera.gpu.profiles import MIB, Placement

WITHDRAWN = (
    "where its GPU offers others, the scheduler looks for one on this node; to have one elsewhere, "
    "delete the pod"
)
"""What becomes of a claim whose device was withdrawn before it was prepared."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The devices of a claim (a reused one already has its slice), and the warm slices to destroy first."""

    devices: tuple[DeviceRecord, ...]
    remove: tuple[Slice, ...]


def resolve(allocated: AllocatedDevice, gpus: Mapping[str, GPU]) -> DeviceRecord:
    """Find the GPU, profile and start that a device name means. Raises `PrepareError`."""
    for gpu in gpus.values():
        if not allocated.device.startswith(f"gpu-{short_uuid(gpu.uuid)}-"):
            continue
        refuse_faulty(gpu)
        model = present_model(gpu)
        whole = allocated.device == whole_device(gpu.uuid)
        if whole == gpu.mig_current:
            raise PrepareError(
                Reason.CONFLICT if whole else Reason.MIG_DISABLED,
                f"{allocated.device} exists no more, because MIG mode of GPU {gpu.uuid} is "
                f"{'on' if whole else 'off'}; {WITHDRAWN}",
            )
        if model is None:
            raise PrepareError(Reason.INVALID_REQUEST, f"GPU {gpu.uuid} cannot do MIG and is not offered")
        try:
            name = decode(allocated.device, (profile.name for profile in model.profiles))
        except BadDeviceName as error:
            raise PrepareError(Reason.INVALID_REQUEST, str(error)) from error
        profile = model.profile(name.profile)
        if name.start not in profile.starts:
            raise PrepareError(
                Reason.ILLEGAL_START,
                f"{profile.name} cannot start at {name.start} on {model.name}; legal starts: "
                + ", ".join(str(start) for start in profile.starts),
            )
        return DeviceRecord(
            request=allocated.request,
            device=allocated.device,
            gpu_uuid=gpu.uuid,
            profile=profile.name,
            profile_id=profile.id,
            start=name.start,
            size=profile.memory_slices,
            memory_bytes=(profile.memory_mib or 0) * MIB,
        )
    raise PrepareError(Reason.INVALID_REQUEST, f"device {allocated.device} is on no GPU of this node")


def refuse_faulty(gpu: GPU) -> None:
    """Raises `PrepareError` when the GPU does not answer."""
    if gpu.fault:
        raise PrepareError(Reason.GPU_UNHEALTHY, f"GPU {gpu.uuid} cannot be used: {gpu.fault}")


def is_at(instance: GPUInstance, record: DeviceRecord | Slice) -> bool:
    """Whether the instance is that profile at that start."""
    return instance.profile_id == record.profile_id and instance.start == record.start


def is_among(instances: Iterable[GPUInstance], made: Slice) -> bool:
    """Whether one of a GPU's instances is the slice."""
    return any(compute.uuid == made.uuid for instance in instances for compute in instance.compute)


def exists(made: Slice | None, gpus: Mapping[str, GPU]) -> bool:
    """Whether the slice is there; a MIG UUID is new at each creation, so it cannot be another one."""
    if made is None or made.gpu_uuid not in gpus:
        return False
    gpu = gpus[made.gpu_uuid]
    return not gpu.mig_current if made.is_whole_gpu else is_among(gpu.instances, made)


def silent(made: Slice | None, gpus: Mapping[str, GPU]) -> bool:
    """Whether the slice's GPU does not answer now, so that nobody knows what stands there."""
    return made is not None and (made.gpu_uuid not in gpus or bool(gpus[made.gpu_uuid].fault))


def _overlaps(instance: GPUInstance, record: DeviceRecord) -> bool:
    return instance.start < record.start + record.size and record.start < instance.start + instance.size


def make_plan(devices: tuple[DeviceRecord, ...], gpus: Mapping[str, GPU], ledger: Ledger) -> Plan:
    """Decide for each device.

    Raises `PrepareError` naming who is in the way: another claim, or an instance not ours.
    """
    refuse_overlap_within(devices)
    planned: list[DeviceRecord] = []
    remove: dict[str, Slice] = {}
    for device in devices:
        holder = ledger.holder(device.gpu_uuid)
        if holder is not None:
            raise PrepareError(
                Reason.CONFLICT,
                f"claim {holder} holds GPU {device.gpu_uuid} as a whole; its pod must end first",
            )
        reused = whole_slice(device) if device.profile == WHOLE_GPU else None
        for instance in gpus[device.gpu_uuid].instances:
            if not _overlaps(instance, device):
                continue
            warm = warm_at(instance, ledger)
            if warm is None:
                raise PrepareError(Reason.CONFLICT, _in_the_way(instance, device, ledger))
            if is_at(instance, device):
                reused = warm
            else:
                remove[warm.uuid] = warm
        planned.append(replace(device, reused=True, slice=reused) if reused else device)
    for uuid in {device.gpu_uuid for device in planned}:
        here = [device for device in planned if device.gpu_uuid == uuid]
        remove |= {warm.uuid: warm for warm in _giving_way(gpus[uuid], here, remove, ledger)}
    return Plan(devices=tuple(planned), remove=tuple(remove.values()))


def _giving_way(
    gpu: GPU, devices: list[DeviceRecord], gone: Container[str], ledger: Ledger
) -> Iterator[Slice]:
    """Warm slices elsewhere on the GPU that take what it has too little of: compute slices, media engines.

    None of a fixed layout gives way to another: they fit together.
    """
    assert gpu.model is not None
    known = {profile.id: profile for profile in gpu.model.profiles}
    left = Counter(counters_of(gpu.model))
    for device in devices:
        if not device.reused:
            left.subtract(consumed_by(Placement(known[device.profile_id], device.start), gpu.model))
    reused = {device.slice for device in devices}
    free: list[tuple[Slice, dict[str, int]]] = []
    for instance in gpu.instances:
        warm = warm_at(instance, ledger)
        if instance.profile_id not in known or (warm is not None and warm.uuid in gone):
            continue
        drawn = consumed_by(Placement(known[instance.profile_id], instance.start), gpu.model)
        left.subtract(drawn)
        if warm is not None and warm not in reused:
            free.append((warm, drawn))
    for warm, drawn in free:
        if any(left[name] < 0 for name in drawn):
            left.update(drawn)
            yield warm


def refuse_overlap_within(devices: Iterable[DeviceRecord]) -> None:
    """Raises `PrepareError` when two of the devices share a memory slice."""
    for one, other in combinations(devices, 2):
        apart = one.start + one.size <= other.start or other.start + other.size <= one.start
        if one.gpu_uuid == other.gpu_uuid and not apart:
            raise PrepareError(
                Reason.CONFLICT,
                f"devices {one.device} and {other.device} overlap; allocate the claim again, or correct the "
                "layout that has both",
            )


def warm_at(instance: GPUInstance, ledger: Ledger) -> Slice | None:
    """The instance as a warm slice; None when it is none."""
    for compute in instance.compute:
        if compute.uuid in ledger.warm:
            return ledger.warm[compute.uuid]
    return None


def _in_the_way(instance: GPUInstance, device: DeviceRecord, ledger: Ledger) -> str:
    return f"{device.device} overlaps {whose(instance, device.gpu_uuid, ledger)}"


def whose(instance: GPUInstance, gpu_uuid: str, ledger: Ledger) -> str:
    """An instance that is not warm, whose it is, and how it goes."""
    where = f"GPU instance {instance.id} at {instance.start}:{instance.size} of {gpu_uuid}"
    for compute in instance.compute:
        holder = ledger.holder(compute.uuid)
        if holder is not None:
            return f"{where}, which claim {holder} holds; its pod must end first"
    for record in ledger.claims.values():
        places = record.devices if record.phase is Phase.PREPARING else ()
        if any(place.gpu_uuid == gpu_uuid and is_at(instance, place) for place in places):
            return (
                f"{where}, which is left of claim {record.key}; "
                "the agent removes it as soon as the driver lets it"
            )
    return f"{where}, which Tessera did not make; destroy it with nvidia-smi mig -dci and -dgi"
