"""What pods ask of each node, and which nodes pass the filters: kept from round to round.

Every pod that is bound, or that our allocations will bring to a node, has an entry. A promise of the running
round is such an entry too; when its write succeeds the next snapshot says the same and nothing changes, and
when it does not, the entry goes. Pods with the same requests and rules share one verdict per node, which is
found again only for nodes that have changed. So a round on thousands of nodes costs what has changed in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tessera.placement.state import ClusterState
from tessera.scheduler.filters import node_verdict
from tessera.scheduler.objects import Key, Node, Pod, Resources
from tessera.scheduler.occupancy import expected_node
from tessera.scheduler.snapshot import Snapshot

NO_NODE = "node does not exist"
_MOST_SHAPES = 256
_LONGEST_LOG = 100_000


class NodeLoad:
    """The books of node resources. `freed` grows whenever a node may have got room."""

    def __init__(self) -> None:
        self.freed = 0
        self._entries: dict[Key, tuple[str, Pod]] = {}
        self._touched: dict[Key, None] = {}
        self._used: dict[str, dict[str, Fraction]] = {}
        self._nodes: Mapping[str, Node] = {}
        self._log: list[str] = []
        self._shapes: dict[tuple[Any, ...], _Shape] = {}
        self._state: ClusterState | None = None

    def follow(
        self, snapshot: Snapshot, state: ClusterState, *, nodes: Iterable[str], pods: Iterable[Key]
    ) -> None:
        """Bring the books up to the snapshot, in which these nodes and pods (or their claims) may differ."""
        if state is not self._state or len(self._log) > _LONGEST_LOG:
            self._state = state
            self._shapes.clear()
            self._log.clear()
        self._log += nodes
        self._nodes = snapshot.nodes
        for key in dict.fromkeys((*pods, *self._touched)):
            pod = snapshot.pods.get(key)
            node = "" if pod is None else pod.node or expected_node(pod, snapshot)
            entry = self._entries.get(key)
            if entry is not None and (pod is None or entry[0] != node or not _asks_the_same(entry[1], pod)):
                self.remove(entry[1])
                entry = None
            if entry is None and pod is not None and node:
                self.put(pod, node)
        self._touched.clear()

    def node_of(self, pod: Pod) -> str:
        """The node on which the pod is counted, or ""."""
        entry = self._entries.get(pod.key)
        return entry[0] if entry is not None else ""

    def put(self, pod: Pod, node: str) -> None:
        """Count a pod on a node. It must not be counted already."""
        assert pod.key not in self._entries
        self._touched[pod.key] = None
        self._entries[pod.key] = (node, pod)
        on_node = self._used.setdefault(node, {})
        for name, amount in pod.requests.items():
            on_node[name] = on_node.get(name, Fraction(0)) + amount
        self._log.append(node)

    def remove(self, pod: Pod, *, undone: bool = False) -> None:
        """Do not count the pod any more, if it was. `undone`: it never was more than a thought, so nobody can
        be helped by it.
        """
        entry = self._entries.pop(pod.key, None)
        if entry is None:
            return
        self._touched[pod.key] = None
        node, counted = entry
        on_node = self._used[node]
        for name, amount in counted.requests.items():
            on_node[name] -= amount
        self._log.append(node)
        self.freed += not undone

    def hold(self, node: str, requests: Resources) -> None:
        """Count what is kept on a node for a pod that is still to come, until `let_go`."""
        self._add(node, requests, 1)

    def let_go(self, node: str, requests: Resources) -> None:
        """Do not keep it any more."""
        self._add(node, requests, -1)

    def _add(self, node: str, requests: Resources, sign: int) -> None:
        on_node = self._used.setdefault(node, {})
        for name, amount in requests.items():
            on_node[name] = on_node.get(name, Fraction(0)) + sign * amount
        self._log.append(node)

    def used(self, node: str) -> Resources:
        """What the pods that are counted on a node ask of it."""
        return self._used.get(node, {})

    def used_by_others(self, pod: Pod, node: str) -> Resources:
        """The same without the pod itself."""
        if self.node_of(pod) != node:
            return self.used(node)
        zero = Fraction(0)
        return {name: amount - pod.requests.get(name, zero) for name, amount in self.used(node).items()}

    def fit(self, pod: Pod) -> _Shape:
        """The verdicts over all GPU nodes for pods like this one, up to date. Not for bound pods; a pod that
        is counted somewhere is judged as one more of its shape.
        """
        assert self._state is not None
        name = shape_of(pod)
        shape = self._shapes.get(name)
        if shape is None:
            if len(self._shapes) >= _MOST_SHAPES:
                self._shapes.pop(next(iter(self._shapes)))
            shape = self._shapes[name] = _Shape({}, Counter(), 0, 0)
            changed = list(self._state.nodes())
        else:
            changed = list(dict.fromkeys(self._log[shape.seen :]))
        for node in changed:
            bits = self._state.bits_of_nodes((node,))
            if bits:
                shape.put(node, bits, self._judge(pod, node, self.used(node)))
        shape.seen = len(self._log)
        return shape

    def verdict(self, pod: Pod, node: str) -> str | None:
        """The filter that excludes the node for this pod, or None."""
        return self._judge(pod, node, self.used_by_others(pod, node))

    def _judge(self, pod: Pod, node: str, used: Resources) -> str | None:
        found = self._nodes.get(node)
        return NO_NODE if found is None else node_verdict(pod, found, used=used)


@dataclass(slots=True)
class _Shape:
    """Verdicts by node for pods of one shape, how many nodes each filter excludes, and the GPUs left."""

    verdicts: dict[str, str | None]
    excluded: Counter[str]
    gpus: int
    seen: int

    def put(self, node: str, bits: int, verdict: str | None) -> None:
        old = self.verdicts.get(node, "")
        if old == verdict:
            return
        if old:
            self.excluded[old] -= 1
        self.verdicts[node] = verdict
        if verdict is None:
            self.gpus |= bits
        else:
            self.excluded[verdict] += 1
            self.gpus &= ~bits


def _asks_the_same(counted: Pod, pod: Pod) -> bool:
    return counted is pod or (counted.uid == pod.uid and counted.requests == pod.requests)


def shape_of(pod: Pod) -> tuple[Any, ...]:
    """What of a pod the node filters look at; equal shapes, equal verdicts."""
    return (
        tuple(sorted(pod.requests.items())),
        tuple(sorted(pod.node_selector.items())),
        repr(pod.affinity_terms),
        repr(pod.tolerations),
    )
