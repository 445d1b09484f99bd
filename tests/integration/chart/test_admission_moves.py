"""Moves under the rights of the chart: what the scheduler needs is allowed, and what its rights and records
could be abused for is not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from eventually import eventually
from integration.chart.installation import Accounts, refused
from integration.chart.objects import DEVICE, NODES, Object, claim, claim_template, pod
from integration.chart.test_admission_allocation import NOT_THE_LEADER, hand_lease_to, lease_is_seen
from tessera.api import names
from tessera.api.reasons import Reason
from tessera.kube.client import KubeClient
from tessera.kube.errors import NotFound
from tessera.kube.events import EventRecorder
from tessera.kube.resources import PODS, RESOURCE_CLAIM_TEMPLATES, RESOURCE_CLAIMS, Resource
from tessera.scheduler.actions import Action, Evict, FreeTarget, HoldTarget, KeepRoom
from tessera.scheduler.allocation import Result
from tessera.scheduler.move_bodies import placeholder
from tessera.scheduler.move_records import MoveRecord, PodRef, RoomRecord, placeholder_name
from tessera.scheduler.objects import read_claim, read_pod
from tessera.scheduler.writer import Writer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
SYSTEM = names.SYSTEM_NAMESPACE
ONLY_PLACEHOLDERS = "the scheduler may create and delete placeholders of moves, and no other claims"
ONLY_THE_SCHEDULER = f"only {names.SCHEDULER_SERVICE_ACCOUNT} writes the annotations"


def hold_for(uid: str) -> HoldTarget:
    """The decision to hold a place for a pod with that UID."""
    record = MoveRecord("job", "0", "slice", PodRef("team", "train", uid), "waiting", 2e9)
    name = placeholder_name(waiting_claim_uid="waiting", victim_pod_uid=uid)
    return HoldTarget(name, record, Result("slice", NODES[0], DEVICE, profile="1g.10gb"), NODES[0])


def room() -> RoomRecord:
    return RoomRecord(NODES[0], DEVICE, (), 2e9, 2e9)


def marked(name: str, annotation: str) -> Object:
    return claim(name) | {"metadata": {"name": name, "annotations": {annotation: "{}"}}}


@pytest.fixture
async def leader(accounts: Accounts, chart_admin: KubeClient, chart_namespace: str) -> KubeClient:
    """A client that is the scheduler's replica with the Lease."""
    replica = (await accounts.pods_of("scheduler"))[0]["metadata"]["name"]
    client = await accounts.client(names.SCHEDULER_SERVICE_ACCOUNT, pod_name=replica)
    await hand_lease_to(chart_admin, replica)
    await lease_is_seen(client, chart_admin, chart_namespace)
    return client


async def carry_out(client: KubeClient, *actions: Action) -> Writer:
    """The scheduler's own code, as the replica that `client` is."""

    async def believe() -> None:
        """The Lease is judged by the API server here."""

    events = EventRecorder(client, component="scheduler")
    writer = Writer(client, events=events, verify=believe)
    await writer.carry_out(actions, now=1_790_000_000.0)
    return writer


def gone(client: KubeClient, resource: Resource, name: str, namespace: str) -> Callable[[], Awaitable[bool]]:
    async def probe() -> bool:
        try:
            await client.get(resource, name, namespace)
        except NotFound:
            return True
        return False

    return probe


async def test_the_leader_holds_keeps_evicts_and_frees(
    leader: KubeClient, chart_admin: KubeClient, chart_namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    hold = hold_for(chart_namespace)
    waiting = await chart_admin.create(RESOURCE_CLAIMS, claim("waiting"), namespace=chart_namespace)
    nowhere = pod("victim")
    # No kubelet would end a pod here that is bound.
    nowhere["spec"]["nodeSelector"] = {"kubernetes.io/hostname": "nowhere"}
    victim = await chart_admin.create(PODS, nowhere, namespace=chart_namespace)
    wide = read_pod(victim | {"metadata": victim["metadata"] | {"name": "wide"}})
    await carry_out(
        leader,
        hold,
        KeepRoom(read_claim(waiting), room()),
        Evict(read_pod(victim), "for another", Reason.MOVED, wide),
    )
    held = await chart_admin.get(RESOURCE_CLAIMS, hold.name, SYSTEM)
    assert held["status"]["allocation"]["devices"]["results"][0]["device"] == DEVICE
    assert "reservedFor" not in held["status"]
    kept = await chart_admin.get(RESOURCE_CLAIMS, "waiting", chart_namespace)
    assert names.ROOM_ANNOTATION in kept["metadata"]["annotations"]
    await eventually("the victim to be gone", gone(chart_admin, PODS, "victim", chart_namespace))

    await carry_out(leader, FreeTarget(read_claim(held), "abandoned"), KeepRoom(read_claim(kept), None))
    assert await gone(chart_admin, RESOURCE_CLAIMS, hold.name, SYSTEM)()
    freed = await chart_admin.get(RESOURCE_CLAIMS, "waiting", chart_namespace)
    assert names.ROOM_ANNOTATION not in freed["metadata"].get("annotations", {})
    assert [r.getMessage() for r in caplog.records if "refuses" in r.getMessage()] == []


async def test_a_placeholder_that_was_made_before_is_used_and_another_claim_of_its_name_is_not(
    leader: KubeClient, chart_admin: KubeClient, chart_namespace: str
) -> None:
    """A leader was killed between the two writes, or the answer to the first was lost."""
    hold = hold_for(chart_namespace)
    await leader.create(RESOURCE_CLAIMS, placeholder(hold, namespace=SYSTEM))
    for _ in range(2):
        writer = await carry_out(leader, hold)
        [seen] = writer.claims.over([])
        assert seen["status"]["allocation"]["devices"]["results"][0]["device"] == DEVICE
    await carry_out(leader, FreeTarget(read_claim(seen), "abandoned"))

    theirs = await chart_admin.create(RESOURCE_CLAIMS, claim(hold.name), namespace=SYSTEM)
    await carry_out(leader, hold)
    assert await chart_admin.get(RESOURCE_CLAIMS, hold.name, SYSTEM) == theirs
    await chart_admin.delete(RESOURCE_CLAIMS, hold.name, namespace=SYSTEM)


async def test_a_stale_leader_gives_no_slice_to_a_placeholder(
    accounts: Accounts, leader: KubeClient, chart_admin: KubeClient, chart_namespace: str
) -> None:
    other = (await accounts.pods_of("scheduler"))[1]["metadata"]["name"]
    stale = await accounts.client(names.SCHEDULER_SERVICE_ACCOUNT, pod_name=other)
    hold = hold_for(chart_namespace)
    made = await stale.create(RESOURCE_CLAIMS, placeholder(hold, namespace=SYSTEM))
    body = {"status": {"allocation": {"devices": {"results": [result_of(hold)]}}}}
    write = stale.patch(RESOURCE_CLAIMS, hold.name, namespace=SYSTEM, body=body, subresource="status")
    await refused(write, message=NOT_THE_LEADER)
    await carry_out(leader, FreeTarget(read_claim(made), "abandoned"))


def result_of(hold: HoldTarget) -> Object:
    device = {"driver": names.DRIVER, "pool": hold.result.pool, "device": hold.result.device}
    return {"request": names.CLAIM_REQUEST_NAME, **device}


def _two_requests(obj: Object) -> None:
    requests = obj["spec"]["devices"]["requests"]
    requests.append({**requests[0], "name": "second"})


def _two_slices(obj: Object) -> None:
    obj["spec"]["devices"]["requests"][0]["exactly"]["count"] = 2


def _another_class(obj: Object) -> None:
    obj["spec"]["devices"]["requests"][0]["exactly"]["deviceClassName"] = "nic.example.com"


def _alternatives(obj: Object) -> None:
    [request] = obj["spec"]["devices"]["requests"]
    request["firstAvailable"] = [{"name": "only", **request.pop("exactly")}]


def _configuration(obj: Object) -> None:
    opaque = {"driver": "nic.example.com", "parameters": {"kind": "Any"}}
    obj["spec"]["devices"]["config"] = [{"opaque": opaque}]


def _no_mark(obj: Object) -> None:
    del obj["metadata"]["annotations"]


def _owner(obj: Object) -> None:
    obj["metadata"]["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "x", "controller": True}
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_no_mark, ONLY_PLACEHOLDERS),
        (_two_requests, "asks for one slice"),
        (_two_slices, "asks for one slice"),
        (_another_class, "asks for one slice"),
        (_alternatives, "asks for one slice"),
        (_configuration, "asks for one slice"),
        (_owner, "belongs to no other object"),
    ],
)
async def test_the_scheduler_makes_no_claims_but_placeholders(
    leader: KubeClient, change: Callable[[Object], None], message: str
) -> None:
    obj = placeholder(hold_for("abuse"), namespace=SYSTEM)
    change(obj)
    await refused(leader.create(RESOURCE_CLAIMS, obj, dry_run=True), message=message)


async def test_the_scheduler_makes_no_claims_elsewhere(leader: KubeClient, chart_namespace: str) -> None:
    obj = placeholder(hold_for("abuse"), namespace=chart_namespace)
    await refused(leader.create(RESOURCE_CLAIMS, obj, dry_run=True), message="cannot create resource")


async def test_the_scheduler_deletes_no_claims_but_placeholders(
    leader: KubeClient, chart_admin: KubeClient, chart_namespace: str
) -> None:
    name = f"of-somebody-{chart_namespace}"
    theirs = await chart_admin.create(RESOURCE_CLAIMS, claim(name), namespace=SYSTEM)
    await refused(leader.delete(RESOURCE_CLAIMS, name, namespace=SYSTEM), message=ONLY_PLACEHOLDERS)
    mark = {"metadata": {"annotations": {names.MOVE_ANNOTATION: "{}"}}}
    await refused(
        leader.patch(RESOURCE_CLAIMS, name, namespace=SYSTEM, body=mark),
        message="the scheduler marks a placeholder when it makes it, and no claim later",
    )
    await chart_admin.delete(RESOURCE_CLAIMS, name, namespace=SYSTEM, uid=theirs["metadata"]["uid"])


@pytest.mark.parametrize("annotation", [names.MOVE_ANNOTATION, names.ROOM_ANNOTATION])
async def test_nobody_else_writes_the_records_of_moves(
    chart_admin: KubeClient, chart_namespace: str, annotation: str
) -> None:
    """A user who could would name the pods of others as those that are to leave."""
    space = chart_namespace
    await refused(
        chart_admin.create(RESOURCE_CLAIMS, marked("one", annotation), namespace=space),
        message=ONLY_THE_SCHEDULER,
    )
    # A claim made of a template has the template's annotations.
    template = claim_template("one")
    template["spec"]["metadata"] = {"annotations": {annotation: "{}"}}
    await refused(
        chart_admin.create(RESOURCE_CLAIM_TEMPLATES, template, namespace=space), message=ONLY_THE_SCHEDULER
    )
    await chart_admin.create(RESOURCE_CLAIMS, claim("two"), namespace=space)
    body: Any = {"metadata": {"annotations": {annotation: "{}"}}}
    await refused(
        chart_admin.patch(RESOURCE_CLAIMS, "two", namespace=space, body=body), message=ONLY_THE_SCHEDULER
    )


async def test_others_may_take_a_record_away_and_change_what_stands_beside_it(
    leader: KubeClient, chart_admin: KubeClient, chart_namespace: str
) -> None:
    made = await chart_admin.create(RESOURCE_CLAIMS, claim("one"), namespace=chart_namespace)
    await carry_out(leader, KeepRoom(read_claim(made), room()))

    async def annotate(name: str, value: str | None) -> Object:
        body = {"metadata": {"annotations": {name: value}}}
        return await chart_admin.patch(RESOURCE_CLAIMS, "one", namespace=chart_namespace, body=body)

    changed = await annotate("example.com/note", "mine")
    assert names.ROOM_ANNOTATION in changed["metadata"]["annotations"]
    await refused(annotate(names.ROOM_ANNOTATION, "{}"), message=ONLY_THE_SCHEDULER)
    changed = await annotate(names.ROOM_ANNOTATION, None)
    assert names.ROOM_ANNOTATION not in changed["metadata"]["annotations"]


async def test_a_placeholder_stays_while_nobody_deletes_it_and_a_deleted_one_is_freed_without_us(
    leader: KubeClient, chart_admin: KubeClient, chart_namespace: str
) -> None:
    """What kube-controller-manager does with a claim that no pod uses."""
    hold = hold_for(chart_namespace)
    await carry_out(leader, hold)
    # The controller has looked at it once it has freed another claim that was made later.
    later = hold_for(chart_namespace[::-1])
    await carry_out(leader, later)
    await chart_admin.delete(RESOURCE_CLAIMS, later.name, namespace=SYSTEM)
    await eventually("the later one to be gone", gone(chart_admin, RESOURCE_CLAIMS, later.name, SYSTEM))
    held = await chart_admin.get(RESOURCE_CLAIMS, hold.name, SYSTEM)
    assert held["status"]["allocation"]
    assert held["metadata"]["finalizers"] == [names.CLAIM_FINALIZER]
    await carry_out(leader, FreeTarget(read_claim(held), "abandoned"))
