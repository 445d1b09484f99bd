"""Reconcile a ``GPUNode``'s spec: which partition has each of its GPUs, and which fixed layout they get.

The agent makes the object and writes its status; the operator owns ``spec.gpus`` and nothing else of it. A
GPU keeps the layout that it has until its static partition has begun the node (`rollout`), and loses it at
once when no static partition has it any more: its slices are then cut on demand again, which disturbs nobody.
An agent that has started before its driver, as after a reboot, reports no GPU: what they are to be stays, or
anything could come to them before their layouts do.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from tessera.api.gpu_node import DesiredGPU, Place
from tessera.api.mig_partition import MIGPartitionSpec
from tessera.controllers.gpu_layout import plan_gpu, wishes_of
from tessera.controllers.gpu_view import GPU, WHOLE, layouts_of
from tessera.controllers.plan import Child, Object, Plan
from tessera.controllers.rollout import is_begun
from tessera.controllers.selection import spec_of
from tessera.kube.resources import GPU_NODES
from tessera.relayout.errors import ImpossibleLayout
from tessera.relayout.plan import Place as Placed

KIND = GPU_NODES.kind

_log = logging.getLogger(__name__)


def reconcile(obj: Object, *, gpus: Iterable[GPU], owners: Mapping[str, Object]) -> Plan:
    """What the GPU node's spec should say, given its GPUs and the owners of all GPUs."""
    metadata = obj["metadata"]
    reported = sorted(gpus, key=lambda gpu: gpu.uuid)
    if metadata.get("deletionTimestamp") or not reported:
        return Plan()
    layouts = layouts_of(obj)
    asked = (obj.get("spec") or {}).get("gpus") or []
    modes = {entry["uuid"]: entry["migMode"] for entry in asked}
    known: dict[str, _Owner] = {}
    desired = []
    for gpu in reported:
        if gpu.uuid not in owners:
            continue
        name = owners[gpu.uuid]["metadata"]["name"]
        owner = known[name] = known.get(name) or _owner(owners[gpu.uuid], node=gpu.node)
        # The layout as it is now, not as it was when the view was made.
        now = layouts.get(gpu.uuid)
        places = _places(replace(gpu, layout=now), owner)
        mode = owner.spec.mig_mode
        if mode == "Disabled" and places != WHOLE:  # until the node is begun
            mode = modes.get(gpu.uuid, "Unmanaged")
        entry = DesiredGPU(uuid=gpu.uuid, partition=name, mig_mode=mode)
        if places is not None:
            if places != WHOLE:
                entry.layout = [Place(profile=place.profile, start=place.start) for place in places]
            if now is not None and now.places == places:
                entry.layout_generation = now.generation
            else:
                entry.layout_generation = metadata["generation"] + 1
        desired.append(entry.to_json())
    present = sorted(asked, key=lambda entry: str(entry["uuid"]))
    if present == desired:
        return Plan()
    # It is refused when the object has changed since it was read: the generation that it will have is said.
    identity = {field: metadata[field] for field in ("name", "uid", "resourceVersion")}
    body = {"metadata": identity, "spec": {"gpus": desired}}
    return Plan(children=(Child(resource=GPU_NODES, body=body, owned=False),))


@dataclass(frozen=True)
class _Owner:
    spec: MIGPartitionSpec
    begun: bool
    """Whether it has begun this node."""


def _owner(partition: Object, *, node: str) -> _Owner:
    return _Owner(spec_of(partition), is_begun(partition, node=node))


def _places(gpu: GPU, owner: _Owner) -> tuple[Placed, ...] | None:
    wishes = wishes_of(owner.spec)
    if wishes is None:
        return None
    places = gpu.layout.places if gpu.layout is not None else None
    if places == WHOLE and owner.spec.mig_mode != "Disabled":
        places = None  # MIG mode comes first, so that the node can be begun
    if owner.begun:
        try:
            plan = plan_gpu(gpu, wishes)
        except ImpossibleLayout as error:
            # The GPU is another one than when the node was begun; the partition is about to say so.
            _log.warning("GPU %s of node %s keeps its layout: %s", gpu.index, gpu.node, error)
        else:
            places = plan.target if plan is not None else places
    return places
