"""GPUs, and what has struck them, read back from the ResourceSlices: the inverse of `devices.slices_for`.

A restarted agent knows of a lost GPU only what an agent before it has told the cluster. That is enough to
publish the very same devices again, now with the taint by which the pods on them are ended.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from tessera.agent.health import XID_CAUSE, Struck
from tessera.api import names
from tessera.gpu.device_names import counter_set_name
from tessera.gpu.driver import GPU
from tessera.gpu.profiles import GPUModel, Profile

log = logging.getLogger(__name__)

Object = Mapping[str, Any]

_NOT_TOLD = -1
"""NVML's numbers of a profile: only a GPU that answers is cut, and it tells them."""


def told_in(slices: Sequence[Object], gpu_node: Object) -> tuple[tuple[GPU, ...], tuple[Struck, ...]]:
    """What an agent before this one has told: its GPUs, and what has struck them.

    Nothing where it cannot be read, as after an agent of another version: GPUs that answer need none of it.
    """
    try:
        return gpus_in(slices), tuple(struck_in(slices, gpu_node))
    except (KeyError, ValueError) as error:
        log.error("what was published before cannot be read, lost GPUs are not offered: %r", error)
        return (), ()


def struck_in(slices: Iterable[Object], gpu_node: Object) -> Iterator[Struck]:
    """The instances in the GPUNode's status whose devices carry the taint of an Xid. Instances of a GPU do
    not overlap, so where a part of it is tainted, the instance with the taint is the one that was struck.
    """
    devices = _devices_by_gpu(_ours(slices))
    for gpu in (gpu_node.get("status") or {}).get("gpus") or ():
        taints = {device["name"]: _xid_taint(device) for device in devices.get(gpu["uuid"], ())}
        for instance in gpu.get("instances") or ():
            taint = taints.get(instance["device"])
            if taint is None or "uuid" not in instance:
                continue
            added = taint.get("timeAdded")
            yield Struck(
                gpu_uuid=gpu["uuid"],
                mig_uuid=instance["uuid"],
                mask=((1 << instance["size"]) - 1) << instance["start"],
                xid=int(taint["value"].removeprefix(XID_CAUSE)),
                everywhere=all(taints.values()),
                since=datetime.fromisoformat(added) if added else None,
            )


def _xid_taint(device: Object) -> Object | None:
    for taint in device.get("taints") or ():
        if taint["key"] == names.UNHEALTHY_TAINT_KEY and taint["value"].startswith(XID_CAUSE):
            found: Object = taint
            return found
    return None


def gpus_in(slices: Iterable[Object]) -> tuple[GPU, ...]:
    """Every GPU of our driver in these ResourceSlices, without instances."""
    ours = _ours(slices)
    compute_slices = {
        counters["name"]: int(counters["counters"][names.COUNTER_COMPUTE_SLICES]["value"])
        for spec in ours
        for counters in spec.get("sharedCounters") or ()
    }
    return tuple(
        _gpu(uuid, devices, compute_slices[counter_set_name(uuid)])
        for uuid, devices in _devices_by_gpu(ours).items()
        if counter_set_name(uuid) in compute_slices
    )


def _ours(slices: Iterable[Object]) -> list[Object]:
    """What the ResourceSlices of our driver say."""
    return [item["spec"] for item in slices if item["spec"]["driver"] == names.DRIVER]


def _devices_by_gpu(specs: Iterable[Object]) -> Mapping[str, list[Object]]:
    """The devices in the specs of ResourceSlices, by the UUID of their GPU."""
    found: dict[str, list[Object]] = defaultdict(list)
    for device in (one for spec in specs for one in spec.get("devices") or ()):
        found[device["attributes"][names.ATTRIBUTE_GPU_UUID]["string"]].append(device)
    return found


def _gpu(uuid: str, devices: list[Object], compute_slices: int) -> GPU:
    first = devices[0]["attributes"]
    by_profile: dict[str, list[Object]] = defaultdict(list)
    for device in devices:
        by_profile[device["attributes"][names.ATTRIBUTE_PROFILE]["string"]].append(device)
    whole = by_profile.get(names.WHOLE_GPU)
    model = GPUModel(
        name=first[names.ATTRIBUTE_MODEL]["string"],
        memory_slices=first[names.ATTRIBUTE_GPU_MEMORY_SLICES]["int"],
        compute_slices=compute_slices,
        profiles=tuple(_profile(name, alike) for name, alike in by_profile.items()),
    )
    return GPU(
        index=first[names.ATTRIBUTE_GPU_INDEX]["int"],
        uuid=uuid,
        product=first[names.ATTRIBUTE_PRODUCT_NAME]["string"],
        memory_mib=_mebibytes(whole[0]["capacity"][names.CAPACITY_MEMORY]["value"]) if whole else 0,
        architecture="",
        mig_current=whole is None,
        mig_pending=whole is None,
        model=model,
        instances=(),
    )


def _profile(name: str, devices: list[Object]) -> Profile:
    attributes, capacity = devices[0]["attributes"], devices[0]["capacity"]
    (consumed,) = devices[0]["consumesCounters"]
    engines = consumed["counters"].get(names.COUNTER_MEDIA_ENGINES)
    return Profile(
        name=name,
        enum=_NOT_TOLD,
        id=_NOT_TOLD,
        compute_slices=attributes[names.ATTRIBUTE_COMPUTE_SLICES]["int"],
        memory_slices=attributes[names.ATTRIBUTE_MEMORY_SLICES]["int"],
        starts=tuple(device["attributes"][names.ATTRIBUTE_START]["int"] for device in devices),
        max_count=len(devices),
        multiprocessors=int(capacity[names.CAPACITY_MULTIPROCESSORS]["value"]),
        memory_mib=_mebibytes(capacity[names.CAPACITY_MEMORY]["value"]),
        decoders=int(engines["value"]) if engines else None,
    )


def _mebibytes(quantity: str) -> int:
    """MiB of a quantity as `devices` writes it: `20090Mi`, `39Gi` or `0`."""
    if quantity.endswith("Gi"):
        return int(quantity[:-2]) * 1024
    return int(quantity.removesuffix("Mi"))
