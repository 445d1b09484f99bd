"""Reconcile a ``MIGPartition``: what it selects, what it has, how full it is, and what is wrong.

Pure: nodes, GPUs, the other partitions in; a status out, and the pods that a static layout drains. The
partition has no children; what it decides reaches the agents through the spec of each ``GPUNode`` (see
`gpu_node`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from tessera.api.mig_partition import (
    LayoutProgress,
    MIGPartitionStatus,
    PartitionGPUs,
    ProfileCount,
)
from tessera.api.reasons import Reason
from tessera.controllers.conditions import judge, news_of
from tessera.controllers.gpu_layout import wishes_of
from tessera.controllers.gpu_view import GPU, by_node
from tessera.controllers.partition_verdicts import (
    PartitionFacts,
    profiles_valid,
    verdicts_of,
)
from tessera.controllers.plan import Object, Plan
from tessera.controllers.rollout import Rollout, begun_in
from tessera.controllers.rollout_nodes import next_step
from tessera.controllers.rollout_report import layout_applied, progress_of, record_of
from tessera.controllers.selection import selected_gpus, selected_nodes, spec_of
from tessera.kube.resources import MIG_PARTITIONS

KIND = MIG_PARTITIONS.kind

NODES_SHOWN = 1000
CONFLICTS_SHOWN = 64

TOLD: Mapping[Reason, str] = {
    Reason.PARTITIONED: "Normal",
    Reason.CONFLICT: "Warning",
    Reason.NO_NODES_SELECTED: "Warning",
    Reason.NO_GPUS_SELECTED: "Warning",
    Reason.GPU_NODE_MISSING: "Warning",
    Reason.APPLIED: "Normal",
    Reason.UPDATING: "Normal",
    Reason.BLOCKED: "Warning",
    Reason.LAYOUT_FAILED: "Warning",
    Reason.IMPOSSIBLE_LAYOUT: "Warning",
    Reason.UNKNOWN_PROFILE: "Warning",
    Reason.ILLEGAL_PROFILE: "Warning",
    Reason.ILLEGAL_START: "Warning",
    Reason.DRIVER_MISSING: "Warning",
    Reason.NO_GPUS: "Warning",
    Reason.NVML_ERROR: "Warning",
    Reason.MIG_DISABLED: "Warning",
    Reason.GPU_UNHEALTHY: "Warning",
    Reason.MANAGED_BY_OTHERS: "Warning",
    Reason.KUBELET_NOT_REGISTERED: "Warning",
    Reason.RESERVES_NOT_MET: "Warning",
    Reason.RECONCILE_ERROR: "Warning",
}
"""Reasons that are worth an event when a condition takes them."""


@dataclass(frozen=True, kw_only=True)
class ClusterView:
    """What the caches know about nodes and GPUs."""

    nodes: Sequence[Object]
    gpu_nodes: Mapping[str, Object]
    """By node name."""
    gpus: tuple[GPU, ...]
    owners: Mapping[str, Object]
    """GPU UUID -> the partition that has it."""

    @cached_property
    def gpus_by_node(self) -> Mapping[str, Sequence[GPU]]:
        """The same GPUs, by node."""
        return by_node(self.gpus)


def reconcile(obj: Object, view: ClusterView, *, refused: Mapping[str, str], now: datetime) -> Plan:
    """What the partition's status should say. `refused`, by node: why its GPUNode cannot be written."""
    if obj["metadata"].get("deletionTimestamp"):
        return Plan()
    spec = spec_of(obj)
    nodes = selected_nodes(spec, view.nodes)
    with_gpus = [name for name in nodes if name in view.gpu_nodes]
    selected = selected_gpus(spec, with_gpus, view.gpus)
    uid = obj["metadata"]["uid"]
    owned = [gpu for gpu in selected if (o := view.owners.get(gpu.uuid)) and o["metadata"]["uid"] == uid]
    conflicts = _conflicts(uid, selected, view.owners)
    facts = PartitionFacts(
        spec=spec,
        nodes=tuple(nodes),
        gpu_nodes={name: view.gpu_nodes[name] for name in with_gpus},
        refused={name: refused[name] for name in with_gpus if name in refused},
        selected=tuple(selected),
        owned=tuple(owned),
        conflicts=tuple(conflicts),
        every_gpu=view.gpus,
    )
    valid = profiles_valid(facts)
    rollout = None if valid.status == "False" else next_step(obj, facts, nodes=view.nodes, now=now)
    layout = None if wishes_of(spec) is None else layout_applied(rollout, valid, spec=spec)
    verdicts = verdicts_of(facts, valid=valid, layout=layout)
    before = (obj.get("status") or {}).get("conditions")
    generation = obj["metadata"].get("generation")
    status = _status(facts, _progress(obj, facts, rollout))
    status["observedGeneration"] = generation
    status["conditions"] = judge(before, verdicts, generation=generation, now=now)
    return Plan(
        status=status,
        decides="layout" in status,
        evictions=rollout.evictions if rollout is not None else (),
        news=news_of(before, verdicts, told=TOLD),
        requeue_seconds=rollout.look_again_seconds if rollout is not None else None,
    )


def _conflicts(uid: str, selected: Sequence[GPU], owners: Mapping[str, Object]) -> list[str]:
    found = []
    for gpu in selected:
        owner = owners.get(gpu.uuid)
        if owner is not None and owner["metadata"]["uid"] != uid:
            found.append(
                f"GPU {gpu.index} ({gpu.uuid}) of node {gpu.node} belongs to {owner['metadata']['name']}"
            )
    return found


def _progress(obj: Object, facts: PartitionFacts, rollout: Rollout | None) -> LayoutProgress | None:
    if rollout is not None:
        return progress_of(rollout)
    if wishes_of(facts.spec) is None or facts.spec.dry_run:
        return None
    return record_of({name: at for name, at in begun_in(obj).items() if name in facts.gpu_nodes})


def _status(facts: PartitionFacts, layout: LayoutProgress | None) -> dict[str, object]:
    counted = facts.counted
    in_use = Counter(profile for gpu in counted for profile in gpu.in_use)
    warm = Counter(profile for gpu in counted for profile in gpu.warm)
    possible = {profile for gpu in counted for profile in gpu.profiles()}
    profiles = sorted(possible | {device.profile for gpu in counted for device in gpu.devices})
    largest = max(
        (device for gpu in counted if (device := gpu.largest_placeable()) is not None),
        key=lambda device: (device.memory_slices, device.compute_slices),
        default=None,
    )
    status = MIGPartitionStatus(
        nodes=list(facts.gpu_nodes)[:NODES_SHOWN],
        node_count=len(facts.gpu_nodes),
        gpus=PartitionGPUs(
            selected=len(facts.selected),
            owned=len(facts.owned),
            ready=sum(gpu.healthy and gpu.mig_mode in facts.offered_modes for gpu in facts.owned),
        ),
        slices=[
            ProfileCount(
                profile=profile,
                in_use=in_use[profile],
                warm=warm[profile],
                placeable=sum(1 for gpu in counted if gpu.placeable(profile, limit=1)),
            )
            for profile in profiles
        ],
        in_use=sum(in_use.values()),
        free_memory_slices=sum(gpu.free_memory_slices() for gpu in counted),
        total_memory_slices=sum(gpu.memory_slices for gpu in counted),
        largest_placeable=largest.profile if largest is not None else None,
        conflicts=list(facts.conflicts[:CONFLICTS_SHOWN]),
        layout=layout,
    )
    return status.to_json()
