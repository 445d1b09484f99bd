"""What others change of a node's objects, so that the agent looks at once and not at its next interval:

a restarted kubelet wipes the ResourceSlices, the operator writes the GPUNode's spec.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tessera.api.names import DRIVER
from tessera.kube.client import KubeClient
from tessera.kube.informer import Informer
from tessera.kube.resources import GPU_NODES, RESOURCE_SLICES


def watches_of(client: KubeClient, *, node: str, poke: Callable[[], None]) -> tuple[Informer, Informer]:
    """Informers that call `poke` when such a change has come; they are not started yet."""

    def slice_moved(kind: str, obj: dict[str, Any], old: dict[str, Any] | None) -> None:
        if kind == "DELETED":
            poke()

    def node_moved(kind: str, obj: dict[str, Any], old: dict[str, Any] | None) -> None:
        generations = {item["metadata"].get("generation") for item in (obj, old) if item is not None}
        if kind == "DELETED" or len(generations) > 1:
            poke()

    selector = f"spec.nodeName={node},spec.driver={DRIVER}"
    return (
        Informer(client, RESOURCE_SLICES, field_selector=selector, on_change=slice_moved),
        Informer(client, GPU_NODES, field_selector=f"metadata.name={node}", on_change=node_moved),
    )
