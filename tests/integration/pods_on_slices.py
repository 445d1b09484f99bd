"""Pods that hold a slice, on nodes without a kubelet and without a scheduler."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tessera.kube.client import KubeClient
from tessera.kube.resources import PODS, RESOURCE_CLAIMS

Object = dict[str, Any]


async def pod_on_slice(client: KubeClient, namespace: str, name: str, *, node: str, device: str) -> str:
    """A gated pod, its claim of the same name with the finalizer, and the allocation as the scheduler writes
    it; the pod's UID.
    """
    request = {"name": "slice", "exactly": {"deviceClassName": "slice.tessera.dev"}}
    claim = await client.create(
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
    await allocate(client, claim, pod=pod, node=node, device=device)
    return str(pod["metadata"]["uid"])


async def allocate(client: KubeClient, claim: Object, *, pod: Object, node: str, device: str) -> None:
    """The claim's only request gets the device, reserved for the pod, as the scheduler writes it."""
    (request,) = claim["spec"]["devices"]["requests"]
    result = {"request": request["name"], "driver": "gpu.tessera.dev", "pool": node, "device": device}
    reserved = {"resource": "pods", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    await client.patch(
        RESOURCE_CLAIMS,
        claim["metadata"]["name"],
        namespace=claim["metadata"]["namespace"],
        subresource="status",
        body={
            "status": {
                "allocation": {"allocationTimestamp": stamp, "devices": {"results": [result]}},
                "reservedFor": [reserved],
            }
        },
    )


async def bind(client: KubeClient, namespace: str, name: str, *, node: str) -> None:
    """The pod loses its gate and is bound, as kube-scheduler does it."""
    await client.patch(PODS, name, namespace=namespace, body={"spec": {"schedulingGates": None}})
    body = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    }
    await client.raw("POST", f"/api/v1/namespaces/{namespace}/pods/{name}/binding", body=body)
