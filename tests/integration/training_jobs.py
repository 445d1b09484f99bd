"""A training job on a real API server: the object, its pod and claim, and what the schedulers and a kubelet
would do with them.
"""

from __future__ import annotations

from typing import Any

from eventually import eventually
from integration.pods_on_slices import allocate, bind
from tessera.api import names
from tessera.kube.client import KubeClient
from tessera.kube.conditions import find_condition
from tessera.kube.resources import HETEROGENEOUS_TRAINING_JOBS, PODS, RESOURCE_CLAIMS

Object = dict[str, Any]


def training_job(namespace: str, name: str = "train", **spec: Any) -> Object:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "HeterogeneousTrainingJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "workload": {"name": "noiser", "parameters": {"image": "astronaut", "steps": 50, "rate": 0.01}},
            "resources": {"slice": {"profile": "2g.20gb"}},
            **spec,
        },
    }


async def read(admin: KubeClient, namespace: str, name: str = "train") -> Object:
    return await admin.get(HETEROGENEOUS_TRAINING_JOBS, name, namespace)


async def condition(admin: KubeClient, namespace: str, type: str, reason: str, name: str = "train") -> Object:
    """The condition of that type, once it has that reason."""

    async def look() -> Any:
        obj = await read(admin, namespace, name)
        found = find_condition((obj.get("status") or {}).get("conditions"), type)
        return found if found and found["reason"] == reason else None

    found: Object = await eventually(f"{type} gets reason {reason}", look)
    return found


async def pod_of(admin: KubeClient, namespace: str) -> Object:
    async def look() -> Any:
        pods = await admin.list(PODS, namespace, label_selector=f"{names.TRAINING_JOB_LABEL}=train")
        return pods.items[0] if pods.items else None

    found: Object = await eventually("the Job makes a pod", look)
    return found


async def claim_of(admin: KubeClient, namespace: str) -> Object:
    async def look() -> Any:
        claims = await admin.list(RESOURCE_CLAIMS, namespace)
        return claims.items[0] if claims.items else None

    found: Object = await eventually("the claim is made", look)
    return found


async def say(admin: KubeClient, claim: Object, said: str) -> None:
    """Tell why the claim waits, as the scheduler does."""
    await admin.patch(
        RESOURCE_CLAIMS,
        claim["metadata"]["name"],
        namespace=claim["metadata"]["namespace"],
        body={"metadata": {"annotations": {names.PLACEMENT_MESSAGE_ANNOTATION: said}}},
    )


async def place(admin: KubeClient, namespace: str, node: str) -> Object:
    """Play both schedulers: the job's claim holds a device of the node and its pod is bound; the claim."""
    pod = await pod_of(admin, namespace)

    async def claim_named() -> Any:
        found = await admin.get(PODS, pod["metadata"]["name"], namespace)
        return (found.get("status") or {}).get("resourceClaimStatuses")

    (named,) = await eventually("the pod names its claim", claim_named)
    claim = await admin.get(RESOURCE_CLAIMS, named["resourceClaimName"], namespace)
    await allocate(admin, claim, pod=pod, node=node, device="gpu-1f3c9a2e-2g-20gb-4")
    await bind(admin, namespace, pod["metadata"]["name"], node=node)
    return claim


async def finish(admin: KubeClient, namespace: str, *, exit_code: int, message: str) -> None:
    """Play the kubelet: the job's pod ends."""
    pod = await pod_of(admin, namespace)
    ended = {
        "name": names.WORKER_CONTAINER,
        "image": "x",
        "imageID": "x",
        "ready": False,
        "restartCount": 0,
        "state": {
            "terminated": {
                "exitCode": exit_code,
                "reason": "Completed" if exit_code == 0 else "Error",
                "message": message,
                "finishedAt": "2026-01-01T00:00:00Z",
            }
        },
    }
    await admin.patch(
        PODS,
        pod["metadata"]["name"],
        namespace=namespace,
        subresource="status",
        body={
            "status": {
                "phase": "Succeeded" if exit_code == 0 else "Failed",
                "containerStatuses": [ended],
            }
        },
    )
