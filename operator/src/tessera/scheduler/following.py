"""What a leader follows: the API objects of which a snapshot is made. A candidate follows nothing.

Pods, nodes, claims, ResourceSlices and DeviceClasses must have been listed once before anything is decided.
MIGPartitions only say what room to keep free and what may be moved, so that a cluster without that kind is
served all the same. GPUNodes say which GPU belongs to which partition; agents write their status with every
slice, which is of no interest here, so they are not watched but listed now and then, and only while a
partition has such rules.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from tessera.api import names
from tessera.kube.client import KubeClient, Object
from tessera.kube.errors import NotFound
from tessera.kube.informer import Informer
from tessera.kube.resources import (
    DEVICE_CLASSES,
    GPU_NODES,
    MIG_PARTITIONS,
    NODES,
    PODS,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from tessera.scheduler.reserves import has_rules

_log = logging.getLogger(__name__)

SYNC_SECONDS = 60.0
_GPU_NODES_SECONDS = 30.0


class Following:
    """The informers of one term of leadership."""

    def __init__(self, client: KubeClient, on_change: Callable[[str, Object, Object | None], None]) -> None:
        self._client = client
        self.pods = Informer(
            client, PODS, field_selector="status.phase!=Succeeded,status.phase!=Failed", on_change=on_change
        )
        self.nodes = Informer(client, NODES, on_change=on_change)
        self.claims = Informer(client, RESOURCE_CLAIMS, on_change=on_change)
        self.slices = Informer(
            client, RESOURCE_SLICES, field_selector=f"spec.driver={names.DRIVER}", on_change=on_change
        )
        self.classes = Informer(client, DEVICE_CLASSES, on_change=on_change)
        self.partitions = Informer(client, MIG_PARTITIONS, on_change=on_change)
        self._needed = (self.pods, self.nodes, self.claims, self.slices, self.classes)
        self._gpu_nodes: list[Object] = []
        self._gpu_nodes_for: list[str] = []
        self._gpu_nodes_at = float("-inf")

    async def start(self) -> None:
        """Start to follow and wait for the first lists.

        Raises TimeoutError when the API server does not give them, and ApiError or Unreachable when it does
        not say whether there are MIGPartitions.
        """
        for informer in (*self._needed, self.partitions):
            informer.start()
        await asyncio.gather(*(informer.wait_synced(SYNC_SECONDS) for informer in self._needed))
        try:
            await self._client.list(MIG_PARTITIONS)
        except NotFound:
            _log.info("the kind MIGPartition is not installed; no room is reserved")
        else:
            await self.partitions.wait_synced(SYNC_SECONDS)

    async def gpu_nodes(self) -> list[Object]:
        """The GPUNodes while a MIGPartition has such rules, at most half a minute old; else none. Raises
        ApiError and Unreachable.
        """
        keeping = sorted(
            f"{p['metadata']['uid']}/{p['metadata'].get('generation')}"
            for p in self.partitions.items()
            if has_rules(p)
        )
        if not keeping:
            self._gpu_nodes, self._gpu_nodes_for = [], []
            return []
        now = asyncio.get_running_loop().time()
        if keeping != self._gpu_nodes_for or now - self._gpu_nodes_at >= _GPU_NODES_SECONDS:
            self._gpu_nodes = (await self._client.list(GPU_NODES)).items
            self._gpu_nodes_for, self._gpu_nodes_at = keeping, now
        return self._gpu_nodes

    async def stop(self) -> None:
        """Stop following."""
        await asyncio.gather(*(informer.stop() for informer in (*self._needed, self.partitions)))
