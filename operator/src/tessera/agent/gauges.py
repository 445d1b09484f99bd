"""The gauges of one node: slices by profile and state, health, and GPUs with a layout by how far it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from prometheus_client import Gauge

from tessera.agent.gpunode import View, instances_on, is_healthy
from tessera.metrics.registry import GPU_HEALTHY, LAYOUTS, SLICES


class NodeGauges:
    """Sets one node's gauges; combinations of labels that are gone go to zero."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._told: dict[Gauge, set[tuple[str, ...]]] = {}

    def show(self, view: View) -> None:
        """Set all of them."""
        gpus = view.inventory.gpus if view.inventory else ()
        slices: Counter[tuple[str, ...]] = Counter(
            (one["profile"], one["state"]) for gpu in gpus for one in instances_on(gpu, view.ledger)
        )
        layouts: Counter[tuple[str, ...]] = Counter((one.state,) for one in view.layouts.values())
        self._set(SLICES, slices)
        self._set(LAYOUTS, layouts)
        self._set(GPU_HEALTHY, {(gpu.uuid,): int(is_healthy(gpu, view)) for gpu in gpus})

    def _set(self, gauge: Gauge, counts: Mapping[tuple[str, ...], int]) -> None:
        told = self._told.setdefault(gauge, set())
        for labels in told | set(counts):
            gauge.labels(*labels, self._node).set(counts.get(labels, 0))
        told.update(counts)
