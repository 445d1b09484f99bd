"""What a rollout looks like from outside: the condition ``LayoutApplied``, counts, the diff, what blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice

from tessera.api.mig_partition import LayoutProgress, MIGPartitionSpec, NodeInChange
from tessera.api.reasons import Reason
from tessera.controllers.conditions import Status, Verdict
from tessera.controllers.rollout import Node, NodeState, Rollout
from tessera.kube.conditions import timestamp

LINES = 64
"""GPUs or blockers that a status names."""
_LINE_LIMIT = 2048
"""Characters of a line: an object must fit into etcd."""
_NAMED = 5
"""Nodes, or pods of a claim, that a message names."""
_FORMER = "or apply the former spec to go back; no further node is begun"


def progress_of(rollout: Rollout) -> LayoutProgress:
    """The part of the status."""
    updated = len(rollout.of(NodeState.UPDATED))
    unfinished = [node for node, state in rollout.nodes if state is not NodeState.UPDATED]
    return LayoutProgress(
        nodes=len(rollout.nodes),
        updated=updated,
        changing=len(rollout.of(NodeState.CHANGING)),
        blocked=len(rollout.of(NodeState.BLOCKED)),
        failed=len(rollout.of(NodeState.FAILED)),
        summary=f"{updated}/{len(rollout.nodes)}",
        begun=_in_change(rollout.begun),
        diff=_lines(_diff(unfinished)),
        blockers=_lines(line for node in unfinished for line in _blockers(node)),
    )


def record_of(begun: Mapping[str, datetime]) -> LayoutProgress | None:
    """What is kept while there is no rollout: the nodes that were begun are in change all the same."""
    return LayoutProgress(begun=_in_change(begun)) if begun else None


def _in_change(begun: Mapping[str, datetime]) -> list[NodeInChange]:
    return [NodeInChange(node=name, since=timestamp(at)) for name, at in sorted(begun.items())]


def layout_applied(rollout: Rollout | None, valid: Verdict, *, spec: MIGPartitionSpec) -> Verdict:
    """The condition; there is no rollout while `valid` (ProfilesValid) does not hold, or without a GPU."""
    if rollout is None:
        why = valid.reason if valid.status == "False" else Reason.RECONCILING
        return _said("Unknown", why, "nothing is changed, as Ready says")
    total, updated = len(rollout.nodes), len(rollout.of(NodeState.UPDATED))
    failed, blocked = rollout.of(NodeState.FAILED), rollout.of(NodeState.BLOCKED)
    changing, waiting = rollout.of(NodeState.CHANGING), rollout.of(NodeState.WAITING)
    have = "have MIG mode off" if spec.mig_mode == "Disabled" else "have the layout"
    if spec.dry_run:
        gpus = sum(1 for _ in _diff(node for node, _ in rollout.nodes))
        return _said("Unknown", Reason.DRY_RUN, f"dry run: {gpus} GPU(s) would change (status.layout.diff)")
    if failed:
        return _said("False", Reason.LAYOUT_FAILED, f"{_failure(failed[0])}, {_FORMER}{_more(failed)}")
    if updated == total:
        return _said("True", Reason.APPLIED, f"the GPUs of {total} node(s) {have}")
    done = f"{updated} of {total} nodes {have}"
    if changing or waiting:
        others = f", {len(waiting)} wait for their turn" if waiting else ""
        others += f", {len(blocked)} cannot be begun ({_first_blocker(blocked)})" if blocked else ""
        awaited = next((f" ({line})" for node in changing for line in _blockers(node)), "")
        names = _few([node.name for node in changing])
        return _said("False", Reason.UPDATING, f"{done}; in change: {names}{awaited}{others}")
    return _said("False", Reason.BLOCKED, f"{done}; none can be begun: {_first_blocker(blocked)}")


def _lines(found: Iterable[str]) -> list[str]:
    return [line[:_LINE_LIMIT] for line in islice(found, LINES)]


def _said(status: Status, reason: Reason, message: str) -> Verdict:
    return Verdict("LayoutApplied", status, reason, message)


def _failure(node: Node) -> str:
    for plan in node.plans:
        if plan.failed and plan.gpu.layout is not None:
            return f"GPU {plan.gpu.index} of node {node.name}: {plan.gpu.layout.message}; mend that"
    if node.leaving and not node.trouble:
        what, why = "drained", f"{next(_held(node))}; end these pods, or raise that limit"
    else:
        see = f"see `kubectl describe gn {node.name}`, and the pod of DaemonSet tessera-agent there"
        what, why = "changed", next(_blockers(node), see)
    return f"node {node.name} was not {what} within spec.update.drain.timeoutSeconds: {why}"


def _diff(nodes: Iterable[Node]) -> Iterator[str]:
    for node in nodes:
        for plan in node.plans:
            diff = plan.diff
            if diff:
                yield f"GPU {plan.gpu.index} of node {node.name}: {diff}"


def _blockers(node: Node) -> Iterator[str]:
    if node.trouble:
        yield node.trouble
    for gpu, place in node.foreign:
        yield (
            f"GPU {gpu.index} of node {node.name}: {place} was not made by Tessera; remove it on the node "
            f"(nvidia-smi mig -i {gpu.index} -dci, then -dgi)"
        )
    yield from _held(node)


def _held(node: Node) -> Iterator[str]:
    for plan, held in node.leaving:
        where, pods = f"GPU {plan.gpu.index} of node {node.name}", _few([str(pod) for pod in held.pods])
        yield f"{where}: {held.place} is held by claim {held.claim} (pods: {pods})"


def _first_blocker(nodes: Sequence[Node]) -> str:
    node = nodes[0]
    line = next(_blockers(node))
    if not node.trouble and not node.foreign:
        line += "; wait until the pods end, delete them, or set spec.update.drain.policy to Evict"
    return line + _more(nodes)


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED]) or "none"
    return shown + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _more(nodes: Sequence[Node]) -> str:
    return f" (and {len(nodes) - 1} more node(s))" if len(nodes) > 1 else ""
