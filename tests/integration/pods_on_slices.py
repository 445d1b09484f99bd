"""Pods that hold a slice, on nodes without a kubelet and without a scheduler."""

from __future__ import annotations

from datetime import UTC, datetime

from tessera.kube.client import KubeClient
from tessera.kube.resources import PODS, RESOURCE_CLAIMS


async def pod_on_slice(client: KubeClient, namespace: str, name: str, *, node: str, device: str) -> str:
    """A gated pod, its claim of the same name with the finalizer, and the allocation as the scheduler writes
    it; the pod's UID.
    """
    request = {"name": "slice", "exactly": {"deviceClassName": "slice.tessera.dev"}}
    await client.create(
        RESOURCE_CLAIMS,
        {
            "apiVersion": RESOURCE_CLAIMS.api_version,
            "kind": RESOURCE_CLAIMS.kind,
            "metadata": {
                "name": name,
                "namespace": namespace,
                "finalizers": ["resource.kubernetes.io/delete-protection"],
            },
            "spec": {"devices": {"requests": [request]}},
        },
    )
    pod = await client.create(
        PODS,
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "schedulingGates": [{"name": "tessera.dev/placement"}],
                "resourceClaims": [{"name": "slice", "resourceClaimName": name}],
                "containers": [
                    {"name": "main", "image": "none", "resources": {"claims": [{"name": "slice"}]}}
                ],
            },
        },
    )
    result = {"request": "slice", "driver": "gpu.tessera.dev", "pool": node, "device": device}
    reserved = {"resource": "pods", "name": name, "uid": pod["metadata"]["uid"]}
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    await client.patch(
        RESOURCE_CLAIMS,
        name,
        namespace=namespace,
        subresource="status",
        body={
            "status": {
                "allocation": {"allocationTimestamp": stamp, "devices": {"results": [result]}},
                "reservedFor": [reserved],
            }
        },
    )
    return str(pod["metadata"]["uid"])
