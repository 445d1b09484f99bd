"""The GPUs of the cluster as their agents publish them: one device is one legal placement of one GPU.

How they are read from ResourceSlices is told in `published`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tessera.api import names
from tessera.placement.geometry import Geometry
from tessera.scheduler.selectors import DeviceView

VARYING = frozenset({names.ATTRIBUTE_GPU_UUID, names.ATTRIBUTE_GPU_INDEX})
"""Attributes that tell GPUs of one model apart."""


@dataclass(frozen=True, slots=True)
class Taint:
    """A taint of a device or of a node."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class Device:
    """One published placement of one GPU. `gpu` is the GPU's name in the cluster state, `index` is into its
    geometry.
    """

    name: str
    pool: str
    gpu: str
    index: int
    view: DeviceView
    taints: tuple[Taint, ...]


class Kind:
    """What GPUs of one kind look like; its hash, which covers all devices, is found once."""

    __slots__ = ("_hash", "_looks")

    def __init__(self, looks: Hashable) -> None:
        self._looks = looks
        self._hash = hash(looks)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Kind) and self._looks == other._looks)


@dataclass(frozen=True, slots=True)
class PublishedGpu:
    """One GPU: its geometry and its devices in the order of the geometry's placements.

    GPUs of one `kind` differ in nothing but `VARYING` attributes: who sees none of those cannot tell them
    apart.
    """

    name: str
    node: str
    geometry: Geometry
    devices: tuple[Device, ...]
    kind: Kind

    @property
    def broken(self) -> bool:
        """Whether its agent bars every device of it as unhealthy: its free room is none."""
        key = names.UNHEALTHY_TAINT_KEY
        return all(any(taint.key == key for taint in device.taints) for device in self.devices)


class Inventory:
    """All published GPUs, in a stable order (node, GPU)."""

    def __init__(self, gpus: Iterable[PublishedGpu] = ()) -> None:
        self.gpus = tuple(sorted(gpus, key=lambda gpu: (gpu.node, gpu.name)))
        self.by_name = {gpu.name: gpu for gpu in self.gpus}
        self._devices = {(d.pool, d.name): d for gpu in self.gpus for d in gpu.devices}

    def device(self, pool: str, name: str) -> Device | None:
        """The device of this name in this pool, or None when it is not published (any more)."""
        return self._devices.get((pool, name))


def read_taints(taints: Iterable[Mapping[str, Any]] | None) -> tuple[Taint, ...]:
    """Taints as the API spells them, of devices and nodes alike."""
    return tuple(Taint(t.get("key", ""), t.get("value") or "", t.get("effect", "")) for t in taints or ())
