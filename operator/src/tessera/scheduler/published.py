"""ResourceSlices -> the GPUs of the cluster, with their geometries and devices.

A pool (one node) is read only when all ResourceSlices of its newest generation are there: while an agent
replaces them, half of a GPU would look like a GPU with less room. The devices that draw on one counter set
are one GPU. Thousands of GPUs publish the same but for names: what they have in common is read once.
"""

from __future__ import annotations

import logging
import marshal
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tessera.api import names
from tessera.placement.geometry import Geometry, IllegalGeometry, LegalPlacement, geometry_of
from tessera.scheduler.changes import Key, ObjectVersion, against, version_of
from tessera.scheduler.inventory import VARYING, Device, Inventory, Kind, PublishedGpu, Taint, read_taints
from tessera.scheduler.quantity import parse_quantity
from tessera.scheduler.selectors import AttributeValue, DeviceView, Version

_log = logging.getLogger(__name__)

_MOST_FACTS = 20_000
"""Of devices that differ; a cluster of one model has some dozens."""


@dataclass(frozen=True, slots=True, eq=False)
class _Facts:
    """What devices have in common that differ in their names and in `VARYING` attributes only."""

    placement: LegalPlacement
    view: DeviceView
    taints: tuple[Taint, ...]


@dataclass(frozen=True, slots=True)
class _Shape:
    """Of GPUs that publish the same facts in the same order: at which index of the geometry each stands."""

    geometry: Geometry
    order: tuple[int, ...]
    kind: Kind


class InventoryReader:
    """Builds inventories; reads a pool again only when one of its ResourceSlices has changed, and what its
    devices have in common with others only once.
    """

    def __init__(self) -> None:
        self._versions: dict[Key, ObjectVersion] = {}
        self._pool_of: dict[Key, str] = {}
        self._slices: dict[str, dict[Key, Mapping[str, Any]]] = defaultdict(dict)
        self._gpus: dict[str, list[PublishedGpu]] = {}
        self._facts: dict[bytes, _Facts] = {}
        self._shapes: dict[tuple[_Facts, ...], _Shape] = {}
        self._kinds: dict[Kind, Kind] = {}
        self._inventory = Inventory()
        self._stale = False

    def read(self, slices: Iterable[Mapping[str, Any]]) -> Inventory:
        """The inventory of these ResourceSlice objects, which are all that there are."""
        return self.update(self.against(slices))

    def against(self, slices: Iterable[Mapping[str, Any]]) -> dict[Key, Mapping[str, Any] | None]:
        """What to update with when these are all ResourceSlices that there are."""
        return against(self._versions, slices)

    def update(self, changed: Mapping[Key, Mapping[str, Any] | None]) -> Inventory:
        """The inventory after these ResourceSlices may have changed (None: it is gone): the same object as
        before when nothing has.
        """
        self.take_note(changed)
        if self._stale:
            self._stale = False
            self._inventory = Inventory(gpu for gpus in self._gpus.values() for gpu in gpus)
        return self._inventory

    def take_note(self, changed: Mapping[Key, Mapping[str, Any] | None]) -> None:
        """Read these ResourceSlices for a later `update`.

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
        self._stale = self._stale or bool(pools)

    def _read_newest(self, pool: str, specs: list[Mapping[str, Any]]) -> list[PublishedGpu]:
        newest = max(spec["pool"]["generation"] for spec in specs)
        current = [spec for spec in specs if spec["pool"]["generation"] == newest]
        if len(current) != current[0]["pool"]["resourceSliceCount"]:
            return []
        return self._read_pool(pool, current)

    def _read_pool(self, pool: str, specs: list[Mapping[str, Any]]) -> list[PublishedGpu]:
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
                gpus.append(self._read_gpu(pool, node, counter_set, published, totals[counter_set]))
            except (KeyError, ValueError, IllegalGeometry) as error:
                _log.error(
                    "GPU %s of node %s is left out, its ResourceSlice is malformed: %r",
                    counter_set,
                    node,
                    error,
                )
        return gpus

    def _read_gpu(
        self,
        pool: str,
        node: str,
        counter_set: str,
        published: list[Mapping[str, Any]],
        totals: Mapping[str, int],
    ) -> PublishedGpu:
        name = f"{node}/{counter_set}"
        mark = repr(sorted(totals.items()))
        facts = tuple(self._facts_of(device, totals, mark) for device in published)
        shape = self._shapes.get(facts)
        if shape is None:
            shape = self._shape_of(facts, totals)
        devices = {
            index: Device(device["name"], pool, name, index, _view_of(device, one), one.taints)
            for device, one, index in zip(published, facts, shape.order, strict=True)
        }
        ordered = tuple(devices[i] for i in range(len(shape.geometry.placements)))
        return PublishedGpu(name, node, shape.geometry, ordered, shape.kind)

    def _facts_of(self, device: Mapping[str, Any], totals: Mapping[str, int], mark: str) -> _Facts:
        common = {
            name: box
            for name, box in (device.get("attributes") or {}).items()
            if name.rpartition("/")[2] not in VARYING
        }
        counters = [consumed["counters"] for consumed in device["consumesCounters"]]
        # Version 2 of the format depends on nothing but the values.
        content = marshal.dumps((common, device.get("capacity"), counters, device.get("taints"), mark), 2)
        found = self._facts.get(content)
        if found is None:
            if len(self._facts) >= _MOST_FACTS:
                self._facts.clear()
                self._shapes.clear()
            view = DeviceView(names.DRIVER, _attributes(common), _capacity(device))
            found = _Facts(_placement(device, view, totals), view, read_taints(device.get("taints")))
            self._facts[content] = found
        return found

    def _shape_of(self, facts: tuple[_Facts, ...], totals: Mapping[str, int]) -> _Shape:
        """Raises KeyError, ValueError and IllegalGeometry where the devices do not make a GPU."""
        first = facts[0].view.attributes
        geometry = geometry_of(
            model=str(first[names.DRIVER, names.ATTRIBUTE_MODEL]),
            memory_slices=int(first[names.DRIVER, names.ATTRIBUTE_GPU_MEMORY_SLICES]),
            compute_slices=totals[names.COUNTER_COMPUTE_SLICES],
            placements=tuple(sorted(one.placement for one in facts)),
            limits=tuple(sorted((name, total) for name, total in totals.items() if _is_shared(name, total))),
        )
        order = []
        for one in facts:
            index = geometry.index_of(one.placement.profile, one.placement.start)
            assert index is not None
            order.append(index)
        by_index = dict(zip(order, facts, strict=True))
        looks = tuple(_appearance(by_index[i]) for i in range(len(geometry.placements)))
        kind = Kind((geometry, looks))
        shape = _Shape(geometry, tuple(order), self._kinds.setdefault(kind, kind))
        self._shapes[facts] = shape
        return shape


def _appearance(facts: _Facts) -> Hashable:
    visible = frozenset((key, type(value), value) for key, value in facts.view.attributes.items())
    return visible, frozenset(facts.view.capacity.items()), facts.taints


def _view_of(device: Mapping[str, Any], facts: _Facts) -> DeviceView:
    own = {
        name: box
        for name, box in (device.get("attributes") or {}).items()
        if name.rpartition("/")[2] in VARYING
    }
    return DeviceView(names.DRIVER, {**facts.view.attributes, **_attributes(own)}, facts.view.capacity)


def _attributes(boxes: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], AttributeValue]:
    attributes: dict[tuple[str, str], AttributeValue] = {}
    for name, box in boxes.items():
        value = next((box[kind] for kind in ("string", "int", "bool") if kind in box), None)
        if value is not None:
            attributes[_qualified(name)] = value
        elif "version" in box:
            attributes[_qualified(name)] = Version(box["version"])
    return attributes


def _capacity(device: Mapping[str, Any]) -> dict[tuple[str, str], Fraction]:
    return {
        _qualified(name): parse_quantity(str(box["value"]))
        for name, box in (device.get("capacity") or {}).items()
    }


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


def _qualified(name: str) -> tuple[str, str]:
    domain, _, local = name.rpartition("/")
    return (domain or names.DRIVER, local)
