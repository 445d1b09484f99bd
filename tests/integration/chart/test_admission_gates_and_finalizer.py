"""The mutating policies: the finalizer on claims of our class, the gate on pods that wait for a claim."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from eventually import eventually
from integration.chart.objects import Object, claim, claim_template, gated_namespace, pod
from tessera.api import names
from tessera.kube.client import KubeClient
from tessera.kube.resources import NAMESPACES, PODS, RESOURCE_CLAIM_TEMPLATES, RESOURCE_CLAIMS

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@pytest.fixture
async def labelled_namespace(chart_admin: KubeClient, chart_namespace: str) -> AsyncIterator[str]:
    """A namespace that opted in to gates."""
    labels = gated_namespace(chart_namespace)["metadata"]["labels"]
    await chart_admin.patch(NAMESPACES, chart_namespace, body={"metadata": {"labels": labels}})

    async def gated() -> bool:
        dry = await chart_admin.create(PODS, pod("dry", claim="x"), namespace=chart_namespace, dry_run=True)
        return names.PLACEMENT_GATE in gates(dry)

    await eventually("the namespace's label to be seen", gated)
    yield chart_namespace


def gates(obj: Object) -> list[str]:
    return [gate["name"] for gate in obj["spec"].get("schedulingGates", [])]


@pytest.mark.parametrize("alternatives", [False, True], ids=["exactly", "firstAvailable"])
async def test_a_claim_of_our_class_gets_the_finalizer(
    chart_admin: KubeClient, chart_namespace: str, alternatives: bool
) -> None:
    made = await chart_admin.create(
        RESOURCE_CLAIMS, claim("ours", alternatives=alternatives), namespace=chart_namespace
    )
    assert made["metadata"]["finalizers"] == [names.CLAIM_FINALIZER]


async def test_a_claim_that_has_other_finalizers_keeps_them(
    chart_admin: KubeClient, chart_namespace: str
) -> None:
    wanted = claim("ours")
    wanted["metadata"]["finalizers"] = ["example.com/mine"]
    made = await chart_admin.create(RESOURCE_CLAIMS, wanted, namespace=chart_namespace, dry_run=True)
    assert set(made["metadata"]["finalizers"]) == {"example.com/mine", names.CLAIM_FINALIZER}


async def test_a_claim_of_another_class_is_left_alone(chart_admin: KubeClient, chart_namespace: str) -> None:
    made = await chart_admin.create(
        RESOURCE_CLAIMS, claim("theirs", device_class="nic.example.com"), namespace=chart_namespace
    )
    assert "finalizers" not in made["metadata"]


async def test_a_claim_made_from_a_template_gets_the_finalizer(
    chart_admin: KubeClient, chart_namespace: str
) -> None:
    await chart_admin.create(RESOURCE_CLAIM_TEMPLATES, claim_template("ours"), namespace=chart_namespace)
    gated = pod("user", template="ours", gates=(names.PLACEMENT_GATE,))
    await chart_admin.create(PODS, gated, namespace=chart_namespace)

    async def generated() -> Object | None:
        found = (await chart_admin.list(RESOURCE_CLAIMS, chart_namespace)).items
        return found[0] if found else None

    made = await eventually("kube-controller-manager to make the claim", generated)
    assert made["metadata"]["finalizers"] == [names.CLAIM_FINALIZER]


async def test_in_a_labelled_namespace_a_pod_with_a_claim_is_gated(
    chart_admin: KubeClient, labelled_namespace: str
) -> None:
    made = await chart_admin.create(PODS, pod("user", claim="any"), namespace=labelled_namespace)
    assert gates(made) == [names.PLACEMENT_GATE]


async def test_a_gate_of_the_pods_author_stays_beside_ours(
    chart_admin: KubeClient, labelled_namespace: str
) -> None:
    made = await chart_admin.create(
        PODS, pod("user", claim="any", gates=("example.com/mine",)), namespace=labelled_namespace
    )
    assert sorted(gates(made)) == ["example.com/mine", names.PLACEMENT_GATE]


async def test_a_pod_that_carries_our_gate_is_not_gated_twice(
    chart_admin: KubeClient, labelled_namespace: str
) -> None:
    made = await chart_admin.create(
        PODS, pod("user", claim="any", gates=(names.PLACEMENT_GATE,)), namespace=labelled_namespace
    )
    assert gates(made) == [names.PLACEMENT_GATE]


async def test_in_a_labelled_namespace_a_pod_without_claims_is_left_alone(
    chart_admin: KubeClient, labelled_namespace: str
) -> None:
    assert gates(await chart_admin.create(PODS, pod("plain"), namespace=labelled_namespace)) == []


async def test_a_pod_bound_by_hand_is_not_gated(chart_admin: KubeClient, labelled_namespace: str) -> None:
    bound = pod("bound", claim="any")
    bound["spec"]["nodeName"] = "gpu-node-a"
    assert gates(await chart_admin.create(PODS, bound, namespace=labelled_namespace, dry_run=True)) == []


async def test_without_the_label_a_pod_that_names_a_claim_is_not_gated(
    chart_admin: KubeClient, chart_namespace: str
) -> None:
    assert gates(await chart_admin.create(PODS, pod("user", claim="any"), namespace=chart_namespace)) == []


async def test_the_cluster_wide_gate_reads_the_template(
    chart_admin: KubeClient, chart_namespace: str
) -> None:
    for template in (claim_template("ours"), claim_template("theirs", device_class="nic.example.com")):
        await chart_admin.create(RESOURCE_CLAIM_TEMPLATES, template, namespace=chart_namespace)

    async def gated() -> bool:
        dry = await chart_admin.create(
            PODS, pod("user", template="ours"), namespace=chart_namespace, dry_run=True
        )
        return gates(dry) == [names.PLACEMENT_GATE]

    await eventually("the template to be seen", gated)
    other = await chart_admin.create(PODS, pod("other", template="theirs"), namespace=chart_namespace)
    assert gates(other) == []
