"""The invariant checker on a real API server: it tells of what a test breaks, not of what it found there."""

from __future__ import annotations

import pytest
from eventually import eventually
from integration.scheduler_cluster import Cluster
from invariants import InvariantChecker
from scheduler_objects import device_name, exactly
from tessera.api import names
from tessera.kube.client import KubeClient
from tessera.kube.conditions import micro_timestamp
from tessera.kube.resources import RESOURCE_CLAIMS
from tessera.local.control_plane import ControlPlane

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


async def hold(cluster: Cluster, name: str, device: str, *, node: str) -> None:
    """A claim that holds the device, written as no scheduler would."""
    await cluster.add_claim(name, exactly("1g.10gb"))
    result = {"request": "slice", "driver": names.DRIVER, "pool": node, "device": device}
    allocation = {"allocationTimestamp": micro_timestamp()[:19] + "Z", "devices": {"results": [result]}}
    await cluster.client.patch(
        RESOURCE_CLAIMS,
        name,
        namespace=cluster.namespace,
        subresource="status",
        body={"status": {"allocation": allocation}},
    )


async def test_it_tells_of_what_breaks_while_it_watches_and_of_nothing_older(
    admin: KubeClient, namespace: str, control_plane: ControlPlane
) -> None:
    cluster = Cluster(admin, namespace)
    node = await cluster.add_node("a")
    gpu = cluster.gpu("a")
    try:
        await hold(cluster, "old-wide", device_name(gpu, "7g.80gb", 0), node=node)
        await hold(cluster, "old-small", device_name(gpu, "1g.10gb", 0), node=node)
        with InvariantChecker(control_plane.kubeconfig, newcomers_only=True) as quiet:
            await hold(cluster, "new-small", device_name(gpu, "1g.10gb", 4), node=node)

            async def seen() -> bool:
                return f"{namespace}/new-small" in quiet.claims_seen

            await eventually("the checker seeing the claim", seen)
        assert quiet.claims_seen == {f"{namespace}/new-small"}

        with (
            pytest.raises(AssertionError, match=r"new-2g .* overlaps .*new-3g"),
            InvariantChecker(control_plane.kubeconfig, newcomers_only=True) as alarmed,
        ):
            await hold(cluster, "new-2g", device_name(gpu, "2g.20gb", 4), node=node)
            await hold(cluster, "new-3g", device_name(gpu, "3g.40gb", 4), node=node)

            async def told() -> bool:
                return bool(alarmed.violations)

            await eventually("the violation", told)
    finally:
        await cluster.clean_up()
