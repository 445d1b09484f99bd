"""Node filters judge as kube-scheduler's plugins do."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from tessera.scheduler.filters import matches_terms, node_verdict, tolerates
from tessera.scheduler.inventory import Taint
from tessera.scheduler.objects import Node, Pod, pod_requests, read_node, read_pod

NODE: dict[str, Any] = {
    "metadata": {"name": "node-a", "labels": {"zone": "z1", "cores": "16"}},
    "spec": {},
    "status": {
        "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"},
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}


def node(**spec: Any) -> Node:
    return read_node(NODE | {"spec": spec})


def pod(**spec: Any) -> Pod:
    containers = [{"name": "c", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]
    return read_pod(
        {"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": {"containers": containers} | spec}
    )


def verdict(pod_: Pod, node_: Node, **used: int) -> str | None:
    return node_verdict(pod_, node_, used={name: Fraction(amount) for name, amount in used.items()})


def test_a_fitting_node_passes() -> None:
    assert verdict(pod(), node(), cpu=3, memory=7 * 2**30, pods=9) is None


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        ({"cpu": 4}, "insufficient cpu"),
        ({"memory": 8 * 2**30}, "insufficient memory"),
        ({"pods": 10}, "too many pods"),
    ],
)
def test_a_full_node_is_excluded_by_what_it_lacks(used: dict[str, int], expected: str) -> None:
    assert verdict(pod(), node(), **used) == expected


def test_a_resource_that_the_node_does_not_have_is_insufficient() -> None:
    wants = pod(containers=[{"name": "c", "resources": {"requests": {"example.com/fpga": "1"}}}])
    assert verdict(wants, node()) == "insufficient example.com/fpga"


def test_an_unready_node_is_excluded() -> None:
    status = NODE["status"] | {"conditions": [{"type": "Ready", "status": "Unknown"}]}
    assert verdict(pod(), read_node(NODE | {"status": status})) == "node not ready"


def test_a_cordoned_node_needs_its_toleration() -> None:
    assert verdict(pod(), node(unschedulable=True)) == "unschedulable node"
    tolerant = pod(tolerations=[{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}])
    assert verdict(tolerant, node(unschedulable=True)) is None


@pytest.mark.parametrize(
    ("toleration", "accepted"),
    [
        ({"key": "gpu", "operator": "Exists"}, True),
        ({"key": "gpu", "value": "yes"}, True),
        ({"key": "gpu", "value": "no"}, False),
        ({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"operator": "Exists"}, True),
        ({"value": "yes"}, False),
        ({"key": "other", "operator": "Exists"}, False),
    ],
)
def test_tolerations(toleration: dict[str, str], accepted: bool) -> None:
    taint = Taint("gpu", "yes", "NoSchedule")
    assert tolerates([toleration], taint) is accepted
    tainted = node(taints=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}])
    assert verdict(pod(tolerations=[toleration]), tainted) == (None if accepted else "untolerated taint")


def test_prefer_no_schedule_excludes_nothing() -> None:
    assert verdict(pod(), node(taints=[{"key": "gpu", "effect": "PreferNoSchedule"}])) is None


def test_node_selector_and_required_affinity() -> None:
    assert verdict(pod(nodeSelector={"zone": "z1"}), node()) is None
    assert verdict(pod(nodeSelector={"zone": "z2"}), node()) == "nodeSelector"
    term = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["z2"]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    assert verdict(pod(affinity={"nodeAffinity": required}), node()) == "node affinity"


@pytest.mark.parametrize(
    ("requirement", "matched"),
    [
        ({"key": "zone", "operator": "In", "values": ["z1", "z2"]}, True),
        ({"key": "zone", "operator": "NotIn", "values": ["z1"]}, False),
        ({"key": "absent", "operator": "NotIn", "values": ["z1"]}, True),
        ({"key": "zone", "operator": "Exists"}, True),
        ({"key": "absent", "operator": "DoesNotExist"}, True),
        ({"key": "cores", "operator": "Gt", "values": ["8"]}, True),
        ({"key": "cores", "operator": "Lt", "values": ["8"]}, False),
        ({"key": "zone", "operator": "Gt", "values": ["8"]}, False),
        ({"key": "zone", "operator": "Unheard"}, False),
    ],
)
def test_label_requirements(requirement: dict[str, Any], matched: bool) -> None:
    assert matches_terms([{"matchExpressions": [requirement]}], node()) is matched


def test_terms_are_alternatives_and_an_empty_term_matches_nothing() -> None:
    here = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-a"]}]}
    assert matches_terms([{}, here], node())
    assert not matches_terms([{}], node())
    assert not matches_terms([], node())


def test_a_bound_pod_fits_its_own_node_only() -> None:
    assert verdict(pod(nodeName="node-b"), node()) == "another node is set in the pod"
    # It is bound: its requests are part of what is used.
    assert verdict(pod(nodeName="node-a"), node(), cpu=4) is None


def test_requests_count_sidecars_init_containers_and_overhead() -> None:
    def container(cpu: str, **more: str) -> dict[str, Any]:
        return {"name": "c", "resources": {"requests": {"cpu": cpu}}, **more}

    spec = {
        "containers": [container("1"), container("500m")],
        "initContainers": [container("2"), container("1", restartPolicy="Always"), container("2")],
        "overhead": {"cpu": "100m"},
    }
    # The last init container runs beside the sidecar: 3; the containers and the sidecar together: 2.5.
    assert pod_requests(spec)["cpu"] == Fraction(31, 10)
    assert pod_requests(spec | {"resources": {"requests": {"cpu": "6"}}})["cpu"] == Fraction(61, 10)
    assert pod_requests({})["pods"] == 1
