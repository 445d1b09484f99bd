"""Room for a pod that fits nowhere, by moving a running one: every step is decided from objects alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from tessera.placement.policies import FragmentationTenancy
from tessera.scheduler.actions import Action, Evict, FreeTarget, GiveUp, HoldTarget, KeepRoom, Place, Refuse
from tessera.scheduler.explain import explain_pod
from tessera.scheduler.move_bodies import placeholder
from tessera.scheduler.move_records import write_move, write_room
from tessera.scheduler.moving.ration import Unlimited
from tessera.scheduler.moving.steps import Moving
from tessera.scheduler.planner import Planner

SYSTEM = "tessera-system"
A, B = "gpu-aaaaaaaa", "gpu-bbbbbbbb"


@dataclass
class Cluster:
    """Two H100s on which a half fits nowhere, though a 1g in its way could go elsewhere; and what a writer,
    a kubelet and a Job controller would do.
    """

    world: Any
    planner: Planner
    evicted: list[str] = field(default_factory=list)

    def add_victim(self, name: str, profile: str, device: str, *, node: str, **pod: Any) -> None:
        """A running pod of an Indexed Job with its slice."""
        annotations = pod.pop("annotations", {"tessera.dev/movable": "true"})
        self.add_job_pod(name, profile, annotations=annotations, **pod)
        self.world.allocate(name, device, node=node, pod=name, since=-100.0)
        self.run(name, node)

    def add_job_pod(self, name: str, profile: str, *, job: str = "job", index: str = "0", **pod: Any) -> None:
        request = {
            "name": "slice",
            "exactly": {
                "deviceClassName": "slice.tessera.dev",
                "selectors": [
                    {"cel": {"expression": f'device.attributes["gpu.tessera.dev"].profile == "{profile}"'}}
                ],
            },
        }
        claim = self.world.add_claim(name, request)
        claim["metadata"]["ownerReferences"] = [
            {"kind": "Pod", "name": name, "uid": f"pod-{name}", "controller": True}
        ]
        made = self.world.add_pod(name, **pod)
        made["metadata"]["ownerReferences"] = [{"kind": "Job", "name": job, "uid": job, "controller": True}]
        made["metadata"]["labels"] = {"batch.kubernetes.io/job-completion-index": index}
        made["spec"]["resourceClaims"] = [{"name": "slice", "resourceClaimTemplateName": "template"}]
        made["status"]["resourceClaimStatuses"] = [{"name": "slice", "resourceClaimName": name}]

    def run(self, name: str, node: str) -> None:
        pod = self.world.pods[name]
        pod["spec"]["schedulingGates"] = []
        pod["spec"]["nodeName"] = node
        pod["status"]["phase"] = "Running"
        self.world.touch(pod)

    def go(self, name: str) -> None:
        """The pod is gone, and kube-controller-manager has freed its claim."""
        del self.world.pods[name], self.world.claims[name]

    def end(self, name: str) -> None:
        """The pod is asked to end and takes its time."""
        self.world.pods[name]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        self.world.touch(self.world.pods[name])

    def round(
        self, *, seconds: float = 1.0, lose: Callable[[Action], bool] = lambda _: False
    ) -> list[Action]:
        """A round, and its writes but for those that get lost."""
        self.world.now += seconds
        actions = self.planner.plan(self.world.snapshot())
        for action in actions:
            if not lose(action):
                self.write(action)
        return actions

    def write(self, action: Action) -> None:
        claims = self.world.claims
        match action:
            case Place(pods, frees):
                for free in frees:
                    del claims[free.key[1]]
                for placed in pods:
                    for one in placed.claims:
                        devices = [result.device for result in one.results]
                        self.world.allocate(one.claim.key[1], *devices, node=one.node, pod=placed.pod.key[1])
                        self.run(placed.pod.key[1], one.node)
            case HoldTarget():
                made = placeholder(action, namespace=SYSTEM)
                made["metadata"] |= {"uid": f"claim-{action.name}"}
                claims[action.name] = self.world.touch(made)
                self.world.allocate(action.name, action.result.device, node=action.node)
            case KeepRoom(claim, record):
                annotations = claims[claim.key[1]]["metadata"].setdefault("annotations", {})
                annotations.pop("tessera.dev/room", None)
                if record is not None:
                    annotations["tessera.dev/room"] = write_room(record)
                self.world.touch(claims[claim.key[1]])
            case FreeTarget(claim, _):
                del claims[claim.key[1]]
            case Evict(pod, _, _):
                self.evicted.append(pod.key[1])
            case GiveUp(claim, _, _):
                claims[claim.key[1]]["status"] = {}
                self.world.touch(claims[claim.key[1]])

    def restart(self) -> None:
        self.planner = a_planner()

    @property
    def placeholders(self) -> list[str]:
        return [n for n, c in self.world.claims.items() if c["metadata"]["namespace"] == SYSTEM]

    def device(self, claim: str) -> str | None:
        allocation = (self.world.claims[claim].get("status") or {}).get("allocation")
        return allocation["devices"]["results"][0]["device"] if allocation else None

    def ask(self, name: str = "waiting", profile: str = "3g.40gb", **pod: Any) -> None:
        """A pod that needs room, with a named claim."""
        self.world.add_pod_with_claim(name, profile, **pod)


def a_planner() -> Planner:
    policy = FragmentationTenancy()
    return Planner(policy, grace_seconds=30.0, moving=Moving(policy, account=Unlimited))


@pytest.fixture
def cluster(world: Any) -> Cluster:
    """3g and a movable 1g on a, 3g and 2g on b: a second half fits only when the 1g goes to b."""
    made = Cluster(world, a_planner())
    world.allow_moves("pool", A, B)
    fixed: dict[str, Any] = {"annotations": {}}
    made.add_victim("fixed-a", "3g.40gb", f"{A}-3g-40gb-0", node="node-a", job="fixed", index="0", **fixed)
    made.add_victim("fixed-b", "3g.40gb", f"{B}-3g-40gb-0", node="node-b", job="fixed", index="1", **fixed)
    made.add_victim("fixed-c", "2g.20gb", f"{B}-2g-20gb-4", node="node-b", job="fixed", index="2", **fixed)
    made.add_victim("victim", "1g.10gb", f"{A}-1g-10gb-4", node="node-a")
    return made


def of(actions: list[Action], kind: type) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]


def begin(cluster: Cluster) -> None:
    """The plan is made and the victim is asked to leave."""
    cluster.ask()
    cluster.round()
    assert len(cluster.placeholders) == 1
    cluster.round()
    assert cluster.evicted == ["victim"]


def test_a_target_and_the_room_are_held_before_anybody_is_asked_to_leave(cluster: Cluster) -> None:
    cluster.ask()
    first = cluster.round()
    (hold,), (keep,), (told,) = of(first, HoldTarget), of(first, KeepRoom), of(first, Refuse)
    assert hold.result.device in {f"{B}-1g-10gb-6"}
    assert hold.record.identity == ("job", "0", "slice")
    assert keep.record.device == f"{A}-3g-40gb-4"
    assert [victim.name for victim in keep.record.victims] == ["victim"]
    assert told.reason == "MakingRoom"
    assert "default/victim" in told.message
    assert cluster.evicted == []

    second = cluster.round()
    assert [(e.reason, e.waiting.key[1]) for e in of(second, Evict)] == [("Moved", "waiting")]
    assert of(second, Refuse) == []


def test_a_plan_whose_placeholder_is_refused_is_not_made_anew_in_every_round(cluster: Cluster) -> None:
    cluster.ask()
    actions: list[Action] = []
    for _ in range(50):
        actions += cluster.round(seconds=0.1, lose=lambda action: isinstance(action, HoldTarget))
    assert len(of(actions, KeepRoom)) == 2  # Written, and taken away.
    assert [told.reason for told in of(actions, Refuse)] == ["MakingRoom", "Unplaceable"]
    cluster.round(seconds=30.0)
    cluster.round()
    assert cluster.evicted == ["victim"]


def test_a_pod_of_another_namespace_that_names_the_job_as_its_owner_is_no_replacement(
    cluster: Cluster,
) -> None:
    """Owners are written by whoever makes the pod; garbage collection comes a second later."""
    begin(cluster)
    cluster.go("victim")
    cluster.round()
    cluster.add_job_pod("thief", "1g.10gb")
    for obj in (cluster.world.pods["thief"], cluster.world.claims["thief"]):
        obj["metadata"]["namespace"] = "elsewhere"
    cluster.round()
    assert cluster.device("thief") is None
    assert [f"{B}-1g-10gb-6"] == [cluster.device(name) for name in cluster.placeholders]


def test_whoever_found_no_search_left_has_his_turn(cluster: Cluster) -> None:
    """The searches of each round would else be made for the same first four, in vain."""
    for priority in range(12):
        cluster.ask(f"too-large-{priority}", "7g.80gb", priority=1 + priority)
    cluster.ask()
    for _ in range(5):
        cluster.round(seconds=31.0)
    assert "tessera.dev/room" in cluster.world.claims["waiting"]["metadata"]["annotations"]


@pytest.mark.parametrize(("grace", "leaves"), [(300, True), (301, False)])
def test_a_pod_that_may_end_for_longer_than_a_place_is_held_is_no_victim(
    cluster: Cluster, grace: int, leaves: bool
) -> None:
    cluster.world.pods["victim"]["spec"]["terminationGracePeriodSeconds"] = grace
    cluster.world.touch(cluster.world.pods["victim"])
    cluster.ask()
    cluster.round()
    assert bool(cluster.placeholders) == leaves


def test_nobody_leaves_for_a_node_that_does_not_take_the_waiting_pod_any_more(cluster: Cluster) -> None:
    cluster.ask()
    cluster.round()
    cluster.world.nodes["node-a"]["spec"]["unschedulable"] = True
    cluster.world.touch(cluster.world.nodes["node-a"])
    actions = cluster.round()
    assert of(actions, Evict) == []
    assert [keep.record for keep in of(actions, KeepRoom)] == [None]
    assert cluster.placeholders == []


def test_a_checkpoint_interval_that_is_no_time_counts_as_none(cluster: Cluster) -> None:
    annotations = cluster.world.pods["victim"]["metadata"]["annotations"]
    annotations["tessera.dev/checkpoint-interval-seconds"] = "9" * 5000
    cluster.world.touch(cluster.world.pods["victim"])
    begin(cluster)


def test_an_eviction_is_asked_for_again_every_five_seconds(cluster: Cluster) -> None:
    begin(cluster)
    for _ in range(4):
        cluster.round(seconds=1.0)
    assert cluster.evicted == ["victim"]
    cluster.round(seconds=1.5)
    assert cluster.evicted == ["victim", "victim"]
    cluster.end("victim")
    cluster.round(seconds=10.0)
    assert cluster.evicted == ["victim", "victim"]


@pytest.mark.parametrize("restarts", [False, True])
def test_victim_and_waiting_pod_both_end_in_their_places(cluster: Cluster, restarts: bool) -> None:
    def pause() -> None:
        if restarts:
            cluster.restart()

    begin(cluster)
    pause()
    cluster.end("victim")
    cluster.round()
    pause()
    cluster.go("victim")
    cluster.round()
    assert cluster.device("waiting") == f"{A}-3g-40gb-4"
    pause()
    cluster.round()
    assert "tessera.dev/room" not in cluster.world.claims["waiting"]["metadata"]["annotations"]
    pause()
    cluster.add_job_pod("again", "1g.10gb", annotations={"tessera.dev/movable": "true"})
    actions = cluster.round()
    (place,) = of(actions, Place)
    assert [claim.key[0] for claim in place.frees] == [SYSTEM]
    assert cluster.device("again") == f"{B}-1g-10gb-6"
    assert cluster.placeholders == []
    assert cluster.round(seconds=400.0) == []


def test_nobody_else_gets_the_room_or_the_target(cluster: Cluster) -> None:
    cluster.ask()
    cluster.ask("narrow", "1g.10gb", priority=9, created=1.0)
    cluster.ask("wide", "3g.40gb", priority=9, created=1.0)
    cluster.round()  # The narrow one takes the last free slice but the one that is held.
    held = [cluster.device(name) for name in ("narrow", *cluster.placeholders)]
    assert cluster.device("narrow") is not None
    assert len(set(held)) == len(held)


def test_a_plan_closes_its_places_in_the_round_in_which_it_is_made(cluster: Cluster) -> None:
    cluster.ask()
    cluster.ask("late", "1g.10gb", created=5.0)
    cluster.round()
    assert len(cluster.placeholders) == 1
    assert cluster.device("late") is None


def test_a_kept_room_is_closed_for_more_urgent_pods(cluster: Cluster) -> None:
    begin(cluster)
    cluster.go("victim")
    # One more than there is room for outside.
    for number in range(4):
        cluster.ask(f"urgent-{number}", "1g.10gb", priority=9)
    cluster.round()
    assert cluster.device("waiting") == f"{A}-3g-40gb-4"
    inside = {f"{A}-1g-10gb-{start}" for start in (4, 5, 6)} | {f"{B}-1g-10gb-6"}
    assert not inside & {cluster.device(f"urgent-{number}") for number in range(4)}


def test_a_room_stays_when_a_victims_claim_is_free_before_its_pod_is_seen_to_end(cluster: Cluster) -> None:
    begin(cluster)
    cluster.world.claims["victim"]["status"] = {}
    cluster.world.touch(cluster.world.claims["victim"])
    cluster.ask("urgent", "3g.40gb", priority=9)
    cluster.round()
    assert cluster.device("waiting") == f"{A}-3g-40gb-4"
    assert cluster.device("urgent") is None


def test_who_may_not_be_evicted_in_time_is_left_alone_for_ten_minutes(cluster: Cluster) -> None:
    begin(cluster)
    actions = cluster.round(seconds=61.0)
    assert [free.outcome for free in of(actions, FreeTarget)] == ["refused"]
    assert [keep.record for keep in of(actions, KeepRoom)] == [None]
    assert cluster.placeholders == []
    for _ in range(10):
        cluster.round(seconds=45.0)
    assert cluster.placeholders == []
    for _ in range(10):
        cluster.round(seconds=45.0)
    assert cluster.evicted.count("victim") > 1


def test_a_target_whose_replacement_never_comes_is_given_up_at_its_deadline(cluster: Cluster) -> None:
    begin(cluster)
    cluster.go("victim")
    cluster.round()
    assert cluster.device("waiting")
    cluster.round(seconds=120.0)
    cluster.round(seconds=120.0)
    assert len(cluster.placeholders) == 1, "no pod uses it, but it has a deadline of its own"
    actions = cluster.round(seconds=121.0)
    assert [free.outcome for free in of(actions, FreeTarget)] == ["no_replacement"]
    assert cluster.placeholders == []


def test_a_target_on_a_cordoned_node_is_freed_and_the_replacement_goes_elsewhere(cluster: Cluster) -> None:
    begin(cluster)
    cluster.go("victim")
    cluster.world.nodes["node-b"]["spec"]["unschedulable"] = True
    cluster.world.touch(cluster.world.nodes["node-b"])
    cluster.add_job_pod("again", "1g.10gb")
    actions = cluster.round()
    assert [free.outcome for free in of(actions, FreeTarget)] == ["elsewhere"]
    assert cluster.placeholders == []
    assert cluster.device("again") in (None, f"{A}-1g-10gb-3")


@pytest.mark.parametrize("lost", [HoldTarget, KeepRoom])
def test_half_a_plan_is_given_up_and_made_anew(cluster: Cluster, lost: type[Action]) -> None:
    cluster.ask()
    cluster.round(lose=lambda action: isinstance(action, lost))
    cluster.restart()
    cluster.round()
    assert cluster.evicted == []
    assert cluster.placeholders == []
    for _ in range(3):
        cluster.round()
    assert len(cluster.placeholders) == 1
    assert cluster.evicted == ["victim"]


def test_a_room_that_is_not_needed_any_more_is_given_up(cluster: Cluster) -> None:
    begin(cluster)
    del cluster.world.pods["waiting"], cluster.world.claims["waiting"]
    actions = cluster.round()
    assert [free.outcome for free in of(actions, FreeTarget)] == ["abandoned"]
    assert cluster.evicted == ["victim"]


def test_a_pod_that_fits_elsewhere_meanwhile_goes_there(cluster: Cluster) -> None:
    begin(cluster)
    cluster.go("fixed-b")
    cluster.round()
    assert cluster.device("waiting") == f"{B}-3g-40gb-0"
    cluster.round()
    assert cluster.placeholders == []
    assert "victim" in cluster.world.pods


@pytest.fixture
def crowded(world: Any) -> Cluster:
    """Two movable 1g are in the way of a half on a; b has room for both, but none for a half."""
    made = Cluster(world, a_planner())
    world.allow_moves("pool", A, B)
    fixed: dict[str, Any] = {"annotations": {}}
    made.add_victim("fixed-a", "3g.40gb", f"{A}-3g-40gb-0", node="node-a", job="fixed", index="0", **fixed)
    made.add_victim("fixed-b", "3g.40gb", f"{B}-3g-40gb-0", node="node-b", job="fixed", index="1", **fixed)
    made.add_victim("fixed-c", "1g.10gb", f"{B}-1g-10gb-4", node="node-b", job="fixed", index="2", **fixed)
    made.add_victim("one", "1g.10gb", f"{A}-1g-10gb-4", node="node-a", index="1")
    made.add_victim("two", "1g.10gb", f"{A}-1g-10gb-5", node="node-a", index="2")
    made.ask()
    return made


def test_victims_leave_one_after_the_other(crowded: Cluster) -> None:
    crowded.round()
    assert len(crowded.placeholders) == 2
    crowded.round()
    (first,) = crowded.evicted
    crowded.round(seconds=1.0)
    assert crowded.evicted == [first]
    crowded.end(first)
    crowded.round(seconds=1.0)
    assert sorted(crowded.evicted) == ["one", "two"]
    for index, name in (("1", "one"), ("2", "two")):
        crowded.go(name)
        crowded.add_job_pod(f"again-{name}", "1g.10gb", index=index)
    crowded.round()
    assert crowded.device("waiting") == f"{A}-3g-40gb-4"
    assert {crowded.device("again-one"), crowded.device("again-two")} == {
        f"{B}-1g-10gb-5",
        f"{B}-1g-10gb-6",
    }
    assert crowded.placeholders == []


def test_who_has_left_keeps_his_new_place_when_another_may_not_leave(crowded: Cluster) -> None:
    crowded.round()
    crowded.round()
    (first,) = crowded.evicted
    crowded.go(first)
    actions = crowded.round(seconds=61.0)
    assert [free.outcome for free in of(actions, FreeTarget)] == ["refused"]
    assert len(crowded.placeholders) == 1
    target = crowded.device(crowded.placeholders[0])
    crowded.add_job_pod("again", "1g.10gb", index="1" if first == "one" else "2")
    crowded.round()
    assert crowded.device("again") == target
    assert crowded.placeholders == []


def test_a_partition_says_how_many_may_leave_at_once(crowded: Cluster) -> None:
    crowded.world.allow_moves("pool", A, B, maxVictims=1)
    assert of(crowded.round(), HoldTarget) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pod: pod["metadata"].update(annotations={}),
        lambda pod: pod["metadata"].update(annotations={"tessera.dev/movable": "yes"}),
        lambda pod: pod["metadata"].update(ownerReferences=[]),
        lambda pod: pod["metadata"].update(labels={}),
        lambda pod: pod["metadata"]["annotations"].update({"tessera.dev/gang": "g"}),
        lambda pod: pod["spec"].update(resourceClaims=[{"name": "slice", "resourceClaimName": "victim"}]),
        lambda pod: pod["metadata"].update(deletionTimestamp="2026-01-01T00:00:00Z"),
    ],
    ids=["unasked", "not true", "no job", "no index", "gang", "named claim", "ending"],
)
def test_who_does_not_allow_it_or_cannot_be_recognised_again_is_not_moved(
    cluster: Cluster, spoil: Callable[[Any], None]
) -> None:
    pod = cluster.world.pods["victim"]
    spoil(pod)
    cluster.world.touch(pod)
    cluster.ask()
    actions = cluster.round()
    assert of(actions, HoldTarget) == []
    assert [told.reason for told in of(actions, Refuse)] == ["Unplaceable"]


def test_nobody_is_moved_for_a_less_important_pod(cluster: Cluster) -> None:
    cluster.world.pods["victim"]["spec"]["priority"] = 5
    cluster.world.touch(cluster.world.pods["victim"])
    cluster.ask("low", priority=4)
    assert of(cluster.round(), HoldTarget) == []
    cluster.ask("equal", priority=5)
    assert len(of(cluster.round(seconds=6.0), HoldTarget)) == 1


def test_nothing_is_moved_where_the_partition_does_not_say_so(cluster: Cluster) -> None:
    cluster.world.partitions["pool"]["spec"]["dynamic"] = {}
    cluster.world.touch(cluster.world.partitions["pool"])
    cluster.ask()
    assert of(cluster.round(), HoldTarget) == []


def test_nobody_moves_to_a_gpu_of_another_partition(cluster: Cluster) -> None:
    cluster.world.allow_moves("pool", A)
    cluster.world.allow_moves("other", B)
    cluster.ask()
    assert of(cluster.round(), HoldTarget) == []


def test_a_reserve_is_not_filled_by_moves(cluster: Cluster) -> None:
    cluster.world.allow_moves("pool", A, B, reserves=[{"profile": "1g.10gb", "count": 3}])
    cluster.ask()
    assert of(cluster.round(), HoldTarget) == []


@pytest.mark.parametrize(
    ("preemption", "victim"),
    [("Never", "victim"), ("LowerPriority", "fixed-a"), ("LowerPriority", "elsewhere")],
)
def test_a_room_that_a_user_wrote_himself_evicts_nobody_but_by_the_rules(
    cluster: Cluster, preemption: str, victim: str
) -> None:
    cluster.add_victim("elsewhere", "1g.10gb", f"{B}-1g-10gb-6", node="node-b", job="elsewhere")
    cluster.world.allow_moves("pool", A, B, preemption=preemption, perHour=0)
    cluster.ask(priority=9)
    claim = cluster.world.claims["waiting"]
    room = {
        "pool": "node-a", "device": f"{A}-3g-40gb-4", "evictUntil": cluster.world.now + 50,
        "deadline": cluster.world.now + 100,
        "victims": [{"namespace": "default", "name": victim, "uid": f"pod-{victim}", "preempted": True}],
    }  # fmt: skip
    claim["metadata"]["annotations"] = {"tessera.dev/room": json.dumps(room)}
    cluster.world.touch(claim)
    actions = cluster.round()
    assert cluster.evicted == []
    assert None in [keep.record for keep in of(actions, KeepRoom)]


def test_a_record_outside_the_schedulers_namespace_is_no_placeholder(cluster: Cluster) -> None:
    cluster.ask()
    (hold,) = of(cluster.round(lose=lambda _: True), HoldTarget)
    cluster.world.add_claim("mine")["metadata"]["annotations"] = {"tessera.dev/move": write_move(hold.record)}
    cluster.world.claims["mine"]["spec"] = placeholder(hold, namespace="default")["spec"]
    cluster.world.allocate("mine", f"{B}-1g-10gb-6", node="node-b", since=-100.0)
    actions = cluster.round()
    assert [give_up.claim.key[1] for give_up in of(actions, GiveUp)] == ["mine"]


def preempting(cluster: Cluster, **victim: Any) -> None:
    """Nowhere to move to: b is full."""
    cluster.add_victim("full", "1g.10gb", f"{B}-1g-10gb-6", node="node-b", annotations={}, job="full")
    cluster.world.allow_moves("pool", A, B, preemption="LowerPriority")
    cluster.world.pods["victim"]["spec"] |= victim
    cluster.world.touch(cluster.world.pods["victim"])


def test_a_more_important_pod_preempts_a_movable_one_when_no_move_helps(cluster: Cluster) -> None:
    preempting(cluster)
    cluster.ask(priority=5)
    first = cluster.round()
    (keep,) = of(first, KeepRoom)
    assert keep.record.victims[0].preempted
    assert of(first, HoldTarget) == []
    second = cluster.round()
    assert [e.reason for e in of(second, Evict)] == ["Preempted"]
    cluster.go("victim")
    cluster.add_job_pod("again", "1g.10gb")
    cluster.round()
    assert cluster.device("waiting") == f"{A}-3g-40gb-4"
    assert cluster.device("again") is None


@pytest.mark.parametrize(
    ("victim", "waiting"),
    [({}, {}), ({"priority": 5}, {"priority": 5}), ({}, {"priority": 5, "preemptionPolicy": "Never"})],
    ids=["equal", "not higher", "never"],
)
def test_nobody_is_preempted_without_need_or_right(
    cluster: Cluster, victim: dict[str, Any], waiting: dict[str, Any]
) -> None:
    preempting(cluster, **victim)
    cluster.ask(**waiting)
    cluster.round()
    cluster.round()
    assert cluster.evicted == []


def test_preemption_is_off_unless_the_partition_says_otherwise(cluster: Cluster) -> None:
    preempting(cluster)
    cluster.world.allow_moves("pool", A, B)
    cluster.ask(priority=5)
    cluster.round()
    cluster.round()
    assert cluster.evicted == []


def explained(cluster: Cluster, name: str = "waiting") -> Any:
    return explain_pod(cluster.world.snapshot(), ("default", name), FragmentationTenancy())


def test_an_explanation_names_the_plan_that_would_be_made_and_then_the_one_under_way(
    cluster: Cluster,
) -> None:
    cluster.ask()
    planned = explained(cluster)
    assert planned.state == "Waiting"
    assert f"pod default/victim is moved to {B}-1g-10gb-6" in planned.move
    assert "5 per 100 placements, 60 an hour" in planned.move

    cluster.round()
    assert "0 of 1 pods left; default/victim still to leave" in explained(cluster).move
    assert "is to leave its slice for pod default/waiting" in explained(cluster, "victim").message
    cluster.end("victim")
    assert "1 of 1 pods left" in explained(cluster).move
    cluster.go("victim")
    assert explained(cluster).devices == (f"{A}-3g-40gb-4",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.world.partitions["pool"]["spec"].update(dynamic={}), "no MIGPartition allows moves"),
        (lambda c: c.world.allow_moves("pool", "gpu-cccccccc"), "no GPU in reach belongs to a MIGPartition"),
        (lambda c: c.world.pods["victim"]["metadata"].update(annotations={}), "no Indexed Job's pod"),
        (lambda c: c.world.allow_moves("pool", A), "no 2 movable pods or fewer could go elsewhere"),
    ],
    ids=["not allowed", "other GPUs", "nobody movable", "nowhere to go"],
)
def test_an_explanation_says_why_there_is_no_move(
    cluster: Cluster, change: Callable[[Cluster], None], words: str
) -> None:
    cluster.ask()
    change(cluster)
    for obj in (*cluster.world.partitions.values(), cluster.world.pods["victim"]):
        cluster.world.touch(obj)
    assert words in explained(cluster).move
