"""The GPUs of the cluster as their agents publish them: ResourceSlices -> geometries and devices.

A pool (one node) is read only when all ResourceSlices of its newest generation are there: while an agent
replaces them, half of a GPU would look like a GPU with less room. One device is one legal placement; the
devices that draw on one counter set are one GPU.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tessera.api import names
from tessera.placement.geometry import Geometry, IllegalGeometry, LegalPlacement, geometry_of
from tessera.scheduler.changes import Key, ObjectVersion, against, version_of
from tessera.scheduler.quantity import parse_quantity
from tessera.scheduler.selectors import AttributeValue, DeviceView, Version

_log = logging.getLogger(__name__)

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
    kind: Hashable


class Inventory:
    """All published GPUs, in a stable order (node, GPU)."""

    def __init__(self, gpus: Iterable[PublishedGpu] = ()) -> None:
        self.gpus = tuple(sorted(gpus, key=lambda gpu: (gpu.node, gpu.name)))
        self.by_name = {gpu.name: gpu for gpu in self.gpus}
        self._devices = {(d.pool, d.name): d for gpu in self.gpus for d in gpu.devices}

    def device(self, pool: str, name: str) -> Device | None:
        """The device of this name in this pool, or None when it is not published (any more)."""
        return self._devices.get((pool, name))


class InventoryReader:
    """Builds inventories; reads a pool again only when one of its ResourceSlices has changed."""

    def __init__(self) -> None:
        self._versions: dict[Key, ObjectVersion] = {}
        self._pool_of: dict[Key, str] = {}
        self._slices: dict[str, dict[Key, Mapping[str, Any]]] = defaultdict(dict)
        self._gpus: dict[str, list[PublishedGpu]] = {}
        self._kinds: dict[Hashable, Hashable] = {}
        self._inventory = Inventory()

    def read(self, slices: Iterable[Mapping[str, Any]]) -> Inventory:
        """The inventory of these ResourceSlice objects, which are all that there are."""
        return self.update(self.against(slices))

    def against(self, slices: Iterable[Mapping[str, Any]]) -> dict[Key, Mapping[str, Any] | None]:
        """What to update with when these are all ResourceSlices that there are."""
        return against(self._versions, slices)

    def update(self, changed: Mapping[Key, Mapping[str, Any] | None]) -> Inventory:
        """The inventory after these ResourceSlices may have changed (None: it is gone): the same object as
        before when nothing has.

        What is malformed is logged and left out, never half used.
        """
        pools: dict[str, None] = {}
        for key, obj in changed.items():
            if obj is not None and obj["spec"].get("driver") != names.DRIVER:
                obj = None
            version = version_of(obj)
            if version == self._versions.get(key):
                continue
            if key in self._versions:
                pool = self._pool_of.pop(key)
                del self._versions[key], self._slices[pool][key]
                pools[pool] = None
            if obj is not None and version is not None:
                pool = obj["spec"]["pool"]["name"]
                self._versions[key], self._pool_of[key] = version, pool
                self._slices[pool][key] = obj
                pools[pool] = None
        for pool in pools:
            specs = [obj["spec"] for obj in self._slices[pool].values()]
            if specs:
                self._gpus[pool] = self._read_newest(pool, specs)
            else:
                del self._slices[pool]
                self._gpus.pop(pool, None)
        if pools:
            self._inventory = Inventory(gpu for gpus in self._gpus.values() for gpu in gpus)
        return self._inventory

    def _read_newest(self, pool: str, specs: list[Mapping[str, Any]]) -> list[PublishedGpu]:
        newest = max(spec["pool"]["generation"] for spec in specs)
        current = [spec for spec in specs if spec["pool"]["generation"] == newest]
        if len(current) != current[0]["pool"]["resourceSliceCount"]:
            return []
        return [
            replace(gpu, kind=self._kinds.setdefault(gpu.kind, gpu.kind)) for gpu in _read_pool(pool, current)
        ]


def _read_pool(pool: str, specs: list[Mapping[str, Any]]) -> list[PublishedGpu]:
    totals = {
        counters["name"]: _amounts(counters["counters"])
        for spec in specs
        for counters in spec.get("sharedCounters") or ()
    }
    devices: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for spec in specs:
        for device in spec.get("devices") or ():
            for consumed in device.get("consumesCounters") or ():
                devices[spec.get("nodeName", pool), consumed["counterSet"]].append(device)
    gpus = []
    for (node, counter_set), published in devices.items():
        try:
            gpus.append(_read_gpu(pool, node, counter_set, published, totals[counter_set]))
        except (KeyError, ValueError, IllegalGeometry) as error:
            _log.error(
                "GPU %s of node %s is left out, its ResourceSlice is malformed: %r", counter_set, node, error
            )
    return gpus


def _read_gpu(
    pool: str, node: str, counter_set: str, published: list[Mapping[str, Any]], totals: Mapping[str, int]
) -> PublishedGpu:
    name = f"{node}/{counter_set}"
    views = [_view(device) for device in published]
    legal = [_placement(device, view, totals) for device, view in zip(published, views, strict=True)]
    first = views[0].attributes
    geometry = geometry_of(
        model=str(first[names.DRIVER, names.ATTRIBUTE_MODEL]),
        memory_slices=int(first[names.DRIVER, names.ATTRIBUTE_GPU_MEMORY_SLICES]),
        compute_slices=totals[names.COUNTER_COMPUTE_SLICES],
        placements=tuple(sorted(legal)),
        limits=tuple(sorted((name, total) for name, total in totals.items() if _is_shared(name, total))),
    )
    devices: dict[int, Device] = {}
    for device, view, placement in zip(published, views, legal, strict=True):
        index = geometry.index_of(placement.profile, placement.start)
        assert index is not None
        devices[index] = Device(
            name=device["name"],
            pool=pool,
            gpu=name,
            index=index,
            view=view,
            taints=read_taints(device.get("taints")),
        )
    ordered = tuple(devices[i] for i in range(len(geometry.placements)))
    return PublishedGpu(
        name, node, geometry, ordered, kind=(geometry, tuple(_appearance(d) for d in ordered))
    )


def _appearance(device: Device) -> Hashable:
    visible = frozenset(
        (key, type(value), value) for key, value in device.view.attributes.items() if key[1] not in VARYING
    )
    return visible, frozenset(device.view.capacity.items()), device.taints


def _view(device: Mapping[str, Any]) -> DeviceView:
    attributes: dict[tuple[str, str], AttributeValue] = {}
    for name, box in (device.get("attributes") or {}).items():
        value = next((box[kind] for kind in ("string", "int", "bool") if kind in box), None)
        if value is not None:
            attributes[_qualified(name)] = value
        elif "version" in box:
            attributes[_qualified(name)] = Version(box["version"])
    capacity = {
        _qualified(name): parse_quantity(str(box["value"]))
        for name, box in (device.get("capacity") or {}).items()
    }
    return DeviceView(driver=names.DRIVER, attributes=attributes, capacity=capacity)


def _placement(device: Mapping[str, Any], view: DeviceView, totals: Mapping[str, int]) -> LegalPlacement:
    """The placement; its extent must agree with the memory slices that the device draws, or the room would be
    counted wrong.
    """
    drawn = {
        n: a for consumed in device["consumesCounters"] for n, a in _amounts(consumed["counters"]).items()
    }
    start = int(view.attributes[names.DRIVER, names.ATTRIBUTE_START])
    width = int(view.attributes[names.DRIVER, names.ATTRIBUTE_MEMORY_SLICES])
    covered = {f"{names.COUNTER_MEMORY_SLICE}{start + i}" for i in range(width)}
    if {name for name in drawn if name.startswith(names.COUNTER_MEMORY_SLICE)} != covered:
        raise ValueError(
            f"{device['name']}: counters {sorted(drawn)} disagree with start {start}, {width} slices"
        )
    others = {n: a for n, a in drawn.items() if not _counts_slices(n)}
    return LegalPlacement(
        profile=str(view.attributes[names.DRIVER, names.ATTRIBUTE_PROFILE]),
        start=start,
        width=width,
        compute=drawn.get(names.COUNTER_COMPUTE_SLICES, 0),
        exclusive=tuple(sorted(name for name in others if totals[name] == 1)),
        draws=tuple(
            sorted((name, amount) for name, amount in others.items() if _is_shared(name, totals[name]))
        ),
    )


def _is_shared(counter: str, total: int) -> bool:
    """Whether the counter is an amount that placements share, beside slices and what exists only once."""
    return total > 1 and not _counts_slices(counter)


def _counts_slices(counter: str) -> bool:
    return counter.startswith(names.COUNTER_MEMORY_SLICE) or counter == names.COUNTER_COMPUTE_SLICES


def _amounts(counters: Mapping[str, Any]) -> dict[str, int]:
    return {name: int(parse_quantity(str(box["value"]))) for name, box in counters.items()}


def read_taints(taints: Iterable[Mapping[str, Any]] | None) -> tuple[Taint, ...]:
    """Taints as the API spells them, of devices and nodes alike."""
    return tuple(Taint(t.get("key", ""), t.get("value") or "", t.get("effect", "")) for t in taints or ())


def _qualified(name: str) -> tuple[str, str]:
    domain, _, local = name.rpartition("/")
    return (domain or names.DRIVER, local)
