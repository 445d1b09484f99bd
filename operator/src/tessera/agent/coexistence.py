"""Who else manages the GPUs of this node.

Two programs that cut the same GPU destroy each other's slices, and two that offer it give one memory slice to
two pods. NVIDIA has three such programs: mig-manager cuts GPUs by node labels, the device plugin offers them
as extended resources, the DRA driver as ResourceSlices of its own. Where one of them is at work the agent
offers nothing and changes nothing, and says who it is; when the other is gone it goes on by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tessera.agent.claim_reader import before_the_first_look
from tessera.agent.claims import PrepareError
from tessera.api.names import MIG_MANAGER_CONFIG_LABEL
from tessera.api.reasons import Reason
from tessera.kube.client import KubeClient
from tessera.kube.resources import NODES, RESOURCE_SLICES

Object = Mapping[str, Any]

_STATE = "nvidia.com/mig.config.state"
_DEPLOY = "nvidia.com/gpu.deploy.mig-manager"
_DEPLOY_PLUGIN = "nvidia.com/gpu.deploy.device-plugin"
_WHOLE_GPUS = "nvidia.com/gpu"
_PARTS = ("nvidia.com/mig-", "nvidia.com/gpu.shared")
"""MIG instances, and GPUs in time slices (the plugin's renameByDefault)."""
_DRA_DRIVER = "gpu.nvidia.com"


class Coexistence:
    """Looks for others on one node."""

    def __init__(self, client: KubeClient, *, node: str) -> None:
        self._client = client
        self._node = node
        self._looked = False
        self.found: tuple[str, ...] = ()
        """Who was there at the last look."""

    async def look(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """See who is there; returns what was read, the Node and its ResourceSlices of all drivers.

        Raises `ApiError` or `Unreachable`.
        """
        node = await self._client.get(NODES, self._node)
        slices = await self._client.list(RESOURCE_SLICES, field_selector=f"spec.nodeName={self._node}")
        self.found = others(node, slices.items)
        self._looked = True
        return node, slices.items

    async def refuse(self, *, timeout_seconds: float) -> None:
        """Raises `PrepareError` where somebody else is at work, or where nobody could look yet."""
        if not self._looked:
            async with before_the_first_look(f"Node {self._node}", timeout_seconds=timeout_seconds):
                await self.look()
        if self.found:
            raise PrepareError(Reason.MANAGED_BY_OTHERS, "; ".join(self.found))


def others(node: Object, slices: Iterable[Object]) -> tuple[str, ...]:
    """Each of them with what gave it away and how to remove it, by the Node and the ResourceSlices of the
    node; empty when Tessera is alone.
    """
    name = str(node["metadata"]["name"])
    return (
        *_mig_manager(name, node["metadata"].get("labels") or {}),
        *_device_plugin(name, (node.get("status") or {}).get("allocatable") or {}),
        *_dra_driver(name, slices),
    )


def _mig_manager(node: str, labels: Mapping[str, str]) -> Iterator[str]:
    """The GPU operator says by a label whether it is deployed; one that stands alone leaves two labels.

    The label that names its configuration may stay: imported partitions can select by it.
    """
    deployed = labels.get(_DEPLOY)
    if deployed == "true":
        found = f"label {_DEPLOY}=true"
    elif deployed is None and MIG_MANAGER_CONFIG_LABEL in labels and _STATE in labels:
        config = f"{MIG_MANAGER_CONFIG_LABEL}={labels[MIG_MANAGER_CONFIG_LABEL]}"
        found = f"labels {config} and {_STATE}={labels[_STATE]}"
    else:
        return
    yield (
        f"NVIDIA's mig-manager ({found}); remove it from this node: "
        f"kubectl label node {node} --overwrite {_DEPLOY}=false {_STATE}-"
    )


def _device_plugin(node: str, allocatable: Mapping[str, Any]) -> Iterator[str]:
    """The kubelet keeps the name of a resource whose plugin is gone, with the amount 0."""
    offered = [
        f"{resource}={amount}"
        for resource, amount in sorted(allocatable.items())
        if (resource == _WHOLE_GPUS or resource.startswith(_PARTS)) and str(amount) != "0"
    ]
    if offered:
        yield (
            f"NVIDIA's device plugin (allocatable {', '.join(offered)}); remove it from this node: "
            f"kubectl label node {node} --overwrite {_DEPLOY_PLUGIN}=false, or keep its DaemonSet away"
        )


def _dra_driver(node: str, slices: Iterable[Object]) -> Iterator[str]:
    names = sorted(item["metadata"]["name"] for item in slices if item["spec"]["driver"] == _DRA_DRIVER)
    if names:
        yield (
            f"NVIDIA's DRA driver (ResourceSlice {names[0]}); keep the kubelet plugin of {_DRA_DRIVER} off "
            f"this node, then kubectl delete resourceslice {' '.join(names)}"
        )
