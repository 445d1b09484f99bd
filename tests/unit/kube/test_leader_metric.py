"""`tessera_leader` of a replica: 0 from the moment it stands for election, 1 while it leads."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from tessera.kube.client import KubeClient
from tessera.kube.errors import NotFound
from tessera.kube.lease import LeaderElector
from tessera.kube.resources import Resource
from tessera.metrics.registry import REGISTRY


class OneLease:
    """An API server that knows one Lease, and nobody else who wants it."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None

    async def get(self, resource: Resource, name: str, namespace: str) -> dict[str, Any]:
        """The Lease."""
        if self.lease is None:
            raise NotFound(404, "NotFound", f"{resource.plural} {namespace}/{name} is not there")
        return self.lease

    async def create(self, resource: Resource, obj: dict[str, Any]) -> dict[str, Any]:
        """Keeps it."""
        self.lease = obj
        return obj

    replace = create


def shown(lease: str) -> float | None:
    """The sample that a scrape would see."""
    return REGISTRY.get_sample_value("tessera_leader", {"process": lease})


async def test_a_replica_shows_whether_it_leads_before_it_ever_did() -> None:
    name = "shows-whether-it-leads"
    assert shown(name) is None
    elector = LeaderElector(cast(KubeClient, OneLease()), namespace="system", name=name, identity="pod-0")
    assert shown(name) == 0
    leads, may_end = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        leads.set()
        await may_end.wait()

    running = asyncio.create_task(elector.run(work))
    await leads.wait()
    assert shown(name) == 1
    may_end.set()
    await running
    assert shown(name) == 0
