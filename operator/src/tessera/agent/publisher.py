"""Keeping a node's ResourceSlices in the API server equal to what `devices.slices_for` wants.

The pool's generation grows only when the content changes: readers drop a pool whose slices disagree about
it, so every needless step is a moment without devices. New slices are applied before stale ones are
deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from tessera.agent.devices import Foreign, Offer, Owner, content_hash, slices_for
from tessera.agent.health import Ailments
from tessera.api.names import DRIVER
from tessera.gpu.driver import GPU
from tessera.kube.client import KubeClient
from tessera.kube.errors import NotFound
from tessera.kube.resources import RESOURCE_SLICES

log = logging.getLogger(__name__)


class Publisher:
    """Publishes one node's pool."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._owner: Owner | None = None
        self._last_generation = 0
        self._present: list[dict[str, Any]] = []

    def saw(self, owner: Owner, slices: Iterable[dict[str, Any]]) -> None:
        """The node and its ResourceSlices, of all drivers, as they were read just now."""
        self._owner = owner
        self._present = [item for item in slices if item["spec"]["driver"] == DRIVER]

    async def publish(
        self,
        gpus: Iterable[GPU],
        *,
        foreign: Foreign | None = None,
        offers: Mapping[str, Offer] | None = None,
        ailments: Ailments | None = None,
    ) -> None:
        """Bring the pool up to date from what was seen. Raises `ApiError` or `Unreachable`.

        `foreign` are the instances that are not ours and exclude placements; `offers` what GPUs with a fixed
        layout offer; `ailments` what is wrong with them.
        """
        assert self._owner is not None, "nothing was seen yet"
        bodies = partial(
            slices_for, self._owner, tuple(gpus), foreign=foreign, offers=offers, ailments=ailments
        )
        present = self._present
        # Slices may have been wiped (by a restarting kubelet): the pool goes on where it was.
        known = (item["spec"]["pool"]["generation"] for item in present)
        generation: int = max(known, default=self._last_generation)
        wanted = bodies(generation=generation)
        same_generation = {item["spec"]["pool"]["generation"] for item in present} <= {generation}
        if same_generation and content_hash(_essentials(present)) == content_hash(wanted):
            return
        wanted = bodies(generation=generation + 1)
        self._present = [await self._client.apply(RESOURCE_SLICES, item) for item in wanted]
        kept = {item["metadata"]["name"] for item in wanted}
        for item in present:
            if item["metadata"]["name"] not in kept:
                await self._delete(item["metadata"]["name"])
        log.info(
            "published %d ResourceSlices of node %s, generation %d",
            len(wanted),
            self._owner.name,
            generation + 1,
        )
        self._last_generation = generation + 1

    async def _delete(self, name: str) -> None:
        try:
            await self._client.delete(RESOURCE_SLICES, name)
        except NotFound:
            log.info("ResourceSlice %s was gone already", name)


def _essentials(present: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What of the stored slices we wrote: fields that the server adds to a taint (timeAdded) are left out."""
    return [
        {
            "metadata": {"name": item["metadata"]["name"]},
            "spec": {
                **item["spec"],
                **(
                    {"devices": [_device(device) for device in item["spec"]["devices"]]}
                    if item["spec"].get("devices")
                    else {}
                ),
            },
        }
        for item in present
    ]


def _device(device: dict[str, Any]) -> dict[str, Any]:
    taints = [
        {key: taint[key] for key in ("key", "value", "effect") if key in taint}
        for taint in device.get("taints") or []
    ]
    return {**device, "taints": taints}
