"""Which nodes are in change to a fixed layout, as anybody may see it in their GPUNodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Object = Mapping[str, Any]


def is_in_change(gpu_node: Object) -> bool:
    """Whether its spec has a layout, or MIG mode off, that its agent has not reported as applied."""
    told = (gpu_node.get("status") or {}).get("gpus") or ()
    layouts = {gpu["uuid"]: gpu.get("layout") or {} for gpu in told}
    applied = {
        (uuid, layout.get("generation"))
        for uuid, layout in layouts.items()
        if layout.get("state") == "Applied"
    }
    asked = (gpu_node.get("spec") or {}).get("gpus") or ()
    demanded = {
        (gpu["uuid"], gpu.get("layoutGeneration"))
        for gpu in asked
        if gpu.get("layout") is not None or gpu["migMode"] == "Disabled"
    }
    return not demanded <= applied


class NodesInChange:
    """Counts them; an informer of GPUNodes calls it."""

    def __init__(self) -> None:
        self._now: set[str] = set()
        self.most = 0
        """At once."""

    def __call__(self, kind: str, obj: Object, old: Object | None) -> None:
        """A GPUNode has changed."""
        name = obj["metadata"]["name"]
        if kind == "DELETED" or not is_in_change(obj):
            self._now.discard(name)
        else:
            self._now.add(name)
            self.most = max(self.most, len(self._now))
