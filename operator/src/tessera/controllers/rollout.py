"""Which nodes of a static partition may get its layout now. Pure: the same objects give the same answer.

A node that may is *begun*: the partition's status says so, and only then the GPUNode's spec gets the layout
(`gpu_node`). The record comes first, because what we see of the GPUNodes is a moment old: a decision from
them alone could be taken twice, for different nodes. One key has one worker, and the status is refused when
the partition has changed since it was read; so no more nodes are begun than allowed, whoever is killed and
whoever takes over.

A node counts as unavailable from then until its agent says that the layout stands. Nodes in change go first,
then the others by name. A failed node ends the beginning; those that were begun go on. A node has failed when
its agent says so, or when it has not come there in time, whoever died.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from tessera.api.mig_partition import BEGUN_LIMIT, Update
from tessera.controllers.gpu_layout import GPUPlan
from tessera.controllers.gpu_view import GPU, Held
from tessera.controllers.plan import Eviction, Object
from tessera.kube.conditions import find_condition
from tessera.relayout.plan import Place

_DRAIN_LOOK_SECONDS = 10.0
"""How soon a node that is drained is looked at again: a PodDisruptionBudget may allow more by then."""


class NodeState(StrEnum):
    """How far a node is."""

    UPDATED = "updated"
    CHANGING = "changing"
    FAILED = "failed"
    BLOCKED = "blocked"
    WAITING = "waiting"


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node with GPUs of the partition."""

    name: str
    plans: tuple[GPUPlan, ...]
    trouble: str = ""
    """Which node or GPU it is and why it cannot be changed, whoever uses it; empty when all can."""
    unknown: bool = False
    """Whether a GPU has no plan, because the agent does not say what it can be cut into; that is trouble."""

    @property
    def asked(self) -> bool:
        """Whether the spec has the layout for all its GPUs."""
        return not self.unknown and all(plan.asked for plan in self.plans)

    @property
    def leaving(self) -> tuple[tuple[GPUPlan, Held], ...]:
        """What claims hold and has to go, with its GPU's plan."""
        return tuple((plan, held) for plan in self.plans for held in plan.leaving)

    @property
    def foreign(self) -> tuple[tuple[GPU, Place], ...]:
        """Instances that Tessera did not make, with their GPUs."""
        return tuple((plan.gpu, place) for plan in self.plans for place in plan.gpu.foreign)

    @property
    def in_progress(self) -> bool:
        """Whether the agent has not brought a GPU to the layout that its spec has, this one or another. In
        trouble it is at work on none: the node waits for a repair, for as long as that takes.
        """
        layouts = (plan.gpu.layout for plan in self.plans)
        behind = any(layout is not None and layout.state != "Applied" for layout in layouts)
        return behind and not self.trouble


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """What is decided, and how far all nodes are."""

    nodes: tuple[tuple[Node, NodeState], ...]
    """By name."""
    begun: Mapping[str, datetime] = field(default_factory=dict)
    """Node -> since when."""
    evictions: tuple[Eviction, ...] = ()
    look_again_seconds: float | None = None

    def of(self, state: NodeState) -> list[Node]:
        """The nodes in this state."""
        return [node for node, reached in self.nodes if reached is state]


def begun_in(partition: Object) -> dict[str, datetime]:
    """Node -> since when it is begun, as the partition's status has it."""
    layout = (partition.get("status") or {}).get("layout") or {}
    return {item["node"]: datetime.fromisoformat(item["since"]) for item in layout.get("begun") or ()}


def is_judged(partition: Object) -> bool:
    """Whether the partition's status is about its present spec."""
    judged = (partition.get("status") or {}).get("observedGeneration")
    return bool(judged == partition["metadata"].get("generation"))


def is_begun(partition: Object, *, node: str) -> bool:
    """Whether the node may get the layout of the present spec. What not all of the GPUs can have no node
    gets; those that were begun before stay on record meanwhile.
    """
    valid = find_condition((partition.get("status") or {}).get("conditions"), "ProfilesValid")
    refused = valid is not None and valid["status"] == "False"
    return is_judged(partition) and not refused and node in begun_in(partition)


def allowed(update: Update, nodes: int) -> int:
    """How many of so many nodes may be in change at a time."""
    limit = update.max_unavailable
    if isinstance(limit, str):
        limit = max(1, nodes * int(limit.removesuffix("%")) // 100)
    return min(limit, BEGUN_LIMIT)


def roll_out(
    nodes: Iterable[Node], *, update: Update, begun: Mapping[str, datetime], now: datetime
) -> Rollout:
    """The next step. `begun` is what the partition's status has."""
    ordered = sorted(nodes, key=lambda node: node.name)
    states = {node.name: _state(node, begun.get(node.name), update, now) for node in ordered}
    done = NodeState.UPDATED
    kept = {name: at for name, at in begun.items() if states.get(name, done) is not done}
    added = _next(ordered, states, kept=frozenset(kept), update=update)
    states |= dict.fromkeys(added, NodeState.CHANGING)
    changing = [node for node in ordered if node.name in kept and states[node.name] is NodeState.CHANGING]
    drained, draining = (ordered, changing) if update.drain.policy == "Evict" else ([], [])
    evictions = (
        *(eviction for node in draining for eviction in _evictions(node)),
        *(eviction for node in drained for eviction in _stranded(node)),
    )
    looks = [(kept[node.name] + _time_limit(update) - now).total_seconds() for node in changing]
    if any(node.leaving for node in draining):
        looks.append(_DRAIN_LOOK_SECONDS)
    return Rollout(
        nodes=tuple((node, states[node.name]) for node in ordered),
        begun=kept | dict.fromkeys(added, now),
        evictions=evictions,
        look_again_seconds=min(looks, default=None),
    )


def preview(nodes: Iterable[Node], *, update: Update) -> Rollout:
    """What a dry run shows: nobody is begun."""

    def state(node: Node) -> NodeState:
        if not node.unknown and not any(plan.diff for plan in node.plans):
            return NodeState.UPDATED
        return NodeState.WAITING if _may_begin(node, update) else NodeState.BLOCKED

    ordered = sorted(nodes, key=lambda node: node.name)
    return Rollout(nodes=tuple((node, state(node)) for node in ordered))


def _state(node: Node, since: datetime | None, update: Update, now: datetime) -> NodeState:
    if any(plan.failed for plan in node.plans):
        return NodeState.FAILED
    if not node.unknown and all(plan.applied for plan in node.plans):
        return NodeState.UPDATED
    if since is not None or node.in_progress:
        late = since is not None and now >= since + _time_limit(update)
        return NodeState.FAILED if late else NodeState.CHANGING
    return NodeState.WAITING if _may_begin(node, update) else NodeState.BLOCKED


def _may_begin(node: Node, update: Update) -> bool:
    if node.trouble or node.foreign:
        return False
    return update.drain.policy == "Evict" or not node.leaving


def _next(
    nodes: Sequence[Node], states: Mapping[str, NodeState], *, kept: frozenset[str], update: Update
) -> list[str]:
    """Nodes to begin. One that is in change already, for what was asked before, takes no other's turn."""
    others = [node for node in nodes if node.name not in kept and (node.asked or _may_begin(node, update))]
    turning = [node.name for node in others if states[node.name] is NodeState.CHANGING]
    turning = turning[: BEGUN_LIMIT - len(kept)]
    if NodeState.FAILED in states.values():
        return turning
    unavailable = sum(state in (NodeState.CHANGING, NodeState.FAILED) for state in states.values())
    free = max(0, allowed(update, len(nodes)) - unavailable)
    return turning + [node.name for node in others if states[node.name] is NodeState.WAITING][:free]


def _time_limit(update: Update) -> timedelta:
    return timedelta(seconds=update.drain.timeout_seconds)


def _evictions(node: Node) -> Iterable[Eviction]:
    """The pods on slices that have to go, once the agent offers these slices no more: else the next pod would
    come to where this one left.
    """
    for plan, held in node.leaving:
        if not plan.asked or plan.gpu.layout is None or plan.gpu.layout.state is None:
            continue
        for pod in held.pods:
            yield Eviction(
                pod=pod,
                why=f"slice {held.place} of GPU {plan.gpu.index} of node {node.name} has to go: "
                f"{plan.demand}",
            )


def _stranded(node: Node) -> Iterable[Eviction]:
    """Pods that got a slice in the moment in which it was taken away, and wait for it in vain."""
    for plan in node.plans:
        for pod in plan.gpu.stranded if plan.asked else ():
            yield Eviction(
                pod=pod,
                why=f"its slice of GPU {plan.gpu.index} of node {node.name} is gone: {plan.demand}",
            )
