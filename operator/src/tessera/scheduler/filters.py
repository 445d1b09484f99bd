"""Node filters: may this pod run on this node, as kube-scheduler will judge it?

We place first and kube-scheduler binds later, so each rule here is the rule of its plugin there: what we let
pass and it refuses costs a take-back, what we refuse and it would let pass is room that nobody uses. A
verdict is None (pass) or the filter's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from tessera.scheduler.inventory import Taint
from tessera.scheduler.objects import Node, Pod, Resources

_UNSCHEDULABLE = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")


def node_verdict(pod: Pod, node: Node, *, used: Resources) -> str | None:
    """The first filter that excludes the node for this pod, or None. `used` is what other pods ask of the
    node.
    """
    if pod.node and pod.node != node.name:
        return "another node is set in the pod"
    if not node.ready:
        return "node not ready"
    if node.unschedulable and not tolerates(pod.tolerations, _UNSCHEDULABLE):
        return "unschedulable node"
    if any(
        t.effect in ("NoSchedule", "NoExecute") and not tolerates(pod.tolerations, t) for t in node.taints
    ):
        return "untolerated taint"
    if any(node.labels.get(key) != value for key, value in pod.node_selector.items()):
        return "nodeSelector"
    if pod.affinity_terms is not None and not matches_terms(pod.affinity_terms, node):
        return "node affinity"
    if pod.node:
        # The pod is bound: its requests are already counted, and the kubelet has admitted or refused it.
        return None
    return _lacking(pod, node, used)


def _lacking(pod: Pod, node: Node, used: Resources) -> str | None:
    zero = Fraction(0)
    for name, amount in pod.requests.items():
        if amount > 0 and used.get(name, zero) + amount > node.allocatable.get(name, zero):
            return "too many pods" if name == "pods" else f"insufficient {name}"
    return None


def tolerates(tolerations: Sequence[Mapping[str, Any]], taint: Taint) -> bool:
    """Whether one of the tolerations (of a pod or of a device request) accepts the taint."""
    return any(_accepts(toleration, taint) for toleration in tolerations)


def _accepts(toleration: Mapping[str, Any], taint: Taint) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint.effect:
        return False
    key = toleration.get("key") or ""
    if key and key != taint.key:
        return False
    match toleration.get("operator") or "Equal":
        case "Exists":
            return True
        case "Equal":
            return bool(key) and (toleration.get("value") or "") == taint.value
        case "Lt" | "Gt" as operator:
            return _compares(operator, taint.value, toleration.get("value") or "")
        case _:
            return False


def _compares(operator: str, left: str, right: str) -> bool:
    try:
        a, b = int(left), int(right)
    except ValueError:
        return False
    return a < b if operator == "Lt" else a > b


def matches_terms(terms: Sequence[Mapping[str, Any]], node: Node) -> bool:
    """Whether a node selector (its terms are alternatives, the parts of a term are all required) accepts the
    node.
    """
    return any(_matches_term(term, node) for term in terms)


def _matches_term(term: Mapping[str, Any], node: Node) -> bool:
    expressions = term.get("matchExpressions") or ()
    fields = term.get("matchFields") or ()
    if not expressions and not fields:
        return False  # the API: an empty term matches no object
    return all(_matches(e, node.labels.get(e["key"])) for e in expressions) and all(
        f["key"] == "metadata.name" and _matches(f, node.name) for f in fields
    )


def _matches(requirement: Mapping[str, Any], value: str | None) -> bool:
    values = requirement.get("values") or []
    match requirement.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" as operator:
            return value is not None and len(values) == 1 and _compares(operator, value, values[0])
        case _:
            return False
