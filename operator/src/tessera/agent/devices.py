"""A node's GPUs as ResourceSlices: a pure function from geometry to the objects of the pool.

Every legal placement of every GPU is one device that consumes the counters of its GPU: one counter per
memory slice (two devices that share a slice exclude each other), the compute slices, and on boards where
they bind the media engines. A GPU whose MIG mode is off has one placement, itself (`whole`). The API server's
limits shape the pool: counter sets and devices may not share a ResourceSlice; 8 counter sets, 64 devices per
slice; 32 counters per set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any, TypeVar

from tessera.agent.health import Ailment, Ailments
from tessera.agent.whole import present_model
from tessera.api import names
from tessera.gpu.device_names import counter_set_name, encode
from tessera.gpu.driver import GPU, GPUInstance
from tessera.gpu.profiles import GPUModel, Placement
from tessera.gpu.xids import Harm

COUNTER_SETS_PER_SLICE = 8
DEVICES_PER_SLICE = 64
COUNTERS_PER_SET = 32

Object = dict[str, Any]
Foreign = Mapping[str, Iterable[GPUInstance]]
"""Instances that are not ours, by GPU UUID."""
T = TypeVar("T")


class TooManyCounters(ValueError):
    """A GPU has more memory slices than one counter set may hold."""

    def __init__(self, model: str, counters: int) -> None:
        super().__init__(f"{model} needs {counters} counters; a counter set holds {COUNTERS_PER_SET}")


@dataclass(frozen=True, slots=True)
class Owner:
    """The Node object, which owns what is published for it: the slices go when the node goes."""

    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What a GPU offers that does not offer all it could, by name. `leaving` are those of its devices that
    claims hold and that go with them: nothing new may be placed there.
    """

    devices: frozenset[str]
    leaving: frozenset[str]


def device_at(gpu: GPU, instance: GPUInstance) -> str:
    """The name that the instance's placement has as a device."""
    assert gpu.model is not None
    profile = gpu.model.profile_name(instance.profile_id)
    return encode(gpu_uuid=gpu.uuid, profile=profile, start=instance.start)


def slices_for(
    owner: Owner,
    gpus: Iterable[GPU],
    *,
    generation: int,
    foreign: Foreign | None = None,
    offers: Mapping[str, Offer] | None = None,
    ailments: Ailments | None = None,
) -> list[Object]:
    """The pool's ResourceSlices:

    first those with counters, then those with devices. Empty without a usable GPU. Placements that overlap
    foreign instances stay listed, so that readers know the whole board, but carry a taint of their own.
    `offers`, by GPU UUID, are of the GPUs that do not offer all they could; what leaves has a taint too, and
    what is broken has the taint of the worst of its `ailments`. A GPU that is not cut and offers nothing is
    left out.
    """
    taken = {
        uuid: reduce(or_, (instance.mask for instance in instances), 0)
        for uuid, instances in (foreign or {}).items()
    }
    counter_sets, devices = [], []
    for gpu in gpus:
        model = present_model(gpu)
        if model is None:
            continue
        few = (offers or {}).get(gpu.uuid)
        offered = []
        for placement in model.placements():
            name = encode(gpu_uuid=gpu.uuid, profile=placement.profile.name, start=placement.start)
            if few is not None and name not in few.devices:
                continue
            taints = [_taint(names.DEVICE_TAINT_KEY)]
            if taken.get(gpu.uuid, 0) & placement.mask:
                taints.append(_taint(names.FOREIGN_TAINT_KEY))
            if few is not None and name in few.leaving:
                taints.append(_taint(names.LEAVING_TAINT_KEY))
            taints += _unhealthy((ailments or {}).get(gpu.uuid, ()), placement)
            offered.append(_device(gpu, model, placement, name=name, taints=taints))
        if offered or gpu.mig_current:
            counter_sets.append(_counter_set(gpu, model))
            devices += offered
    bodies: list[Object] = [
        {"sharedCounters": chunk} for chunk in _chunks(counter_sets, COUNTER_SETS_PER_SLICE)
    ]
    bodies += [{"devices": chunk} for chunk in _chunks(devices, DEVICES_PER_SLICE)]
    return [
        _resource_slice(owner, number, body, generation=generation, count=len(bodies))
        for number, body in enumerate(bodies)
    ]


def content_hash(slices: Sequence[Object]) -> str:
    """A digest of what is published, generation left out:

    the pool's generation grows only when this changes.
    """
    essence = [
        {**item["spec"], "pool": {**item["spec"]["pool"], "generation": 0}}
        for item in sorted(slices, key=lambda item: str(item["metadata"]["name"]))
    ]
    return hashlib.sha256(json.dumps(essence, sort_keys=True).encode()).hexdigest()


def _chunks(items: Sequence[T], size: int) -> Iterator[list[T]]:
    for first in range(0, len(items), size):
        yield list(items[first : first + size])


def _resource_slice(owner: Owner, number: int, body: Object, *, generation: int, count: int) -> Object:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {
            "name": f"{owner.name}-{names.DRIVER}-{number}",
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": owner.name, "uid": owner.uid, "controller": True}
            ],
        },
        "spec": {
            "driver": names.DRIVER,
            "nodeName": owner.name,
            "pool": {"name": owner.name, "generation": generation, "resourceSliceCount": count},
            **body,
        },
    }


def counters_of(model: GPUModel) -> dict[str, int]:
    """What a GPU of the model has, by counter."""
    counters = _memory_slices(range(model.memory_slices))
    counters[names.COUNTER_COMPUTE_SLICES] = model.compute_slices
    if any(profile.media_extensions for profile in model.profiles):
        counters[names.COUNTER_MEDIA_EXTENSIONS] = 1
    if model.media_engines:
        counters[names.COUNTER_MEDIA_ENGINES] = model.media_engines
    return counters


def consumed_by(placement: Placement, model: GPUModel) -> dict[str, int]:
    """What the placement takes of it."""
    profile = placement.profile
    consumed = _memory_slices(range(placement.start, placement.start + placement.size))
    consumed[names.COUNTER_COMPUTE_SLICES] = profile.compute_slices
    if profile.media_extensions:
        consumed[names.COUNTER_MEDIA_EXTENSIONS] = 1
    if model.media_engines and profile.decoders:
        consumed[names.COUNTER_MEDIA_ENGINES] = profile.decoders
    return consumed


def _counter_set(gpu: GPU, model: GPUModel) -> Object:
    counters = counters_of(model)
    if len(counters) > COUNTERS_PER_SET:
        raise TooManyCounters(model.name, len(counters))
    return {"name": counter_set_name(gpu.uuid), "counters": _values(counters)}


def _memory_slices(numbers: Iterable[int]) -> dict[str, int]:
    return {f"{names.COUNTER_MEMORY_SLICE}{number}": 1 for number in numbers}


def _values(counters: dict[str, int]) -> dict[str, dict[str, str]]:
    return {name: {"value": str(value)} for name, value in counters.items()}


def _mebibytes(value: int) -> str:
    """A quantity as the API server writes it back, so that what we read equals what we wrote."""
    if value == 0:
        return "0"
    return f"{value // 1024}Gi" if value % 1024 == 0 else f"{value}Mi"


def _taint(key: str) -> Object:
    return {"key": key, "value": names.DEVICE_TAINT_VALUE, "effect": names.DEVICE_TAINT_EFFECT}


def _unhealthy(ailments: Iterable[Ailment], placement: Placement) -> list[Object]:
    """The taint for the worst of what concerns the placement, if anything does.

    NoExecute ends the pods on it, whatever their PodDisruptionBudgets say: only where nothing can run.
    """
    harmful = [one for one in ailments if one.harm is not Harm.NONE and one.concerns(placement.mask)]
    if not harmful:
        return []
    worst = max(harmful, key=lambda ailment: ailment.harm)
    effect = "NoExecute" if worst.harm is Harm.RESET else "NoSchedule"
    return [{"key": names.UNHEALTHY_TAINT_KEY, "value": worst.cause, "effect": effect}]


def _device(gpu: GPU, model: GPUModel, placement: Placement, *, name: str, taints: list[Object]) -> Object:
    profile = placement.profile
    return {
        "name": name,
        "attributes": {
            names.ATTRIBUTE_PROFILE: {"string": profile.name},
            names.ATTRIBUTE_START: {"int": placement.start},
            names.ATTRIBUTE_MEMORY_SLICES: {"int": profile.memory_slices},
            names.ATTRIBUTE_COMPUTE_SLICES: {"int": profile.compute_slices},
            names.ATTRIBUTE_GPU_MEMORY_SLICES: {"int": model.memory_slices},
            names.ATTRIBUTE_GPU_UUID: {"string": gpu.uuid},
            names.ATTRIBUTE_GPU_INDEX: {"int": gpu.index},
            names.ATTRIBUTE_MODEL: {"string": model.name[:64]},
            names.ATTRIBUTE_PRODUCT_NAME: {"string": gpu.product[:64]},
        },
        "capacity": {
            names.CAPACITY_MEMORY: {"value": _mebibytes(profile.memory_mib or 0)},
            names.CAPACITY_MULTIPROCESSORS: {"value": str(profile.multiprocessors or 0)},
        },
        "consumesCounters": [
            {"counterSet": counter_set_name(gpu.uuid), "counters": _values(consumed_by(placement, model))}
        ],
        "taints": taints,
    }
