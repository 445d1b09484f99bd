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
from tessera.kube.informer import Informer, Key, key_of
from tessera.kube.resources import (
    DEVICE_CLASSES,
    GPU_NODES,
    MIG_PARTITIONS,
    NODES,
    PODS,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
    Resource,
)
from tessera.scheduler.reserves import has_rules
from tessera.scheduler.snapshot import News, SnapshotReader, Written

_log = logging.getLogger(__name__)

SYNC_SECONDS = 60.0
_GPU_NODES_SECONDS = 30.0
_SLICES_AT_ONCE = 250


class Followed:
    """The objects of one resource, and which of them may have changed since they were last taken."""

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        on_change: Callable[[], None],
        *,
        field_selector: str | None = None,
    ) -> None:
        self.informer = Informer(client, resource, field_selector=field_selector, on_change=self._note)
        self._on_change = on_change
        self._changed: dict[Key, None] = {}
        self._overlaid: dict[Key, None] = {}

    def take(self, written: Written | None = None) -> dict[Key, Object | None]:
        """The objects that may have changed, with those that were `written` in their place where these are
        newer; None: there is no such object (any more).
        """
        changed, self._changed = self._changed, {}
        if written is None:
            return {key: self._listed(key) for key in changed}
        # What was last shown as written may have been dropped there since.
        keys = changed | self._overlaid | dict.fromkeys(written.keys())
        listed = [obj for obj in map(self._listed, keys) if obj is not None]
        shown = {key_of(obj): obj for obj in written.over(listed)}
        self._overlaid = dict.fromkeys(written.keys())
        return {key: shown.get(key) for key in keys}

    def _listed(self, key: Key) -> Object | None:
        return self.informer.get(key[1], key[0])

    def take_all(self) -> None:
        """Let the next `take` give every object that there is."""
        self._changed |= dict.fromkeys(key_of(obj) for obj in self.informer.items())

    def _note(self, kind: str, obj: Object, old: Object | None) -> None:
        self._changed[key_of(obj)] = None
        self._on_change()


class Following:
    """The informers of one term of leadership."""

    def __init__(self, client: KubeClient, on_change: Callable[[], None]) -> None:
        self._client = client
        self.pods = Followed(
            client, PODS, on_change, field_selector="status.phase!=Succeeded,status.phase!=Failed"
        )
        self.nodes = Followed(client, NODES, on_change)
        self.claims = Followed(client, RESOURCE_CLAIMS, on_change)
        self.slices = Followed(
            client, RESOURCE_SLICES, on_change, field_selector=f"spec.driver={names.DRIVER}"
        )
        self._classes = Followed(client, DEVICE_CLASSES, on_change)
        self._partitions = Followed(client, MIG_PARTITIONS, on_change)
        self._needed = [f.informer for f in (self.pods, self.nodes, self.claims, self.slices, self._classes)]
        self._gpu_nodes: list[Object] = []
        self._gpu_nodes_for: list[str] = []
        self._gpu_nodes_at = float("-inf")

    async def start(self) -> None:
        """Start to follow and wait for the first lists.

        Raises TimeoutError when the API server does not give them, and ApiError or Unreachable when it does
        not say whether there are MIGPartitions.
        """
        for informer in (*self._needed, self._partitions.informer):
            informer.start()
        await asyncio.gather(*(informer.wait_synced(SYNC_SECONDS) for informer in self._needed))
        try:
            await self._client.list(MIG_PARTITIONS)
        except NotFound:
            _log.info("the kind MIGPartition is not installed; no room is reserved")
        else:
            await self._partitions.informer.wait_synced(SYNC_SECONDS)

    async def news(self, *, pods: Written, claims: Written) -> News:
        """What may have changed since the last news, under what was written since. Raises ApiError and
        Unreachable, and keeps the news then.
        """
        gpu_nodes = await self.gpu_nodes()
        return News(
            pods=self.pods.take(pods),
            claims=self.claims.take(claims),
            nodes=self.nodes.take(),
            slices=self.slices.take(),
            classes=self._classes.informer.items(),
            partitions=self._partitions.informer.items(),
            gpu_nodes=gpu_nodes,
        )

    async def read_devices(self, reader: SnapshotReader) -> None:
        """Let a new reader read the devices. Thousands of GPUs take seconds, in which others must have their
        turn: the Lease is to be renewed.
        """
        slices = list(self.slices.take().items())
        for at in range(0, len(slices), _SLICES_AT_ONCE):
            reader.read_devices(dict(slices[at : at + _SLICES_AT_ONCE]))
            await asyncio.sleep(0)

    def start_over(self) -> None:
        """Let the next news tell everything, for a reader that knows nothing yet."""
        for followed in (self.pods, self.nodes, self.claims, self.slices):
            followed.take_all()

    async def gpu_nodes(self) -> list[Object]:
        """The GPUNodes while a MIGPartition has such rules, at most half a minute old; else none. Raises
        ApiError and Unreachable.
        """
        keeping = sorted(
            f"{p['metadata']['uid']}/{p['metadata'].get('generation')}"
            for p in self._partitions.informer.items()
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
        await asyncio.gather(*(informer.stop() for informer in (*self._needed, self._partitions.informer)))
