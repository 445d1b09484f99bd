"""Reconcile a ``GPUNode``'s spec: which partition has each of its GPUs, and which fixed layout they get.

The agent makes the object and writes its status; the operator owns ``spec.gpus`` and nothing else of it. A
GPU keeps the layout that it has until its static partition has begun the node (`rollout`), and loses it at
once when no static partition has it any more: its slices are then cut on demand again, which disturbs nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from tessera.api.gpu_node import DesiredGPU, Place
from tessera.controllers.gpu_layout import plan_gpu, wishes_of
from tessera.controllers.gpu_view import GPU, layouts_of
from tessera.controllers.plan import Child, Object, Plan
from tessera.controllers.rollout import begun_in
from tessera.controllers.selection import spec_of
from tessera.kube.resources import GPU_NODES

KIND = GPU_NODES.kind


def reconcile(obj: Object, *, gpus: Iterable[GPU], owners: Mapping[str, Object]) -> Plan:
    """What the GPU node's spec should say, given all GPUs of the cluster and their owners."""
    metadata = obj["metadata"]
    if metadata.get("deletionTimestamp"):
        return Plan()
    layouts = layouts_of(obj)
    desired = []
    for gpu in sorted(gpus, key=lambda gpu: gpu.uuid):
        owner = owners.get(gpu.uuid)
        if gpu.node != metadata["name"] or owner is None:
            continue
        entry = DesiredGPU(
            uuid=gpu.uuid,
            partition=owner["metadata"]["name"],
            mig_mode=spec_of(owner).mig_mode,
            # The spec as it is now, not as it was when the view was made.
            layout=_layout(replace(gpu, layout=layouts.get(gpu.uuid)), owner),
        )
        desired.append(entry.to_json())
    present = sorted((obj.get("spec") or {}).get("gpus") or [], key=lambda entry: str(entry["uuid"]))
    if present == desired:
        return Plan()
    body = {"metadata": {"name": metadata["name"], "uid": metadata["uid"]}, "spec": {"gpus": desired}}
    return Plan(children=(Child(resource=GPU_NODES, body=body, owned=False),))


def _layout(gpu: GPU, owner: Object) -> list[Place] | None:
    static = spec_of(owner).static
    if static is None:
        return None
    places = gpu.layout.places if gpu.layout is not None else None
    judged = (owner.get("status") or {}).get("observedGeneration") == owner["metadata"].get("generation")
    if judged and gpu.node in begun_in(owner):
        plan = plan_gpu(gpu, wishes_of(static))
        places = plan.target if plan is not None else places
    return None if places is None else [Place(profile=p.profile, start=p.start) for p in places]
