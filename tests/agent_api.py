"""The four API verbs that one node agent uses, over objects in memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tessera.api.names import DRIVER
from tessera.kube.errors import NotFound
from tessera.kube.resources import GPU_NODES, NODES, RESOURCE_CLAIMS, RESOURCE_SLICES

NODE = "node-a"


class Listed(NamedTuple):
    """A list's items."""

    items: list[dict[str, Any]]


def _copied(value: Any) -> Any:
    """A copy by way of JSON, as over the wire; far quicker than `copy.deepcopy`."""
    return json.loads(json.dumps(value))


def _fresh() -> dict[tuple[str, str], dict[str, Any]]:
    return {(NODES.kind, NODE): {"metadata": {"name": NODE, "uid": "uid-of-node"}}}


@dataclass
class MemoryAPI:
    """Objects by kind and name; replaced and never changed, so that copies of a server share them."""

    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=_fresh)

    def copy(self) -> MemoryAPI:
        """Another server with the same objects."""
        return MemoryAPI(dict(self.objects))

    async def get(self, resource: Any, name: str, namespace: str | None = None) -> dict[str, Any]:
        """Raises `NotFound`."""
        if (resource.kind, name) not in self.objects:
            raise NotFound(404, "NotFound", f"{resource.kind} {name} not found")
        found: dict[str, Any] = _copied(self.objects[resource.kind, name])
        return found

    async def list(self, resource: Any, **_: Any) -> Listed:
        """All of that kind."""
        return Listed([_copied(item) for (kind, _), item in self.objects.items() if kind == resource.kind])

    async def apply(self, resource: Any, item: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Make or change."""
        key, new = (resource.kind, item["metadata"]["name"]), _copied(item)
        present = self.objects.get(key, {"metadata": {}})
        self.objects[key] = {**present, **new, "metadata": {**present["metadata"], **new["metadata"]}}
        stored: dict[str, Any] = _copied(self.objects[key])
        return stored

    async def delete(self, resource: Any, name: str, **_: Any) -> None:
        """Remove; harmless when it is gone."""
        self.objects.pop((resource.kind, name), None)

    def allocate(self, name: str, uid: str, devices: tuple[str, ...]) -> None:
        """A claim with an allocation on the node, as the scheduler writes it."""
        results = [
            {"request": f"slice-{number}", "driver": DRIVER, "pool": NODE, "device": device}
            for number, device in enumerate(devices)
        ]
        self.objects[RESOURCE_CLAIMS.kind, name] = {
            "metadata": {"namespace": "default", "name": name, "uid": uid},
            "status": {"allocation": {"devices": {"results": results}}},
        }

    def demand(self, gpu_uuid: str, *places: str) -> None:
        """The operator gives the GPU a layout, e.g. `2g.20gb@4`."""
        layout = [
            {"profile": profile, "start": int(start)}
            for profile, _, start in (place.partition("@") for place in places)
        ]
        self.specify({"uuid": gpu_uuid, "partition": "fixed", "layout": layout})

    def demand_nothing(self) -> None:
        """The operator takes the layout back: slices are cut on demand."""
        self.specify()

    def specify(self, *gpus: dict[str, Any]) -> None:
        """The operator writes the GPUNode's spec."""
        key = GPU_NODES.kind, NODE
        self.objects[key] = {**self.objects.get(key, {"metadata": {"name": NODE}}), "spec": {"gpus": gpus}}

    @property
    def status(self) -> dict[str, Any]:
        """The GPUNode's."""
        status: dict[str, Any] = self.objects[GPU_NODES.kind, NODE]["status"]
        return status

    def layout(self) -> dict[str, Any]:
        """How far the node's first GPU is with its layout; empty when it has none, or no GPU is known."""
        gpus = self.status["gpus"]
        found: dict[str, Any] = gpus[0].get("layout", {}) if gpus else {}
        return found

    def devices(self) -> Sequence[dict[str, Any]]:
        """What is published."""
        return [
            device
            for (kind, _), item in self.objects.items()
            if kind == RESOURCE_SLICES.kind
            for device in item["spec"].get("devices") or []
        ]

    def taints(self) -> dict[str, Sequence[dict[str, str]]]:
        """Taints of each published device, e.g. of `2g.20gb@4`."""
        return {
            "{}@{}".format(device["attributes"]["profile"]["string"], device["attributes"]["start"]["int"]): (
                device["taints"]
            )
            for device in self.devices()
        }

    def reported(self) -> dict[str, str]:
        """State of each MIG device that the GPUNode reports, by UUID."""
        return {
            instance["uuid"]: instance["state"]
            for gpu in self.status["gpus"]
            for instance in gpu.get("instances") or []
        }

    def pools(self) -> set[tuple[int, bool]]:
        """Generations of the published ResourceSlices, and whether as many are there as each of them says."""
        pools = [
            item["spec"]["pool"] for (kind, _), item in self.objects.items() if kind == RESOURCE_SLICES.kind
        ]
        return {(pool["generation"], pool["resourceSliceCount"] == len(pools)) for pool in pools}
