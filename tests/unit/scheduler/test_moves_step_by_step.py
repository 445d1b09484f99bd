"""Room for a pod that fits nowhere, by moving a running one: every step is decided from objects alone.

A target for the victim and the room for the waiting pod are held first; then the victim is asked to leave,
one victim at a time; and in the end both pods are in their places and nothing is held any more.
"""

from __future__ import annotations

import pytest
from tessera.scheduler.actions import Evict, HoldTarget, KeepRoom, Place, Refuse
from unit.scheduler.two_crowded_gpus import SYSTEM, A, B, Cluster, begin, of


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


def test_a_plan_closes_its_places_in_the_round_in_which_it_is_made(cluster: Cluster) -> None:
    cluster.ask()
    cluster.ask("late", "1g.10gb", created=5.0)
    cluster.round()
    assert len(cluster.placeholders) == 1
    assert cluster.device("late") is None


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


def test_whoever_found_no_search_left_has_his_turn(cluster: Cluster) -> None:
    """The searches of each round would else be made for the same first four, in vain."""
    for priority in range(12):
        cluster.ask(f"too-large-{priority}", "7g.80gb", priority=1 + priority)
    cluster.ask()
    for _ in range(5):
        cluster.round(seconds=31.0)
    assert "tessera.dev/room" in cluster.world.claims["waiting"]["metadata"]["annotations"]


@pytest.mark.parametrize("restarts", [False, True])
def test_cpu_and_memory_are_kept_for_the_replacement_too(cluster: Cluster, restarts: bool) -> None:
    cluster.world.nodes["node-b"]["status"]["allocatable"]["cpu"] = "3"
    cluster.world.touch(cluster.world.nodes["node-b"])
    begin(cluster)
    cluster.go("victim")
    cluster.go("fixed-c")
    cluster.round()
    if restarts:
        cluster.restart()
    cluster.ask("greedy", "2g.20gb", cpu="2")
    (refusal,) = of(cluster.round(), Refuse)
    assert "insufficient cpu" in refusal.message
    cluster.add_job_pod("again", "1g.10gb")
    cluster.round()
    assert cluster.device("again") == f"{B}-1g-10gb-6"
    assert cluster.world.pods["again"]["spec"]["nodeName"] == "node-b"
    # What is kept is given back: then there is room for one who asks for no more than that.
    cluster.go("again")
    cluster.ask("modest", "2g.20gb", cpu="2", priority=1)
    cluster.round()
    assert cluster.device("modest") == f"{B}-2g-20gb-4"
