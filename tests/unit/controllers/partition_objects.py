"""Partitions, nodes and what agents report and publish of them, as API objects; and the plan made for one.

`one_h100` is the smallest cluster in which a partition works; a test changes what it is about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tessera.controllers import partition
from tessera.controllers.gpu_view import GPU, gpus_of
from tessera.controllers.partition import ClusterView
from tessera.controllers.plan import Plan
from tessera.controllers.selection import owners
from unit.controllers.plan_words import NOW

Object = dict[str, Any]
# (profile, starts, memory slices, compute slices) of two models, from the table of MIG profiles.
H100 = (
    ("1g.10gb", range(7), 1, 1),
    ("2g.20gb", (0, 2, 4), 2, 2),
    ("3g.40gb", (0, 4), 4, 3),
    ("4g.40gb", (0,), 4, 4),
    ("7g.80gb", (0,), 8, 7),
)
A30 = (("1g.6gb", range(4), 1, 1), ("4g.24gb", (0,), 4, 4))


def uuid_of(node: str, index: int) -> str:
    return f"GPU-{node}-{index}"


def device_name(node: str, index: int, profile: str, start: int) -> str:
    return f"gpu-{node}{index}-{profile.replace('.', '-')}-{start}"


def resource_slices(node: str, index: int, table: Sequence[Any], *, generation: int = 1) -> list[Object]:
    """Counters first, then devices, as the agent publishes one GPU."""
    slices = table[-1][2]
    counter_set = f"gpu-{node}{index}"
    counters: Object = {f"memory-slice-{i}": {"value": "1"} for i in range(slices)}
    counters["compute-slices"] = {"value": str(table[-1][3])}
    devices = []
    for profile, starts, width, compute in table:
        for start in starts:
            used: Object = {f"memory-slice-{i}": {"value": "1"} for i in range(start, start + width)}
            used["compute-slices"] = {"value": str(compute)}
            attributes = {
                "profile": {"string": profile},
                "start": {"int": start},
                "memorySlices": {"int": width},
                "computeSlices": {"int": compute},
                "gpuUUID": {"string": uuid_of(node, index)},
            }
            devices.append(
                {
                    "name": device_name(node, index, profile, start),
                    "attributes": attributes,
                    "consumesCounters": [{"counterSet": counter_set, "counters": used}],
                }
            )
    pool = {"name": node, "generation": generation}
    common = {"driver": "gpu.tessera.dev", "pool": pool}
    return [
        {"spec": {**common, "sharedCounters": [{"name": counter_set, "counters": counters}]}},
        {"spec": {**common, "devices": devices}},
    ]


def node(name: str, **labels: str) -> Object:
    return {"metadata": {"name": name, "labels": labels}}


def gpu_report(name: str, index: int = 0, model: str = "H100-80GB", **fields: Any) -> Object:
    slices = 4 if model.startswith("A30") else 8
    return {
        "index": index,
        "uuid": uuid_of(name, index),
        "model": model,
        "migMode": "Enabled",
        "memorySlices": slices,
        "healthy": True,
        "instances": [],
        **fields,
    }


def cuttable(model: str, table: Sequence[Any]) -> Object:
    """What GPUs of the model can be cut into, as the agent says it."""
    profiles = [
        {"profile": profile, "starts": list(starts), "memorySlices": width, "computeSlices": compute}
        for profile, starts, width, compute in table
    ]
    whole = table[-1]
    return {"model": model, "memorySlices": whole[2], "computeSlices": whole[3], "profiles": profiles}


def gpu_node_object(
    name: str, *gpus: Object, ready: tuple[str, str, str] | None = ("True", "Published", "")
) -> Object:
    conditions = []
    if ready is not None:
        conditions = [{"type": "Ready", "status": ready[0], "reason": ready[1], "message": ready[2]}]
    models = {gpu["model"]: A30 if gpu["model"].startswith("A30") else H100 for gpu in gpus}
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "generation": 1, "resourceVersion": "1"},
        "status": {
            "observedGeneration": 1,
            "conditions": conditions,
            "gpus": list(gpus),
            "models": [cuttable(model, table) for model, table in models.items()],
        },
    }


def partition_object(name: str = "p", *, age: int = 0, uid: str = "uid-p", **spec: Any) -> Object:
    return {
        "apiVersion": "tessera.dev/v1alpha1",
        "kind": "MIGPartition",
        "metadata": {
            "name": name,
            "uid": uid,
            "generation": 1,
            "creationTimestamp": f"2026-01-01T00:00:{59 - age:02d}Z",
        },
        "spec": spec,
    }


def static_partition(*layout: Object, **spec: Any) -> Object:
    return partition_object(mode="static", static={"layout": list(layout)}, **spec)


def claim_on(name: str, device: str) -> Object:
    results = [{"driver": "gpu.tessera.dev", "pool": name, "device": device}]
    return {
        "metadata": {"namespace": "default", "name": device, "uid": f"uid-{device}"},
        "status": {"allocation": {"devices": {"results": results}}},
    }


def cluster(
    partitions: Sequence[Object],
    *,
    nodes: Sequence[Object] = (),
    gpu_nodes: Sequence[Object] = (),
    slices: Sequence[Object] = (),
    claims: Sequence[Object] = (),
) -> ClusterView:
    gpus: tuple[GPU, ...] = gpus_of(gpu_nodes, slices, claims)
    by_name: Mapping[str, Object] = {item["metadata"]["name"]: item for item in gpu_nodes}
    return ClusterView(nodes=nodes, gpu_nodes=by_name, gpus=gpus, owners=owners(partitions, nodes, gpus))


def one_h100(*partitions: Object, **more: Any) -> ClusterView:
    return cluster(
        partitions,
        nodes=[node("n1", pool="a")],
        gpu_nodes=[gpu_node_object("n1", gpu_report("n1"))],
        slices=resource_slices("n1", 0, H100),
        **more,
    )


def judged(obj: Object, view: ClusterView) -> Plan:
    return partition.reconcile(obj, view, refused={}, now=NOW)
