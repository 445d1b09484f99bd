"""The scheduler's right to patch pods is good for one thing: removing the scheduler's own gate."""

from __future__ import annotations

from typing import Any

import pytest
from integration.chart.installation import Accounts, refused
from integration.chart.objects import Object, pod
from tessera.api import names
from tessera.kube.client import KubeClient
from tessera.kube.errors import Forbidden
from tessera.kube.resources import PODS

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
THEIR_GATE = "example.com/quota"
ZONE_REQUIRED = {
    "requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}]
    }
}
SPEC = "may change nothing in a pod's spec"
METADATA = "may change nothing in a pod's metadata"
GATES = f"may remove the gate {names.PLACEMENT_GATE} from a pod, and no other gate"


@pytest.fixture
async def scheduler(accounts: Accounts) -> KubeClient:
    """A client that is one of the scheduler's replicas."""
    replica = (await accounts.pods_of("scheduler"))[0]["metadata"]["name"]
    return await accounts.client(names.SCHEDULER_SERVICE_ACCOUNT, pod_name=replica)


@pytest.fixture
async def gated_pod(chart_admin: KubeClient, chart_namespace: str) -> Object:
    """A pod with our gate first and another's second."""
    wanted = pod("user", gates=(names.PLACEMENT_GATE, THEIR_GATE))
    return await chart_admin.create(PODS, wanted, namespace=chart_namespace)


def without_our_gate() -> list[Object]:
    """A JSON patch that removes our gate by position, after it has made sure that it is there."""
    return [
        {"op": "test", "path": "/spec/schedulingGates/0/name", "value": names.PLACEMENT_GATE},
        {"op": "remove", "path": "/spec/schedulingGates/0"},
    ]


async def patch(client: KubeClient, target: Object, body: Any, kind: Any = "json") -> Object:
    meta = target["metadata"]
    return await client.patch(PODS, meta["name"], namespace=meta["namespace"], body=body, kind=kind)


async def test_the_scheduler_removes_its_gate_and_leaves_the_others(
    scheduler: KubeClient, gated_pod: Object
) -> None:
    changed = await patch(scheduler, gated_pod, without_our_gate())
    assert changed["spec"]["schedulingGates"] == [{"name": THEIR_GATE}]


async def test_the_scheduler_removes_its_gate_by_name(scheduler: KubeClient, gated_pod: Object) -> None:
    by_name = {"spec": {"schedulingGates": [{"$patch": "delete", "name": names.PLACEMENT_GATE}]}}
    changed = await patch(scheduler, gated_pod, by_name, "strategic")
    assert changed["spec"]["schedulingGates"] == [{"name": THEIR_GATE}]


async def test_the_last_gate_of_a_pod_can_be_ours(
    scheduler: KubeClient, chart_admin: KubeClient, chart_namespace: str
) -> None:
    alone = await chart_admin.create(
        PODS, pod("alone", gates=(names.PLACEMENT_GATE,)), namespace=chart_namespace
    )
    changed = await patch(scheduler, alone, without_our_gate())
    assert "schedulingGates" not in changed["spec"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"op": "replace", "path": "/spec/containers/0/image", "value": "example/other:1"}, SPEC),
        ({"op": "add", "path": "/spec/nodeSelector", "value": {"zone": "a"}}, SPEC),
        ({"op": "add", "path": "/spec/tolerations/-", "value": {"key": "a", "operator": "Exists"}}, SPEC),
        ({"op": "add", "path": "/spec/activeDeadlineSeconds", "value": 60}, SPEC),
        (
            {"op": "add", "path": "/spec/affinity", "value": {"nodeAffinity": ZONE_REQUIRED}},
            SPEC,
        ),
        ({"op": "add", "path": "/metadata/labels", "value": {"app": "other"}}, METADATA),
        ({"op": "add", "path": "/metadata/annotations", "value": {"example.com/x": "y"}}, METADATA),
        ({"op": "add", "path": "/metadata/finalizers", "value": ["example.com/keep"]}, METADATA),
        (
            {
                "op": "add",
                "path": "/metadata/ownerReferences",
                "value": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "x"}],
            },
            METADATA,
        ),
        ({"op": "remove", "path": "/spec/schedulingGates/0"}, GATES),
    ],
    ids=[
        "image", "node-selector", "toleration", "deadline", "affinity", "labels", "annotations", "finalizers",
        "owner", "all-gates",
    ],
)  # fmt: skip
async def test_ungating_may_carry_nothing_else(
    scheduler: KubeClient, chart_admin: KubeClient, gated_pod: Object, extra: Object, message: str
) -> None:
    await refused(patch(scheduler, gated_pod, [*without_our_gate(), extra]), message=message)
    meta = gated_pod["metadata"]
    assert (await chart_admin.get(PODS, meta["name"], meta["namespace"]))["spec"] == gated_pod["spec"]
    # An administrator may make the same change: it is the policy that says no, not the API's own rules.
    await patch(chart_admin, gated_pod, [*without_our_gate(), extra])


async def test_the_scheduler_may_not_remove_another_gate(scheduler: KubeClient, gated_pod: Object) -> None:
    await refused(
        patch(scheduler, gated_pod, [{"op": "remove", "path": "/spec/schedulingGates/1"}]), message=GATES
    )


async def test_the_scheduler_may_not_touch_a_pod_that_is_not_gated(
    scheduler: KubeClient, chart_admin: KubeClient, chart_namespace: str
) -> None:
    plain = await chart_admin.create(PODS, pod("plain"), namespace=chart_namespace)
    image = [{"op": "replace", "path": "/spec/containers/0/image", "value": "example/other:1"}]
    await refused(patch(scheduler, plain, image), message=SPEC)


async def test_subresources_of_pods_are_closed_to_the_scheduler(
    scheduler: KubeClient, gated_pod: Object
) -> None:
    meta = gated_pod["metadata"]
    with pytest.raises(Forbidden, match='cannot patch resource "pods/status"'):
        body = {"status": {"phase": "Failed"}}
        await scheduler.patch(
            PODS, meta["name"], namespace=meta["namespace"], body=body, subresource="status"
        )
