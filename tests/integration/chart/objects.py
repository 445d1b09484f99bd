"""The objects that the tests write: claims, pods, slices, allocations."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime
from typing import Any

from tessera.api import names

Object = dict[str, Any]
NODES = ("gpu-node-a", "gpu-node-b")
"""The nodes of the chart's cluster."""
DEVICE = "gpu-1f3c9a2e-1g-10gb-0"


def gated_namespace(name: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {names.NAMESPACE_GATE_LABEL: "enabled"}},
    }


def claim_spec(
    *, device_class: str = names.DEVICE_CLASS, tolerate_all: bool = False, alternatives: bool = False
) -> Object:
    """Asks for one device of a class, alone or as the first of two alternatives."""
    wish: Object = {"deviceClassName": device_class}
    if tolerate_all:
        wish["tolerations"] = [{"operator": "Exists"}]
    if alternatives:
        first = {"name": "small", **wish}
        return {
            "devices": {"requests": [{"name": "slice", "firstAvailable": [first, {"name": "large", **wish}]}]}
        }
    return {"devices": {"requests": [{"name": "slice", "exactly": wish}]}}


def claim(name: str, **wish: Any) -> Object:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name},
        "spec": claim_spec(**wish),
    }


def claim_template(name: str, **wish: Any) -> Object:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": name},
        "spec": {"spec": claim_spec(**wish)},
    }


def pod(
    name: str, *, claim: str | None = None, template: str | None = None, gates: tuple[str, ...] = ()
) -> Object:
    """A pod that uses a claim, by its name or by the name of its template, or none."""
    spec: Object = {
        "containers": [{"name": "main", "image": "example/image:1"}],
        "tolerations": [{"operator": "Exists"}],
        "schedulingGates": [{"name": gate} for gate in gates],
    }
    if claim or template:
        source = {"resourceClaimName": claim} if claim else {"resourceClaimTemplateName": template}
        spec["resourceClaims"] = [{"name": "slice", **source}]
        spec["containers"][0]["resources"] = {"claims": [{"name": "slice"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def marked_job(name: str) -> Object:
    """A Job whose pods may be moved, and that says nothing else."""
    metadata = {"annotations": {names.MOVABLE_ANNOTATION: "true"}}
    spec = {"template": {"metadata": metadata, "spec": pod(name)["spec"] | {"restartPolicy": "Never"}}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


def gpu_node(name: str) -> Object:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "GPUNode",
        "metadata": {"name": name},
        "spec": {"gpus": []},
    }


def resource_slice(
    node: str, *, driver: str = names.DRIVER, name: str | None = None, tainted: bool = True
) -> Object:
    """One slice of a pool with one device, of which our agents publish the like."""
    taint = {
        "key": names.DEVICE_TAINT_KEY,
        "value": names.DEVICE_TAINT_VALUE,
        "effect": names.DEVICE_TAINT_EFFECT,
    }
    device = {"name": DEVICE, **({"taints": [taint]} if tainted else {})}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": name or f"{node}-{uuid.uuid4().hex[:8]}"},
        "spec": {
            "driver": driver,
            "nodeName": node,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
            "devices": [device],
        },
    }


def allocation_of(node: str, *, driver: str = names.DRIVER) -> Object:
    """What an allocator writes: the device, and the node that it is on."""
    selector = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    return {
        "allocationTimestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "devices": {"results": [{"request": "slice", "driver": driver, "pool": node, "device": DEVICE}]},
        "nodeSelector": {"nodeSelectorTerms": [selector]},
    }


def lease(holder: str) -> Object:
    """The scheduler's Lease, as the election of the replica `holder` would write it."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": names.SCHEDULER_LEASE, "namespace": names.SYSTEM_NAMESPACE},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": now, "acquireTime": now},
    }


def node_status() -> Object:
    """A node that its kubelet has just found in good health."""
    room = {"cpu": "16", "memory": "64Gi", "pods": "110"}
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "Test",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
    return {"capacity": room, "allocatable": room, "conditions": [ready]}
