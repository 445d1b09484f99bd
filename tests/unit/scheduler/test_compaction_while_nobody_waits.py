"""GPUs are emptied by moves while nobody waits: what is begun and what is not, and every step after it."""

from __future__ import annotations

from typing import Any

import pytest
from tessera.placement.compaction import Step, pays
from tessera.placement.move_plans import Move
from tessera.placement.policies import FragmentationTenancy
from tessera.scheduler.actions import Action, Evict, FreeTarget, HoldTarget, NoteDepartures, Place
from tessera.scheduler.explain import explain_pod
from tessera.scheduler.move_records import read_move, write_move
from tessera.scheduler.moving.plans import PRICE, can_be_made
from tessera.scheduler.moving.ration import Account
from tessera.scheduler.reserves import MoveRule
from unit.scheduler.two_crowded_gpus import A, B, Cluster, Earned, a_planner, of

EVERY = 100.0


def defragmented(world: Any, *gpus: str, most: int = 2, reserves: Any = None) -> Cluster:
    world.allow_moves("pool", *(gpus or (A, B)), reserves=reserves)
    rule = {"everySeconds": int(EVERY), "maxMoves": most}
    world.partitions["pool"]["spec"]["dynamic"]["defragmentation"] = rule
    return Cluster(world, a_planner())


def add_fixed(cluster: Cluster, profile: str, start: int) -> None:
    device = f"{B}-{profile.replace('.', '-')}-{start}"
    cluster.add_victim("fixed", profile, device, node="node-b", annotations={}, job="fixed")


@pytest.fixture
def scattered(world: Any) -> Cluster:
    """A movable 1g alone on a, a half of b taken for good."""
    made = defragmented(world)
    made.add_victim("victim", "1g.10gb", f"{A}-1g-10gb-0", node="node-a")
    add_fixed(made, "3g.40gb", 4)
    return made


def until_due(cluster: Cluster) -> list[Action]:
    cluster.round()
    return cluster.round(seconds=EVERY)


def held(cluster: Cluster) -> list[str | None]:
    return [cluster.device(name) for name in cluster.placeholders]


@pytest.mark.parametrize("restarts", [False, True])
def test_a_gpu_becomes_empty_while_nobody_waits(scattered: Cluster, restarts: bool) -> None:
    def pause() -> None:
        if restarts:
            scattered.restart()

    assert scattered.round() == []
    assert scattered.round(seconds=EVERY - 1) == []
    (hold,) = scattered.round()
    assert isinstance(hold, HoldTarget)
    assert hold.result.device == f"{B}-1g-10gb-0"
    pause()
    (evict,) = scattered.round()
    assert isinstance(evict, Evict)
    assert (evict.pod.key[1], evict.reason, evict.waiting) == ("victim", "Compacted", None)
    scattered.end("victim")
    pause()
    scattered.round()
    scattered.go("victim")
    pause()
    scattered.round()
    scattered.add_job_pod("again", "1g.10gb", annotations={"tessera.dev/movable": "true"})
    pause()
    (place,) = of(scattered.round(), Place)
    assert len(place.frees) == 1
    assert scattered.device("again") == f"{B}-1g-10gb-0"
    assert scattered.placeholders == []
    for _ in range(20):
        assert scattered.round(seconds=EVERY) == []


def test_who_left_is_counted_once(scattered: Cluster) -> None:
    until_due(scattered)
    scattered.round()
    scattered.go("victim")
    assert len(of(scattered.round(), NoteDepartures)) == 1
    scattered.restart()
    assert of(scattered.round(), NoteDepartures) == []
    (ration,) = scattered.planner.moving.rations(now=scattered.world.now)
    assert ration.left_this_hour == 59


def test_a_record_stays_until_who_left_is_noted(scattered: Cluster) -> None:
    """The replacement has found another place before it is seen that the victim is gone."""
    until_due(scattered)
    scattered.round()
    scattered.go("victim")
    scattered.add_job_pod("again", "1g.10gb")
    scattered.world.allocate("again", f"{A}-1g-10gb-6", node="node-a", pod="again")
    scattered.run("again", "node-a")
    assert [type(action) for action in scattered.round()] == [NoteDepartures]
    (free,) = scattered.round()
    assert isinstance(free, FreeTarget)
    assert free.outcome == "elsewhere"


def test_nothing_is_moved_while_a_pod_waits_that_could_use_these_gpus(scattered: Cluster) -> None:
    scattered.ask("large", "7g.80gb", priority=-1)  # Nobody is moved for somebody less important.
    until_due(scattered)
    assert scattered.placeholders == []
    del scattered.world.pods["large"], scattered.world.claims["large"]
    scattered.round()
    assert scattered.placeholders == []
    scattered.round(seconds=10.0)
    assert held(scattered) == [f"{B}-1g-10gb-0"]


@pytest.mark.parametrize(
    ("profile", "spec"),
    [("9g.90gb", {}), ("7g.80gb", {"nodeSelector": {"disk": "fast"}}), ("7g.80gb", {"gates": ("other",)})],
    ids=["unknown profile", "other nodes", "held by others"],
)
def test_a_pod_that_waits_for_something_else_does_not_hold_it_up(
    scattered: Cluster, profile: str, spec: dict[str, Any]
) -> None:
    scattered.ask("elsewhere", profile, **spec)
    until_due(scattered)
    assert held(scattered) == [f"{B}-1g-10gb-0"]


def test_a_partition_that_does_not_ask_for_it_is_left_as_it_is(scattered: Cluster) -> None:
    del scattered.world.partitions["pool"]["spec"]["dynamic"]["defragmentation"]
    assert until_due(scattered) == []


def test_pods_on_gpus_of_no_or_another_partition_stay_where_they_are(world: Any) -> None:
    cluster = defragmented(world, B)
    cluster.add_victim("victim", "1g.10gb", f"{A}-1g-10gb-0", node="node-a")
    add_fixed(cluster, "3g.40gb", 4)
    assert until_due(cluster) == []


def test_work_that_would_be_lost_must_be_worth_an_empty_gpu(scattered: Cluster) -> None:
    """A day of work on an eighth of a GPU: three hours of a whole one. V falls by less than 1 + 3 slices."""
    scattered.world.allocate("victim", f"{A}-1g-10gb-0", node="node-a", pod="victim", since=-86_400.0)
    assert until_due(scattered) == []
    annotations = scattered.world.pods["victim"]["metadata"]["annotations"]
    annotations["tessera.dev/checkpoint-interval-seconds"] = "600"
    scattered.world.touch(scattered.world.pods["victim"])
    assert len(of(scattered.round(seconds=EVERY), HoldTarget)) == 1


@pytest.mark.parametrize(("count", "moved"), [(2, 1), (3, 0)])
def test_room_that_is_reserved_is_not_taken(world: Any, count: int, moved: int) -> None:
    """There is room for four 2g; the half would take that of two."""
    cluster = defragmented(world, reserves=[{"profile": "2g.20gb", "count": count}])
    cluster.add_victim("victim", "3g.40gb", f"{A}-3g-40gb-4", node="node-a")
    add_fixed(cluster, "3g.40gb", 4)
    until_due(cluster)
    assert len(cluster.placeholders) == moved


def test_moves_that_break_a_reserve_only_together_are_not_made(world: Any) -> None:
    cluster = defragmented(world, reserves=[{"profile": "7g.80gb", "count": 1}])
    placing = cluster.planner.open_books(world.snapshot())
    one, other = ((gpu.name, 0) for gpu in placing.state.gpus)
    assert can_be_made([one], [], None, placing)
    assert not can_be_made([one, other], [], None, placing)
    cluster.planner.moving.close()


def test_no_more_pods_than_allowed_leave_for_one_gpu(world: Any) -> None:
    cluster = defragmented(world, most=2)
    slices = (("1g.10gb", "1g-10gb-0"), ("1g.10gb", "1g-10gb-3"), ("2g.20gb", "2g-20gb-4"))
    for index, (profile, device) in enumerate(slices):
        cluster.add_victim(f"v{index}", profile, f"{A}-{device}", node="node-a", index=str(index))
    add_fixed(cluster, "3g.40gb", 4)
    assert until_due(cluster) == []
    rule = cluster.world.partitions["pool"]["spec"]["dynamic"]["defragmentation"]
    rule["maxMoves"] = 3
    cluster.world.touch(cluster.world.partitions["pool"])
    cluster.round(seconds=EVERY)
    assert len(cluster.placeholders) == 3
    cluster.round()
    assert len(cluster.evicted) == 1
    cluster.round()
    assert len(cluster.evicted) == 1  # One after the other.
    cluster.end(cluster.evicted[0])
    cluster.round()
    assert len(set(cluster.evicted)) == 2


@pytest.fixture
def pair(world: Any) -> Cluster:
    """Two movable 1g on a, a half of b taken for good."""
    made = defragmented(world)
    for index, start in (("1", 0), ("2", 1)):
        made.add_victim(f"v{index}", "1g.10gb", f"{A}-1g-10gb-{start}", node="node-a", index=index)
    add_fixed(made, "3g.40gb", 4)
    return made


def test_a_plan_of_which_a_part_is_not_written_is_given_up(pair: Cluster) -> None:
    pair.round()
    lost = iter([False, True])
    pair.round(seconds=EVERY, lose=lambda action: isinstance(action, HoldTarget) and next(lost))
    assert len(pair.placeholders) == 1
    (free,) = pair.round()
    assert isinstance(free, FreeTarget)
    assert free.outcome == "abandoned"
    assert pair.placeholders == pair.evicted == []


def test_who_left_before_a_plan_was_given_up_gets_his_place(pair: Cluster) -> None:
    until_due(pair)
    pair.round()
    (first,) = pair.evicted
    pair.go(first)
    pair.round()
    # A disruption budget keeps the other one.
    frees = of(pair.round(seconds=60.0), FreeTarget)
    assert [free.outcome for free in frees] == ["refused"]
    pair.add_job_pod("again", "1g.10gb", index=first[-1])
    (place,) = of(pair.round(), Place)
    assert len(place.frees) == 1
    assert (pair.device("again") or "").startswith(B)
    assert pair.placeholders == []


def test_a_pod_that_could_not_be_evicted_is_left_alone_for_a_while(scattered: Cluster) -> None:
    until_due(scattered)
    scattered.round()
    (free,) = of(scattered.round(seconds=61.0), FreeTarget)
    assert free.outcome == "refused"
    for _ in range(4):
        assert of(scattered.round(seconds=EVERY), HoldTarget) == []
    assert len(of(scattered.round(seconds=300.0), HoldTarget)) == 1


def test_nobody_leaves_a_gpu_on_which_somebody_has_come(scattered: Cluster) -> None:
    until_due(scattered)
    device = f"{A}-2g-20gb-2"
    scattered.add_victim("newcomer", "2g.20gb", device, node="node-a", annotations={}, job="other")
    (free,) = of(scattered.round(), FreeTarget)
    assert free.outcome == "abandoned"
    assert scattered.evicted == []


def test_nobody_comes_to_a_gpu_while_pods_are_asked_to_leave_it(scattered: Cluster) -> None:
    until_due(scattered)
    scattered.world.nodes["node-b"]["spec"]["taints"] = [{"key": "other", "effect": "NoSchedule"}]
    scattered.ask("newcomer", "1g.10gb")
    scattered.world.pods["victim"]["spec"]["tolerations"] = [{"operator": "Exists"}]
    for name in ("node-b", "victim"):
        scattered.world.touch((scattered.world.nodes | scattered.world.pods)[name])
    scattered.round()
    assert scattered.evicted == ["victim"]
    assert scattered.device("newcomer") is None
    # A disruption budget keeps the victim: the GPU is not closed for longer than a while.
    scattered.round(seconds=16.0)
    assert (scattered.device("newcomer") or "").startswith(A)


def test_it_ends_when_the_partition_does_not_ask_for_it_any_more(scattered: Cluster) -> None:
    until_due(scattered)
    del scattered.world.partitions["pool"]["spec"]["dynamic"]["defragmentation"]
    scattered.world.touch(scattered.world.partitions["pool"])
    (free,) = of(scattered.round(), FreeTarget)
    assert free.outcome == "abandoned"
    assert scattered.evicted == []


def test_nodes_must_take_all_that_come_to_them(pair: Cluster) -> None:
    pair.world.nodes["node-b"]["status"]["allocatable"]["cpu"] = "2"
    pair.world.touch(pair.world.nodes["node-b"])
    assert until_due(pair) == []


def test_no_other_plan_begins_until_those_who_leave_have_left(scattered: Cluster) -> None:
    until_due(scattered)
    scattered.ask("large", "7g.80gb")
    scattered.round()
    scattered.round()
    assert len(scattered.placeholders) == 1
    scattered.go("victim")
    scattered.round()
    assert scattered.device("large") == f"{A}-7g-80gb-0"


def test_an_explanation_says_why_a_pod_is_to_leave(scattered: Cluster) -> None:
    until_due(scattered)
    told = explain_pod(scattered.world.snapshot(), ("default", "victim"), FragmentationTenancy())
    assert "it is to leave its slice, so that its GPU becomes empty" in told.message


def test_a_record_is_read_as_it_was_written(scattered: Cluster) -> None:
    (hold,) = of(until_due(scattered), HoldTarget)
    assert read_move(write_move(hold.record)) == hold.record
    assert hold.record.compaction is not None
    assert [victim.name for victim in hold.record.compaction.victims] == ["victim"]


def step(*, moves: int, growth: float, gpu_hours: float = 0.0) -> Step:
    move = Move("owner", "1g.10gb", ("gpu-0", 0), ("gpu-1", 0))
    return Step("gpu-0", (move,) * moves, growth, gpu_hours * 3600)


@pytest.mark.parametrize(
    ("wanted", "answer"),
    [
        (step(moves=1, growth=-1.0), True),
        (step(moves=1, growth=-0.9), False),
        (step(moves=2, growth=-1.9), False),
        (step(moves=1, growth=-1.9, gpu_hours=1.0), False),
        (step(moves=1, growth=-2.0, gpu_hours=1.0), True),
        (step(moves=1, growth=0.5), False),
    ],
)
def test_v_must_fall_by_a_slice_for_each_move_and_each_hour(wanted: Step, answer: bool) -> None:
    assert pays(wanted, Earned(MoveRule(), gpus=8), price=PRICE) is answer


def test_what_pods_that_wait_may_need_is_not_spent() -> None:
    """With 5 moves per 100 a move from an empty account must bring 6 slices; V's are worth 0.3 each."""
    account = Account(MoveRule(), gpus=8)
    for _ in range(100):
        account.accepted()
    assert account.movable_now(0.0) == 2
    assert not pays(step(moves=1, growth=-4.0), account, price=PRICE)
    for _ in range(60):
        account.accepted()
    assert pays(step(moves=1, growth=-4.0), account, price=PRICE)
