"""The nodes of a static partition as its rollout sees them: what each GPU is to get, and what hinders it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

from tessera.api.mig_partition import MIGPartitionSpec, Update
from tessera.api.reasons import Reason
from tessera.controllers.gpu_layout import plan_gpu, wishes_of
from tessera.controllers.gpu_view import GPU, WHOLE, by_node
from tessera.controllers.node_trouble import is_silent, node_trouble
from tessera.controllers.partition_verdicts import PartitionFacts, gpus_in_trouble
from tessera.controllers.plan import Object
from tessera.controllers.rollout import Node, Rollout, begun_in, is_judged, preview, roll_out

_ANSWER_TIME = timedelta(seconds=60)
"""How soon an agent says how far it is with a new layout; at work it does so within seconds."""
_MUTE = (
    "its agent has said nothing of the layout for a minute; look at the pod of DaemonSet tessera-agent there "
    "(kubectl get pods -n tessera-system -o wide)"
)
_NO_GPU = "its agent reports no GPU, as after a reboot until the driver is loaded; see that it is"
_SILENT = "its kubelet has stopped reporting; bring the node back, or take it out of spec.nodeSelector"
_UNKNOWN = (
    "its agent does not say what its GPUs can be cut into; it may be older than this operator: upgrade it"
)


def next_step(
    obj: Object, facts: PartitionFacts, *, nodes: Iterable[Object], now: datetime
) -> Rollout | None:
    """The rollout's next step, which a dry run shows only; None without a layout or a GPU to give it to.

    `nodes` are the Nodes of the cluster.
    """
    wishes = wishes_of(facts.spec)
    if wishes is None or not facts.counted:
        return None
    update = facts.spec.update or Update()
    begun = begun_in(obj)
    overdue = {name for name, since in begun.items() if now - since >= _ANSWER_TIME}
    silent = {node["metadata"]["name"] for node in nodes if is_silent(node)}
    found = []
    for name, gpus in by_node(facts.counted).items():
        plans = [plan_gpu(gpu, wishes) for gpu in gpus]
        known = tuple(plan for plan in plans if plan is not None)
        unknown = len(known) < len(plans)
        trouble = _trouble(name, gpus, facts, silent=silent, overdue=overdue)
        if unknown and not trouble:
            trouble = f"node {name}: {_UNKNOWN}"
        found.append(Node(name=name, plans=known, trouble=trouble, unknown=unknown))
    for name in begun:
        if _is_empty(facts.gpu_nodes.get(name)):
            found.append(Node(name=name, plans=(), trouble=f"node {name}: {_NO_GPU}", unknown=True))
    if facts.spec.dry_run:
        return preview(found, update=update)
    if not is_judged(obj):  # another spec: the time to drain counts anew
        begun = dict.fromkeys(begun, now)
    return roll_out(found, update=update, begun=begun, now=now)


def _is_empty(gpu_node: Object | None) -> bool:
    """Whether the node is there and its agent reports no GPU."""
    return gpu_node is not None and not (gpu_node.get("status") or {}).get("gpus")


def _trouble(
    name: str, gpus: list[GPU], facts: PartitionFacts, *, silent: Collection[str], overdue: Collection[str]
) -> str:
    """What keeps these GPUs of the node from being changed, whoever uses them; empty when nothing does.
    `overdue` are nodes that were begun a while ago.
    """
    if name in silent:
        return f"node {name}: {_SILENT}"
    if name in facts.refused:
        return f"node {name}: {facts.refused[name]}"
    told = node_trouble({name: facts.gpu_nodes[name]}) or gpus_in_trouble(gpus, facts.offered_modes)
    if told is not None and not (told[0] is Reason.MIG_DISABLED and _may_be_off(gpus, facts.spec)):
        return told[1]
    if name in overdue and any(gpu.layout is not None and gpu.layout.state is None for gpu in gpus):
        return f"node {name}: {_MUTE}"
    return ""


def _may_be_off(gpus: Iterable[GPU], spec: MIGPartitionSpec) -> bool:
    """Whether MIG mode off is no trouble: it is to be off, or claims hold the GPUs where it is as a whole,
    which is the drain's to change.
    """
    off = [gpu for gpu in gpus if gpu.mig_mode != "Enabled"]
    return spec.mig_mode == "Disabled" or all(any(h.place in WHOLE for h in gpu.held) for gpu in off)
