"""Nodes, ResourceSlices, claims and pods made by hand on a real control plane, for the tests of the
scheduler.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import scheduler_objects
from eventually import eventually
from invariants import InvariantChecker
from scheduler_objects import Object
from tessera.api import names
from tessera.kube.client import KubeClient
from tessera.kube.conditions import micro_timestamp
from tessera.kube.errors import NotFound
from tessera.kube.resources import (
    EVENTS,
    LEASES,
    NODES,
    PODS,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
    Resource,
)


def resource_slices(node: str, gpu: str, *, whole: Sequence[str] = ()) -> list[Object]:
    """One H100 that is cut, and those whose MIG mode is off."""
    return scheduler_objects.resource_slices(
        node, [gpu], profiles=scheduler_objects.FOUR_PROFILES, whole=whole
    )


class Cluster:
    """Makes nodes, claims and pods for one test, and looks at them."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self.client = client
        self.namespace = namespace
        self.nodes: list[str] = []
        self._heart: asyncio.Task[None] | None = None

    async def add_node(self, letter: str, *, cpu: str = "8", whole: Sequence[str] = ()) -> str:
        """A Ready node with one GPU, and those whose MIG mode is off; named after the namespace so that tests
        do not meet.
        """
        name = f"{self.namespace}-{letter}"
        self.nodes.append(name)
        if self._heart is None:
            self._heart = asyncio.create_task(self._beat())
        status = {
            "capacity": {"cpu": cpu, "memory": "16Gi", "pods": "20"},
            "allocatable": {"cpu": cpu, "memory": "16Gi", "pods": "20"},
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "Test",
                    "lastHeartbeatTime": None,
                    "lastTransitionTime": None,
                }
            ],
        }
        await self.client.create(
            NODES,
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name, "labels": {"test": self.namespace}},
            },
        )
        await self.client.patch(NODES, name, body={"status": status}, subresource="status")

        async def untainted() -> bool:
            return not (await self.client.get(NODES, name))["spec"].get("taints")

        await eventually(f"node {name} without taints", untainted)
        for obj in resource_slices(name, self.gpu(letter), whole=whole):
            await self.client.create(RESOURCE_SLICES, obj)
        return name

    def gpu(self, letter: str) -> str:
        return f"gpu-{self.namespace.removeprefix('test-')[:7]}{letter}"

    async def alone(self) -> None:
        """No pod of an earlier test asks for a slice any more: the scheduler serves all namespaces, and those
        of ended tests take a while to go.
        """

        async def nobody_else() -> bool:
            listed = await self.client.list(PODS, field_selector="spec.nodeName=,status.phase=Pending")
            others = [
                pod["metadata"]
                for pod in listed.items
                if pod["metadata"]["namespace"] != self.namespace
                and pod["spec"].get("resourceClaims")
                and not pod["metadata"].get("deletionTimestamp")
            ]
            for pod in others:
                with suppress(NotFound):
                    await self.client.delete(PODS, pod["name"], namespace=pod["namespace"], grace_seconds=0)
            return not others

        await eventually("the end of earlier tests' pods", nobody_else)

    async def add_claim(self, name: str, *requests: Object) -> None:
        body = {"metadata": {"name": name}, "spec": {"devices": {"requests": list(requests)}}}
        whole = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim"} | body
        await self.client.create(RESOURCE_CLAIMS, whole, namespace=self.namespace)

    async def add_template(self, name: str, *requests: Object) -> None:
        body = {"metadata": {"name": name}, "spec": {"spec": {"devices": {"requests": list(requests)}}}}
        whole = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate"} | body
        await self.client.create(RESOURCE_CLAIM_TEMPLATES, whole, namespace=self.namespace)

    async def add_pod(
        self,
        name: str,
        *,
        claim: str | None = None,
        template: str | None = None,
        gated: bool = True,
        annotations: dict[str, str] | None = None,
        **spec: Any,
    ) -> Object:
        source = {"resourceClaimName": claim} if claim else {"resourceClaimTemplateName": template}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "annotations": annotations or {}},
            "spec": {
                "schedulingGates": [{"name": names.PLACEMENT_GATE}] if gated else [],
                "nodeSelector": {"test": self.namespace},
                "terminationGracePeriodSeconds": 0,
                "resourceClaims": [{"name": "slice", **source}] if claim or template else [],
                "containers": [
                    {
                        "name": "main",
                        "image": "example.invalid/none",
                        "resources": {
                            "requests": {"cpu": "1"},
                            **({"claims": [{"name": "slice"}]} if claim or template else {}),
                        },
                    }
                ],
            }
            | spec,
        }
        return await self.client.create(PODS, pod, namespace=self.namespace)

    async def pod(self, name: str) -> Object:
        return await self.client.get(PODS, name, self.namespace)

    async def claim(self, name: str) -> Object:
        return await self.client.get(RESOURCE_CLAIMS, name, self.namespace)

    async def message(self, claim: str) -> str:
        """Why the claim waits, as JSON that our scheduler wrote; empty while it says nothing."""
        return await self.annotation(claim, names.PLACEMENT_MESSAGE_ANNOTATION)

    async def annotation(self, claim: str, key: str) -> str:
        """Empty without it."""
        return str(((await self.claim(claim))["metadata"].get("annotations") or {}).get(key) or "")

    async def refusal(self, claim: str) -> Object:
        """The first message on the claim: reason and message."""
        found: Object = json.loads(await eventually("the message on the claim", lambda: self.message(claim)))
        return found

    async def bound(self, name: str, *, seconds: float = 30.0) -> str:
        """The node that kube-scheduler bound the pod to."""

        async def node() -> str:
            return str((await self.pod(name))["spec"].get("nodeName") or "")

        async def state() -> object:
            return (await self.pod(name))["status"], await self.reasons(name)

        return str(await eventually(f"pod {name} bound", node, seconds=seconds, state=state))

    async def devices(self, claim: str) -> list[str]:
        status = (await self.claim(claim)).get("status") or {}
        return [
            r["device"] for r in ((status.get("allocation") or {}).get("devices") or {}).get("results") or []
        ]

    async def delete_pod(self, name: str) -> None:
        await self.client.delete(PODS, name, namespace=self.namespace, grace_seconds=0)
        await eventually(f"pod {name} gone", partial(self.is_gone, PODS, name))

    async def is_gone(self, resource: Resource, name: str) -> bool:
        try:
            await self.client.get(resource, name, self.namespace)
        except NotFound:
            return True
        return False

    async def reasons(self, name: str) -> list[str]:
        """Reasons of the events on the object of that name, by our scheduler."""
        events = (await self.client.list(EVENTS, self.namespace)).items
        return [
            e["reason"]
            for e in events
            if e["regarding"]["name"] == name and e.get("reportingController") == "tessera.dev/scheduler"
        ]

    async def _beat(self) -> None:
        """Renew the nodes' Leases as kubelets do: a node without is not ready after 40 s."""
        while True:
            for node in list(self.nodes):
                spec = {"holderIdentity": node, "leaseDurationSeconds": 40, "renewTime": micro_timestamp()}
                lease = {"metadata": {"name": node, "namespace": "kube-node-lease"}, "spec": spec}
                await self.client.apply(LEASES, lease)
            await asyncio.sleep(5)

    async def clean_up(self) -> None:
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.gather(self._heart, return_exceptions=True)
        pods = (await self.client.list(PODS, self.namespace)).items
        for pod in pods:
            with suppress(NotFound):  # collected with its Job
                await self.client.delete(
                    PODS, pod["metadata"]["name"], namespace=self.namespace, grace_seconds=0
                )
        for node in self.nodes:
            for obj in resource_slices(node, "gpu-any"):
                await self.client.delete(RESOURCE_SLICES, obj["metadata"]["name"])
            await self.client.delete(NODES, node)


@asynccontextmanager
async def watched_cluster(client: KubeClient, namespace: str, *, kubeconfig: Path) -> AsyncIterator[Cluster]:
    """A `Cluster` for one test, with the invariants watched until its objects go."""
    made = Cluster(client, namespace)
    try:
        await made.alone()
        with InvariantChecker(kubeconfig, newcomers_only=True):
            yield made
    finally:
        await made.clean_up()
