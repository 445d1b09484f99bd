"""Who may allocate our devices: the scheduler's replica that holds the Lease, and nobody else.

kube-scheduler is one of those others.
"""

from __future__ import annotations

import pytest
from eventually import eventually
from integration.chart.installation import Accounts, refused
from integration.chart.objects import (
    NODES,
    Object,
    allocation_of,
    claim,
    claim_template,
    lease,
    pod,
    resource_slice,
)
from tessera.api import names
from tessera.kube.client import KubeClient
from tessera.kube.errors import Forbidden, Invalid
from tessera.kube.resources import (
    DEVICE_CLASSES,
    EVENTS,
    LEASES,
    PODS,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
NODE = NODES[0]
NOT_THE_LEADER = f"does not hold the lease {names.SYSTEM_NAMESPACE}/{names.SCHEDULER_LEASE}"
NOT_THE_SCHEDULER = f"only {names.SCHEDULER_SERVICE_ACCOUNT} allocates devices of {names.DRIVER}"


async def hand_lease_to(admin: KubeClient, holder: str) -> None:
    """Makes `holder` the leader, as the Lease election of that replica would."""
    await admin.apply(LEASES, lease(holder))


async def allocate(client: KubeClient, name: str, namespace: str, *, driver: str = names.DRIVER) -> Object:
    """The scheduler's one patch."""
    body = {"status": {"allocation": allocation_of(NODE, driver=driver)}}
    return await client.patch(RESOURCE_CLAIMS, name, namespace=namespace, body=body, subresource="status")


async def allocates_when_the_lease_is_seen(client: KubeClient, name: str, namespace: str) -> Object:
    """Tries until the API server has seen the Lease change hands: it reads it from a cache."""

    async def attempt() -> Object | None:
        try:
            return await allocate(client, name, namespace)
        except Forbidden as not_yet:
            assert NOT_THE_LEADER in str(not_yet)
            return None

    return await eventually("the new leader to be let through", attempt)


async def lease_is_seen(leader: KubeClient, admin: KubeClient, namespace: str) -> None:
    """Until the API server lets `leader` allocate, tried on a claim of its own."""
    await admin.create(RESOURCE_CLAIMS, claim("seen"), namespace=namespace)
    await allocates_when_the_lease_is_seen(leader, "seen", namespace)


async def test_the_replica_that_holds_the_lease_allocates_and_the_other_does_not(
    accounts: Accounts, chart_admin: KubeClient, chart_namespace: str
) -> None:
    first, second = [item["metadata"]["name"] for item in await accounts.pods_of("scheduler")]
    leader = await accounts.client(names.SCHEDULER_SERVICE_ACCOUNT, pod_name=first)
    standby = await accounts.client(names.SCHEDULER_SERVICE_ACCOUNT, pod_name=second)
    for name in ("one", "two", "three"):
        await chart_admin.create(RESOURCE_CLAIMS, claim(name), namespace=chart_namespace)

    await hand_lease_to(chart_admin, first)
    made = await allocates_when_the_lease_is_seen(leader, "one", chart_namespace)
    assert made["status"]["allocation"]["devices"]["results"][0]["pool"] == NODE
    await refused(allocate(standby, "two", chart_namespace), message=NOT_THE_LEADER)

    # The lease changes hands: what was the leader is stale, and refused once the new one is let through.
    await hand_lease_to(chart_admin, second)
    await allocates_when_the_lease_is_seen(standby, "two", chart_namespace)
    await refused(allocate(leader, "three", chart_namespace), message=NOT_THE_LEADER)


async def test_the_leader_takes_back_an_allocation(
    accounts: Accounts, chart_admin: KubeClient, chart_namespace: str
) -> None:
    holder = (await accounts.pods_of("scheduler"))[0]["metadata"]["name"]
    leader = await accounts.client(names.SCHEDULER_SERVICE_ACCOUNT, pod_name=holder)
    await hand_lease_to(chart_admin, holder)
    await chart_admin.create(RESOURCE_CLAIMS, claim("one"), namespace=chart_namespace)
    await allocates_when_the_lease_is_seen(leader, "one", chart_namespace)
    freed = await leader.patch(
        RESOURCE_CLAIMS,
        "one",
        namespace=chart_namespace,
        body={"status": {"allocation": None}},
        subresource="status",
    )
    assert "allocation" not in freed.get("status", {})


async def test_the_schedulers_token_without_a_pod_allocates_nothing(
    accounts: Accounts, chart_admin: KubeClient, chart_namespace: str
) -> None:
    holder = (await accounts.pods_of("scheduler"))[0]["metadata"]["name"]
    await hand_lease_to(chart_admin, holder)
    await lease_is_seen(
        await accounts.client(names.SCHEDULER_SERVICE_ACCOUNT, pod_name=holder), chart_admin, chart_namespace
    )
    unbound = await accounts.client(names.SCHEDULER_SERVICE_ACCOUNT)
    await chart_admin.create(RESOURCE_CLAIMS, claim("one"), namespace=chart_namespace)
    await refused(allocate(unbound, "one", chart_namespace), message=NOT_THE_LEADER)


async def test_a_missing_lease_stops_neither_other_drivers_nor_lets_others_allocate_ours(
    chart_admin: KubeClient, chart_namespace: str
) -> None:
    """A parameter that is not found is decided before any match condition, so it must not deny."""
    await hand_lease_to(chart_admin, "nobody")
    await chart_admin.delete(LEASES, names.SCHEDULER_LEASE, namespace=names.SYSTEM_NAMESPACE)
    await chart_admin.create(RESOURCE_CLAIMS, claim("ours"), namespace=chart_namespace)
    for number in range(5):
        name = f"nic-{number}"
        await chart_admin.create(
            RESOURCE_CLAIMS, claim(name, device_class="nic.example.com"), namespace=chart_namespace
        )
        await allocate(chart_admin, name, chart_namespace, driver="nic.example.com")
        await refused(allocate(chart_admin, "ours", chart_namespace), message=NOT_THE_SCHEDULER)


async def test_an_administrator_may_not_allocate_our_devices(
    chart_admin: KubeClient, chart_namespace: str
) -> None:
    await chart_admin.create(RESOURCE_CLAIMS, claim("one"), namespace=chart_namespace)
    await refused(allocate(chart_admin, "one", chart_namespace), message=NOT_THE_SCHEDULER)


async def test_devices_of_other_drivers_are_not_our_business(
    chart_admin: KubeClient, chart_namespace: str
) -> None:
    await chart_admin.create(
        RESOURCE_CLAIMS, claim("nic", device_class="nic.example.com"), namespace=chart_namespace
    )
    await allocate(chart_admin, "nic", chart_namespace, driver="nic.example.com")


@pytest.mark.parametrize("alternatives", [False, True], ids=["exactly", "firstAvailable"])
@pytest.mark.parametrize(
    "toleration",
    [
        {"operator": "Exists"},
        {"key": names.DEVICE_TAINT_KEY, "operator": "Exists"},
        {"key": names.UNHEALTHY_TAINT_KEY, "operator": "Exists", "effect": "NoExecute"},
    ],
    ids=["everything", "our-taint", "a-lost-gpu"],
)
async def test_a_claim_that_tolerates_our_taint_is_refused_with_the_remedy(
    chart_admin: KubeClient, chart_namespace: str, alternatives: bool, toleration: Object
) -> None:
    for resource, wanted in (
        (RESOURCE_CLAIMS, claim("one", alternatives=alternatives)),
        (RESOURCE_CLAIM_TEMPLATES, claim_template("one", alternatives=alternatives)),
    ):
        spec = wanted["spec"] if resource is RESOURCE_CLAIMS else wanted["spec"]["spec"]
        request = spec["devices"]["requests"][0]
        (request["firstAvailable"][1] if alternatives else request["exactly"])["tolerations"] = [toleration]
        with pytest.raises(Invalid, match="name the taints to tolerate, without them"):
            await chart_admin.create(resource, wanted, namespace=chart_namespace)


async def test_a_claim_may_tolerate_other_taints_by_name(
    chart_admin: KubeClient, chart_namespace: str
) -> None:
    wanted = claim("one")
    wanted["spec"]["devices"]["requests"][0]["exactly"]["tolerations"] = [
        {"key": "example.com/degraded", "operator": "Exists"}
    ]
    await chart_admin.create(RESOURCE_CLAIMS, wanted, namespace=chart_namespace)


async def test_kube_scheduler_cannot_allocate_our_device_to_another_class_that_tolerates_everything(
    chart_admin: KubeClient, chart_namespace: str
) -> None:
    """The way round the check at creation: a class of one's own that selects our devices."""
    device_class = f"any-{chart_namespace}"
    selects = {"selectors": [{"cel": {"expression": f'device.driver == "{names.DRIVER}"'}}]}
    await chart_admin.create(DEVICE_CLASSES, {"metadata": {"name": device_class}, "spec": selects})
    published = await chart_admin.create(RESOURCE_SLICES, resource_slice(NODE))
    greedy = claim("greedy", device_class=device_class, tolerate_all=True)
    await chart_admin.create(RESOURCE_CLAIMS, greedy, namespace=chart_namespace)
    await chart_admin.create(PODS, pod("user", claim="greedy"), namespace=chart_namespace)

    async def kube_scheduler_was_refused() -> bool:
        events = (await chart_admin.list(EVENTS, chart_namespace)).items
        notes = [event.get("note", "") for event in events if event.get("reason") == "FailedScheduling"]
        return any(NOT_THE_SCHEDULER in note and "system:kube-scheduler" in note for note in notes)

    await eventually("kube-scheduler's attempt to be refused", kube_scheduler_was_refused)
    untouched = await chart_admin.get(RESOURCE_CLAIMS, "greedy", chart_namespace)
    assert "allocation" not in untouched.get("status", {})
    assert not (await chart_admin.get(PODS, "user", chart_namespace))["spec"].get("nodeName")
    await chart_admin.delete(RESOURCE_SLICES, published["metadata"]["name"])
    await chart_admin.delete(DEVICE_CLASSES, device_class)
