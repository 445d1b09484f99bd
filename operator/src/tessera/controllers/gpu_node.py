"""Reconcile a ``GPUNode``'s spec: which partition has each of its GPUs.

The agent makes the object and writes its status; the operator owns ``spec.gpus`` and nothing else of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from tessera.api.gpu_node import DesiredGPU
from tessera.controllers.gpu_view import GPU
from tessera.controllers.plan import Child, Object, Plan
from tessera.controllers.selection import spec_of
from tessera.kube.resources import GPU_NODES

KIND = GPU_NODES.kind


def reconcile(obj: Object, *, gpus: tuple[GPU, ...], owners: Mapping[str, Object]) -> Plan:
    """What the GPU node's spec should say, given all GPUs of the cluster and their owners."""
    metadata = obj["metadata"]
    if metadata.get("deletionTimestamp"):
        return Plan()
    desired = []
    for gpu in sorted(gpus, key=lambda gpu: gpu.uuid):
        owner = owners.get(gpu.uuid)
        if gpu.node != metadata["name"] or owner is None:
            continue
        spec = spec_of(owner)
        entry = DesiredGPU(uuid=gpu.uuid, partition=owner["metadata"]["name"], mig_mode=spec.mig_mode)
        desired.append(entry.to_json())
    present = sorted((obj.get("spec") or {}).get("gpus") or [], key=lambda entry: str(entry["uuid"]))
    if present == desired:
        return Plan()
    body = {"metadata": {"name": metadata["name"], "uid": metadata["uid"]}, "spec": {"gpus": desired}}
    return Plan(children=(Child(resource=GPU_NODES, body=body, owned=False),))
