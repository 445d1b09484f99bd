"""A round looks at what has changed only. After any sequence of changes the books are those that a scheduler
would make that sees the cluster for the first time.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.placement.policies import FirstFit
from tessera.scheduler import planner as planner_module
from tessera.scheduler.actions import Place, Refuse
from tessera.scheduler.planner import Planner
from tessera.scheduler.snapshot import News, Snapshot, SnapshotReader
from tessera.scheduler.takeback import find_take_backs
from tessera.scheduler.units import Unit, needs_us

KINDS = ("pods", "claims", "nodes", "slices")
DEVICES = ["1g-10gb-0", "2g-20gb-2", "3g-40gb-4", "7g-80gb-0", "no-such-device"]


class Watch:
    """Tells what has changed since it was asked last, and some that has not."""

    def __init__(self, world: Any, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.seen: dict[str, dict[tuple[str, str], tuple[str, str]]] = {kind: {} for kind in KINDS}

    def news(self) -> News:
        return News(
            **{kind: self._news_of(kind) for kind in KINDS},
            classes=list(self.world.classes.values()),
            partitions=list(self.world.partitions.values()),
            gpu_nodes=list(self.world.gpu_nodes.values()),
        )

    def _news_of(self, kind: str) -> dict[tuple[str, str], Any]:
        objects = {
            (obj["metadata"].get("namespace", ""), obj["metadata"]["name"]): obj
            for obj in self.world.objects()[kind]
        }
        versions = {k: (o["metadata"]["uid"], o["metadata"]["resourceVersion"]) for k, o in objects.items()}
        seen = self.seen[kind]
        self.seen[kind] = versions
        keys = sorted(seen.keys() | versions.keys())
        return {k: objects.get(k) for k in keys if seen.get(k) != versions.get(k) or self.rng.random() < 0.2}


def disturb(world: Any, rng: random.Random, request_for: Any, number: int) -> None:
    """Anything that users, controllers, agents and kube-scheduler do."""
    pod = world.pods[rng.choice(sorted(world.pods))] if world.pods else None
    claim = rng.choice(sorted(world.claims)) if world.claims else None
    node = rng.choice(sorted(world.nodes))
    match rng.choice(
        ["pod", "pod", "gang", "allocate", "allocate", "clear", "let go", "bind", "refuse", "end", "end",
         "lose", "unprotect", "again", "cordon", "node", "slices", "class", "reserve", "wait", "delete"]
    ):  # fmt: skip
        case "pod":
            of_class = {"deviceClassName": "big"} if rng.random() < 0.3 else {}
            asked = request_for(rng.choice(["1g.10gb", "2g.20gb"]), **of_class)
            world.add_claim(f"c{number}", asked, finalizer=False)
            names = [f"c{number}", *([claim] if claim and rng.random() < 0.3 else [])]
            world.add_pod(f"p{number}", *names, priority=rng.randrange(2), created=float(rng.randrange(3)))
        case "gang":
            for member in range(2):
                annotations = {"tessera.dev/gang": f"g{number % 3}", "tessera.dev/gang-size": "2"}
                world.add_claim(f"g{number}-{member}", request_for("1g.10gb"))
                world.add_pod(f"g{number}-{member}", f"g{number}-{member}", annotations=annotations)
        case "allocate" if claim:
            user = pod["metadata"]["name"] if pod and rng.random() < 0.7 else None
            device = f"gpu-{node[-1] * 8}-{rng.choice(DEVICES)}"
            world.allocate(claim, device, node=node, pod=user, since=-rng.choice([0.0, 50.0, 90.0]))
        case "clear" if claim:
            world.claims[claim].pop("status", None)
            world.touch(world.claims[claim])
        case "let go" if pod:
            world.let_go(pod["metadata"]["name"])
        case "bind" if pod:
            pod["spec"] |= {"nodeName": node, "schedulingGates": []}
            world.touch(pod)
        case "refuse" if pod:
            condition = {
                "type": "PodScheduled",
                "status": "False",
                "lastTransitionTime": "1970-01-01T00:00:00Z",
            }
            pod["status"]["conditions"] = [condition]
            world.touch(pod)
        case "end" if pod:
            if rng.random() < 0.5:
                del world.pods[pod["metadata"]["name"]]
            else:
                pod["status"]["phase"] = "Succeeded"
                world.touch(pod)
        case "lose" if claim:
            del world.claims[claim]
        case "unprotect" if claim:
            world.claims[claim]["metadata"]["finalizers"] = []
            world.touch(world.claims[claim])
        case "again" if pod:
            # Another pod of the same name, or of another gang.
            pod["metadata"]["uid"] += "+"
            pod["metadata"]["annotations"] = {"tessera.dev/gang": "g1"} if rng.random() < 0.5 else {}
            world.touch(pod)
        case "delete" if pod:
            pod["metadata"]["deletionTimestamp"] = "2001-01-01T00:00:00Z"
            world.touch(pod)
        case "cordon":
            world.nodes[node]["spec"]["unschedulable"] = rng.random() < 0.5
            world.touch(world.nodes[node])
        case "node":
            letter = rng.choice("cd")
            if world.nodes.pop(f"node-{letter}", None) is None:
                world.slices = [s for s in world.slices if s["spec"]["nodeName"] != f"node-{letter}"]
                world.add_node(f"node-{letter}", gpus=[f"gpu-{letter * 8}"], cpu=str(rng.randrange(1, 4)))
        case "slices":
            world.slices = [s for s in world.slices if rng.random() < 0.9]
        case "class":
            if world.classes.pop("big", None) is None:
                world.add_class("big", 'device.driver == "gpu.tessera.dev"')
        case "reserve":
            if world.partitions.pop("kept", None) is None:
                world.reserve("kept", "gpu-aaaaaaaa", one_g=rng.randrange(1, 3))
        case "wait":
            world.now += rng.choice([1.0, 40.0])


def units_by_definition(snapshot: Snapshot, stuck: set[Any]) -> list[Unit]:
    """The rule of docs/scheduler.md, over all pods."""
    gangs: dict[tuple[str, str], list[Any]] = {}
    units = []
    for pod in sorted((p for p in snapshot.pods.values() if not p.deleting), key=lambda p: p.key):
        if pod.gang is not None:
            gangs.setdefault((pod.key[0], pod.gang.name), []).append(pod)
        elif pod.key not in stuck and needs_us(pod, snapshot):
            units.append(Unit((pod,)))
    for (_, name), members in gangs.items():
        needy = [pod for pod in members if pod.key not in stuck and needs_us(pod, snapshot)]
        if needy and all(pod.gated for pod in members):
            units.append(Unit(tuple(members), gang=name))
            continue
        units += [Unit((pod,)) for pod in needy if pod.node]
        if waiting := tuple(pod for pod in needy if not pod.node):
            units.append(Unit(waiting, gang=name, started=True))
    return sorted(units, key=Unit.order)


def orphans_by_definition(snapshot: Snapshot) -> set[Any]:
    used = {(pod.key[0], entry.claim) for pod in snapshot.pods.values() for entry in pod.claims}
    return {
        claim.key
        for claim in snapshot.claims.values()
        if claim.holds_ours
        and not claim.reserved_for
        and claim.key not in used
        and claim.allocated is not None
        and snapshot.now - claim.allocated.since >= 60
    }


def assert_same_snapshot(one: Snapshot, other: Snapshot) -> None:
    assert (one.pods, one.claims, one.nodes) == (other.pods, other.claims, other.nodes)
    assert (one.classes, one.reserves) == (other.classes, other.reserves)
    assert one.inventory.gpus == other.inventory.gpus


def assert_same_books(one: Planner, other: Planner, snapshot: Snapshot) -> None:
    """Of a planner that has followed and one that has just begun."""
    taken = [
        list(find_take_backs(snapshot, p.index, grace_seconds=30, gone=p.occupancy.gone))
        for p in (one, other)
    ]
    assert {t.claim.key for t in taken[0]} == {t.claim.key for t in taken[1]}
    assert {t.claim.key for t in taken[0] if t.pod is None} == orphans_by_definition(snapshot)
    stuck = {t.pod.key for t in taken[0] if t.pod is not None}
    for left_out in (stuck, set()):
        units = one.index.units(snapshot, left_out)
        assert units == other.index.units(snapshot, left_out) == units_by_definition(snapshot, left_out)
    for book in ("keys", "unscheduled", "unreserved", "unprotected"):
        assert getattr(one.index, book) == getattr(other.index, book), book
    states = one.occupancy.state, other.occupancy.state
    gpus = [
        {
            (gpu.name, gpu.node, gpu.key): sorted((str(o), i) for o, i in gpu.held.items())
            for gpu in state.gpus
        }
        for state in states
    ]
    assert gpus[0] == gpus[1]
    loads = one._load, other._load
    for node in snapshot.nodes:
        used = [{name: amount for name, amount in load.used(node).items() if amount} for load in loads]
        assert used[0] == used[1], node
    for pod in snapshot.pods.values():
        assert loads[0].node_of(pod) == loads[1].node_of(pod)
        if pod.node:
            continue
        fits = [load.fit(pod) for load in loads]
        assert fits[0].verdicts == fits[1].verdicts
        assert fits[0].gpus == fits[1].gpus
        assert +fits[0].excluded == +fits[1].excluded


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1_000_000))
def test_what_was_followed_equals_what_is_seen_for_the_first_time(
    empty_world: Callable[[], Any], request_for: Any, seed: int
) -> None:
    rng = random.Random(seed)
    world = empty_world()
    for letter in "ab":
        world.add_node(f"node-{letter}", gpus=[f"gpu-{letter * 8}"])
    watch = Watch(world, rng)
    reader, planner = SnapshotReader(), Planner(FirstFit(), grace_seconds=30)
    for number in range(30):
        for part in range(rng.choice([0, 1, 1, 3])):
            disturb(world, rng, request_for, 10 * number + part)
        snapshot = reader.update(watch.news(), now=world.now)
        if rng.random() < 0.1:
            # A round that failed before it looked: the next one sees two steps at once.
            continue
        placed = [a for a in planner.plan(snapshot) if isinstance(a, Place)]
        for placement in (p for action in placed for p in action.pods if rng.random() < 0.5):
            # The other half of the writes is lost.
            world.hand_over(placement)
            world.let_go(placement.pod.key[1])
        if rng.random() < 0.7:
            # To begin anew costs most of the test's time.
            continue
        snapshot = reader.update(watch.news(), now=world.now)
        fresh = SnapshotReader().read(**world.objects(), now=world.now)
        newcomer = Planner(FirstFit(), grace_seconds=30)
        assert_same_snapshot(snapshot, fresh)
        planner.open_books(snapshot)
        newcomer.open_books(fresh)
        assert_same_books(planner, newcomer, snapshot)


def test_an_older_snapshot_stays_what_it_was(world: Any) -> None:
    world.add_pod("p")
    reader = SnapshotReader()
    earlier = reader.read(**world.objects(), now=1.0)
    del world.pods["p"]
    later = reader.read(**world.objects(), now=2.0)
    assert set(earlier.pods) == {("default", "p")}
    assert later.pods == {}
    assert later.changes.pods == (("default", "p"),)


def test_a_heartbeat_of_a_node_changes_nothing(world: Any) -> None:
    reader = SnapshotReader()
    earlier = reader.read(**world.objects(), now=1.0)
    world.touch(world.nodes["node-a"])
    later = reader.read(**world.objects(), now=2.0)
    assert later.nodes is earlier.nodes
    assert later.changes.nodes == ()


def test_a_snapshot_that_was_skipped_is_made_up_for(world: Any, planner: Planner) -> None:
    reader = SnapshotReader()
    world.add_pod("p")
    planner.open_books(reader.read(**world.objects(), now=1.0))
    world.add_pod("q")
    reader.read(**world.objects(), now=2.0)
    del world.pods["p"]
    planner.open_books(reader.read(**world.objects(), now=3.0))
    assert set(planner.index.keys) == {"pod-q"}


def test_a_burst_is_served_in_parts_that_other_events_can_come_between(
    world: Any, planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner_module, "_MOST_TRIED", 2)
    for number in range(3):
        world.add_pod_with_claim(f"p{number}", "1g.10gb", created=float(number))
    first = [p.pod.key[1] for a in planner.plan(world.snapshot()) if isinstance(a, Place) for p in a.pods]
    assert first == ["p0", "p1"]
    assert planner.unfinished
    assert planner.waiting == 1
    for name in first:
        world.let_go(name)
        world.allocate(name, "gpu-aaaaaaaa-1g-10gb-" + name[1], node="node-a", pod=name)
    (last,) = planner.plan(world.snapshot())
    assert isinstance(last, Place)
    assert last.pods[0].pod.key[1] == "p2"
    assert not planner.unfinished


def test_of_pods_that_ask_the_same_one_is_asked_again_when_room_becomes_free(
    world: Any, planner: Planner
) -> None:
    for number, node in enumerate(("node-a", "node-b")):
        world.add_pod_with_claim(f"r{number}", "7g.80gb", gates=(), nodeName=node)
        world.allocate(f"r{number}", f"gpu-{node[-1] * 8}-7g-80gb-0", node=node, pod=f"r{number}")
    for number in range(3):
        world.add_pod_with_claim(f"p{number}", "4g.40gb", created=float(number))
    assert [type(a) for a in planner.plan(world.snapshot())] == [Refuse] * 3
    assert planner.plan(world.snapshot()) == []
    del world.pods["r0"], world.claims["r0"]
    placed, refused = planner.plan(world.snapshot())
    assert isinstance(placed, Place)
    assert isinstance(refused, Refuse)
    assert (placed.pods[0].pod.key[1], refused.pod.key[1]) == ("p0", "p1")
    assert planner.waiting == 2
    world.now += 31
    del world.pods["p0"], world.claims["p0"]
    assert [type(a) for a in planner.plan(world.snapshot())] == [Place, Refuse]
