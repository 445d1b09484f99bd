"""Which partition has which GPU.

Every served partition (not a dry run, not being deleted) selects GPUs by node labels, model and
index. Where two select one GPU the older partition wins; of equal age, the one with the lower UID. The rule
looks at each GPU by itself, so two partitions may share a node, and it needs no memory: the same objects give
the same owners in every process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tessera.api.mig_partition import LabelRequirement, MIGPartitionSpec, NodeSelector
from tessera.controllers.gpu_view import GPU

Object = Mapping[str, Any]


def spec_of(partition: Object) -> MIGPartitionSpec:
    """The typed spec.

    Raises:
        pydantic.ValidationError: the stored object is not one that our CRD admits.
    """
    return MIGPartitionSpec.model_validate(partition.get("spec") or {})


def matches(selector: NodeSelector | None, labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels is selected; no selector selects all."""
    if selector is None:
        return True
    if any(labels.get(key) != value for key, value in (selector.match_labels or {}).items()):
        return False
    return all(_meets(requirement, labels) for requirement in selector.match_expressions or ())


def _meets(requirement: LabelRequirement, labels: Mapping[str, str]) -> bool:
    present = requirement.key in labels
    values = requirement.values or []
    if requirement.operator == "In":
        return present and labels[requirement.key] in values
    if requirement.operator == "NotIn":
        return not present or labels[requirement.key] not in values
    return present if requirement.operator == "Exists" else not present


def selected_nodes(spec: MIGPartitionSpec, nodes: Iterable[Object]) -> list[str]:
    """Names of the nodes that the node selector matches, sorted."""
    return sorted(
        node["metadata"]["name"]
        for node in nodes
        if matches(spec.node_selector, node["metadata"].get("labels") or {})
    )


def selected_gpus(spec: MIGPartitionSpec, nodes: Iterable[str], gpus: Iterable[GPU]) -> list[GPU]:
    """The GPUs of these nodes that the GPU filter lets through; never one that cannot do MIG."""
    wanted = frozenset(nodes)
    keep = spec.gpus
    return [
        gpu
        for gpu in gpus
        if gpu.node in wanted
        and not gpu.without_mig
        and (keep is None or keep.models is None or gpu.model in keep.models)
        and (keep is None or keep.indexes is None or gpu.index in keep.indexes)
    ]


def is_served(partition: Object) -> bool:
    """Whether the partition can have GPUs at all."""
    spec = spec_of(partition)
    return not spec.dry_run and not partition["metadata"].get("deletionTimestamp")


def seniority(partition: Object) -> tuple[str, str]:
    """Sort key: the one that sorts first wins."""
    metadata = partition["metadata"]
    return metadata["creationTimestamp"], metadata["uid"]


def owners(partitions: Iterable[Object], nodes: Sequence[Object], gpus: Sequence[GPU]) -> dict[str, Object]:
    """GPU UUID -> the partition that has it."""
    found: dict[str, Object] = {}
    for partition in sorted(filter(is_served, partitions), key=seniority):
        spec = spec_of(partition)
        for gpu in selected_gpus(spec, selected_nodes(spec, nodes), gpus):
            found.setdefault(gpu.uuid, partition)
    return found
