"""What agents publish and users ask for, as the scheduler reads it: objects for its tests at every level."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tessera.api import names

Object = dict[str, Any]

H100 = {
    "1g.10gb": ((0, 1, 2, 3, 4, 5, 6), 1, 1, "9984Mi"),
    "1g.10gb+me": ((0, 1, 2, 3, 4, 5, 6), 1, 1, "9984Mi"),
    "1g.20gb": ((0, 2, 4, 6), 2, 1, "20090Mi"),
    "2g.20gb": ((0, 2, 4), 2, 2, "20090Mi"),
    "3g.40gb": ((0, 4), 4, 3, "40448Mi"),
    "4g.40gb": ((0,), 4, 4, "40448Mi"),
    "7g.80gb": ((0,), 8, 7, "81152Mi"),
}
"""Profile -> starts, memory slices, compute slices, memory."""
NOT_CUT = {names.WHOLE_GPU: ((0,), 8, 7, "81559Mi")}
"""The same for a GPU whose MIG mode is off."""
FOUR_PROFILES = ("1g.10gb", "2g.20gb", "3g.40gb", "7g.80gb")
"""Enough where the profiles are not the subject."""


def device_name(gpu: str, profile: str, start: int) -> str:
    return f"{gpu}-{profile.replace('.', '-').replace('+', '-')}-{start}"


def resource_slices(
    node: str,
    gpus: Sequence[str],
    *,
    profiles: Iterable[str] = tuple(H100),
    generation: int = 1,
    taints: Iterable[Object] = (),
    whole: Sequence[str] = (),
) -> list[Object]:
    """The ResourceSlices of a node with H100s, as docs/architecture.md says that the agent publishes them. Of
    the last ones, `whole`, MIG mode is off.
    """
    cut = {profile: H100[profile] for profile in profiles}
    managed = {"key": names.DEVICE_TAINT_KEY, "value": "true", "effect": "NoSchedule"}

    def device(gpu: str, at: int, profile: str, start: int) -> Object:
        _, width, compute, memory = (cut | NOT_CUT)[profile]
        counters = {f"memory-slice-{start + i}": {"value": "1"} for i in range(width)}
        counters["compute-slices"] = {"value": str(compute)}
        if profile.endswith("+me"):
            counters["media-extensions"] = {"value": "1"}
        return {
            "name": device_name(gpu, profile, start),
            "attributes": {
                "profile": {"string": profile},
                "start": {"int": start},
                "memorySlices": {"int": width},
                "computeSlices": {"int": compute},
                "gpuMemorySlices": {"int": 8},
                "gpuUUID": {"string": f"GPU-{gpu.removeprefix('gpu-')}"},
                "gpuIndex": {"int": at},
                "model": {"string": "H100-80GB"},
                "productName": {"string": "NVIDIA H100 80GB HBM3"},
            },
            "capacity": {"memory": {"value": memory}},
            "consumesCounters": [{"counterSet": gpu, "counters": counters}],
            "taints": [managed, *taints],
        }

    devices = [
        device(gpu, at, profile, start)
        for at, gpu in enumerate([*gpus, *whole])
        for profile, (starts, *_) in (NOT_CUT if gpu in whole else cut).items()
        for start in starts
    ]
    shared = {f"memory-slice-{i}": "1" for i in range(8)} | {"compute-slices": "7"}
    if any(profile.endswith("+me") for profile in cut):
        shared["media-extensions"] = "1"
    counter_sets = [
        {"name": gpu, "counters": {name: {"value": value} for name, value in shared.items()}}
        for gpu in (*gpus, *whole)
    ]
    parts: list[Object] = [
        {"sharedCounters": counter_sets[i : i + 8]} for i in range(0, len(counter_sets), 8)
    ]
    parts += [{"devices": devices[i : i + 64]} for i in range(0, len(devices), 64)]
    return [
        {
            "metadata": {"name": f"{node}-{generation}-{i}"},
            "spec": {
                "driver": names.DRIVER,
                "nodeName": node,
                "pool": {"name": node, "generation": generation, "resourceSliceCount": len(parts)},
                **part,
            },
        }
        for i, part in enumerate(parts)
    ]


def exactly(profile: str, *, name: str = "slice", **more: Any) -> Object:
    """A request for one profile; `more` are further fields of it."""
    return devices_where(f'device.attributes["{names.DRIVER}"].profile == "{profile}"', name=name, **more)


def devices_where(expression: str, *, name: str = "slice", **more: Any) -> Object:
    """A request for devices of our class of which the CEL expression is true."""
    selectors = [{"cel": {"expression": expression}}]
    return {"name": name, "exactly": {"deviceClassName": names.DEVICE_CLASS, "selectors": selectors} | more}
