"""What a layout in the GPUNode's spec takes, decided over plain values: which slices go, which come, who is
in the way, and what the GPU offers meanwhile.

A layout is all or nothing on its GPU. Slices that stand where it wants them stay as they are, warm or in use.
Warm ones elsewhere go, missing ones come. While a claim holds a slice that has to go, or an instance stands
there that Tessera did not make, nothing is changed.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tessera.agent.checkpoint import ClaimRecord, DeviceRecord, Ledger, Phase, Slice
from tessera.agent.claims import AllocatedClaim, AllocatedDevice, ClaimKey, PrepareError
from tessera.agent.devices import Offer, device_at
from tessera.agent.plan import (
    WITHDRAWN,
    is_at,
    refuse_faulty,
    refuse_overlap_within,
    resolve,
    warm_at,
    whose,
)
from tessera.agent.whole import whole_device
from tessera.api.reasons import Reason
from tessera.gpu.device_names import encode
from tessera.gpu.driver import GPU, GPUInstance


@dataclass(frozen=True, slots=True)
class Layout:
    """What the spec demands of one GPU: profiles with their starts."""

    gpu_uuid: str
    places: tuple[tuple[str, int], ...]
    generation: int | None = None
    """What the spec calls it by."""

    whole: bool = False
    """MIG mode is to be off: the GPU has no slices, and is offered as a whole."""

    def __str__(self) -> str:
        if self.whole:
            return "the whole GPU"
        return ", ".join(f"{profile} at {start}" for profile, start in self.places) or "no slices"

    @property
    def devices(self) -> tuple[str, ...]:
        """Names of its devices."""
        if self.whole:
            return (whole_device(self.gpu_uuid),)
        return tuple(
            encode(gpu_uuid=self.gpu_uuid, profile=profile, start=start) for profile, start in self.places
        )

    def as_claim(self) -> AllocatedClaim:
        """The same as what a claim asks, under a key that no claim has: so it is cut as claims are."""
        cut = () if self.whole else self.devices
        return AllocatedClaim(
            key=ClaimKey(namespace="layout", name=self.gpu_uuid, uid=f"layout-{self.gpu_uuid}"),
            devices=tuple(AllocatedDevice(request="layout", device=device) for device in cut),
        )


@dataclass(frozen=True, slots=True)
class LayoutPlan:
    """What is missing, which warm slices have to go first, and what hinders that. With neither, it stands."""

    create: tuple[DeviceRecord, ...]
    remove: tuple[Slice, ...]
    blockers: tuple[ClaimKey, ...]
    """Claims that hold slices which have to go."""
    foreign: tuple[str, ...]
    """Instances that are not ours, each with its remedy."""

    @property
    def blocked(self) -> bool:
        """Whether nothing may be changed now."""
        return bool(self.blockers or self.foreign)

    @property
    def stands(self) -> bool:
        """Whether the GPU has this layout already."""
        return not (self.blocked or self.create or self.remove)

    def intent(self, layout: Layout) -> ClaimRecord:
        """The change as the checkpoint keeps it until it is done."""
        return ClaimRecord(
            key=layout.as_claim().key, phase=Phase.PREPARING, devices=self.create, removed=self.remove
        )


def layouts_in(gpu_node: Mapping[str, Any]) -> dict[str, Layout]:
    """The layouts that a GPUNode's spec demands, by GPU UUID. MIG mode off is one without slices."""
    found = {}
    for gpu in (gpu_node.get("spec") or {}).get("gpus") or []:
        whole = gpu.get("migMode") == "Disabled"
        places = () if whole else gpu.get("layout")
        if places is not None:
            found[gpu["uuid"]] = Layout(
                gpu["uuid"],
                tuple((item["profile"], item["start"]) for item in places),
                gpu.get("layoutGeneration"),
                whole,
            )
    return found


def layout_without(gpu: GPU, gone: Container[GPUInstance]) -> Layout:
    """What stands on the GPU, but for these instances."""
    assert gpu.model is not None
    return Layout(
        gpu.uuid,
        tuple(
            (gpu.model.profile_name(instance.profile_id), instance.start)
            for instance in gpu.instances
            if instance not in gone
        ),
    )


def plan_layout(layout: Layout, gpus: Mapping[str, GPU], ledger: Ledger) -> LayoutPlan:
    """What bringing the GPU to the layout takes.

    Raises `PrepareError` when the GPU cannot be used now, or never can have this layout.
    """
    if layout.gpu_uuid not in gpus:
        raise PrepareError(Reason.GPU_UNHEALTHY, f"GPU {layout.gpu_uuid} is not on this node now")
    gpu = gpus[layout.gpu_uuid]
    refuse_faulty(gpu)
    holder = ledger.holder(layout.gpu_uuid)
    if holder is not None and not layout.whole:
        return LayoutPlan(create=(), remove=(), blockers=(holder,), foreign=())
    if layout.places and not gpu.mig_current:
        raise PrepareError(
            Reason.MIG_DISABLED,
            f"MIG mode of GPU {gpu.uuid} is off; enable it with nvidia-smi -i {gpu.index} -mig 1",
        )
    wanted = tuple(resolve(device, gpus) for device in layout.as_claim().devices)
    refuse_overlap_within(wanted)
    there: set[str] = set()
    remove: list[Slice] = []
    blockers: dict[str, ClaimKey] = {}
    foreign: list[str] = []
    for instance in gpu.instances:
        place = next((device for device in wanted if is_at(instance, device)), None)
        warm = warm_at(instance, ledger)
        holder = next(filter(None, (ledger.holder(compute.uuid) for compute in instance.compute)), None)
        if warm is None and holder is None:
            foreign.append(whose(instance, layout.gpu_uuid, ledger))
        elif place is not None:
            there.add(place.device)
        elif warm is not None:
            remove.append(warm)
        elif holder is not None:
            blockers[holder.uid] = holder
    return LayoutPlan(
        create=tuple(device for device in wanted if device.device not in there),
        remove=tuple(remove),
        blockers=tuple(sorted(blockers.values(), key=str)),
        foreign=tuple(foreign),
    )


def refuse_outside(
    key: ClaimKey,
    devices: Iterable[DeviceRecord],
    *,
    gpus: Mapping[str, GPU],
    ledger: Ledger,
    layouts: Mapping[str, Layout],
) -> None:
    """A GPU with a layout gets no other slices. Raises `PrepareError` for a device that would have to be cut
    beside it; one that still stands may be used until it is released.
    """
    for device in devices:
        layout = layouts.get(device.gpu_uuid)
        if layout is None or device.device in layout.devices:
            continue
        instances = gpus[device.gpu_uuid].instances
        if not any(is_at(instance, device) and warm_at(instance, ledger) for instance in instances):
            raise PrepareError(
                Reason.CONFLICT,
                f"claim {key}: {device.device} exists no more, because GPU {device.gpu_uuid} has a fixed "
                f"layout without it ({layout}); {WITHDRAWN}",
            )


def offer(layout: Layout, gpu: GPU, ledger: Ledger, *, failed: bool) -> Offer:
    """What a GPU with a layout offers: the layout's devices, of a failed one those that are there; and what
    claims still hold beside it, until they release it.
    """
    wanted = frozenset(layout.devices)
    held = held_on(gpu, ledger)
    if failed and gpu.mig_current:
        wanted &= {device_at(gpu, instance) for instance in gpu.instances}
    return Offer(devices=wanted | held, leaving=held - frozenset(layout.devices))


def held_on(gpu: GPU, ledger: Ledger) -> frozenset[str]:
    """The devices of the GPU that claims hold."""
    return frozenset(
        device.device
        for record in ledger.claims.values()
        for device in record.devices
        if device.gpu_uuid == gpu.uuid
    )
