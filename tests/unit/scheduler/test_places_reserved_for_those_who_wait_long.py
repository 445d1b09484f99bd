"""A pod that has waited for the age limit has a place reserved: small ones do not take what it needs."""

from __future__ import annotations

from typing import Any

import pytest
from scheduler_objects import device_name
from tessera.placement.policies import FirstFit
from tessera.placement.queue_order import QueueOrder, QueueRule
from tessera.scheduler.actions import HoldTarget, Refuse
from tessera.scheduler.explain import explain_pod
from tessera.scheduler.planner import Planner
from unit.scheduler.decisions import placed
from unit.scheduler.two_crowded_gpus import A, B, Cluster, a_planner, of


@pytest.fixture
def planner() -> Planner:
    return Planner(FirstFit(), grace_seconds=30, order=QueueOrder(age_limit_seconds=300))


def run_on(world: Any, name: str, gpu: str, start: int = 0, *, profile: str = "1g.10gb", **spec: Any) -> None:
    """A running pod of a Job, unless the spec says otherwise."""
    node = f"node-{gpu[-1]}"
    world.add_pod_with_claim(name, profile, gates=(), **({"restartPolicy": "Never", "nodeName": node} | spec))
    world.allocate(name, device_name(gpu, profile, start), node=node, pod=name)


def end(world: Any, name: str) -> None:
    del world.pods[name], world.claims[name]


def a_round(world: Any, planner: Planner, *, seconds: float = 1.0) -> dict[str, tuple[str, ...]]:
    """Everything that is placed runs afterwards."""
    world.now += seconds
    actions = planner.plan(world.snapshot())
    for name, devices in placed(actions).items():
        gpu = devices[0][:12]
        world.allocate(name, *devices, node=f"node-{gpu[-1]}", pod=name)
        world.let_go(name)
        world.pods[name]["spec"] |= {"nodeName": f"node-{gpu[-1]}", "restartPolicy": "Never"}
    return placed(actions)


def told(world: Any, planner: Planner, pod: str) -> str:
    world.now += 31
    return next(
        a.message for a in planner.plan(world.snapshot()) if isinstance(a, Refuse) and a.pod.key[1] == pod
    )


@pytest.fixture
def crowd(world: Any) -> Any:
    """A whole GPU is waited for while one small slice is in use on a, and two are on b."""
    run_on(world, "one", A)
    run_on(world, "two", B, 0)
    run_on(world, "three", B, 1)
    world.add_pod_with_claim("large", "7g.80gb", created=-301.0)
    return world


def test_small_pods_do_not_get_what_the_oldest_large_one_waits_for(crowd: Any, planner: Planner) -> None:
    for i in range(3):
        crowd.add_pod_with_claim(f"small{i}", "1g.10gb", created=float(i))
        assert a_round(crowd, planner)[f"small{i}"][0].startswith(B)
    end(crowd, "one")
    crowd.add_pod_with_claim("late", "1g.10gb", created=9.0)
    chosen = a_round(crowd, planner)
    assert chosen["large"] == (f"{A}-7g-80gb-0",)
    assert chosen["late"][0].startswith(B)


def test_before_the_age_limit_nothing_is_reserved(crowd: Any, planner: Planner) -> None:
    crowd.now -= 10
    crowd.add_pod_with_claim("small", "1g.10gb")
    assert a_round(crowd, planner)["small"][0].startswith(A)


def test_a_reservation_stays_while_its_pod_is_not_tried(crowd: Any, planner: Planner) -> None:
    assert a_round(crowd, planner) == {}
    crowd.add_pod_with_claim("small", "1g.10gb")
    assert a_round(crowd, planner)["small"][0].startswith(B)


@pytest.fixture
def tight(crowd: Any) -> Any:
    """Two pairs would fit, of which one has to stay out of what is reserved."""
    for gpu in (A, B):
        run_on(crowd, f"half-{gpu}", gpu, 4, profile="3g.40gb")
    crowd.add_pod_with_claim("pair", "2g.20gb", created=0.0)
    crowd.add_pod_with_claim("pair2", "2g.20gb", created=1.0)
    return crowd


def test_others_get_the_place_when_its_pod_is_gone(tight: Any, planner: Planner) -> None:
    assert a_round(tight, planner) == {"pair": (f"{B}-2g-20gb-2",)}
    end(tight, "large")
    a_round(tight, planner)
    assert a_round(tight, planner) == {"pair2": (f"{A}-2g-20gb-2",)}


def test_a_more_urgent_pod_gets_the_place(tight: Any, planner: Planner) -> None:
    tight.pods["pair"]["spec"]["priority"] = 1
    assert a_round(tight, planner)["pair"] == (f"{A}-2g-20gb-2",)


def test_only_the_oldest_pod_of_a_profile_has_a_place(crowd: Any, planner: Planner) -> None:
    crowd.add_pod_with_claim("older", "7g.80gb", created=-400.0)
    crowd.add_pod_with_claim("half", "4g.40gb", created=-302.0)
    older = told(crowd, planner, "older")
    assert older.startswith(f"{A}-7g-80gb-0 on node node-a is kept for it, where 1 slice must")
    assert "; no GPU has room for 7g.80gb" in older
    assert "is kept for it" not in told(crowd, planner, "large")
    assert f"{B}-4g-40gb-0 on node node-b is kept for it, where 2 slices must" in told(crowd, planner, "half")


def test_a_place_is_kept_where_fewest_have_to_end_and_not_behind_those_that_never_do(
    world: Any, planner: Planner
) -> None:
    run_on(world, "service", A, restartPolicy="Always")
    run_on(world, "two", B, 0)
    run_on(world, "three", B, 1)
    world.add_pod_with_claim("large", "7g.80gb", created=-301.0)
    assert f"{B}-7g-80gb-0 on node node-b is kept for it, where 2 slices" in told(world, planner, "large")


def test_whose_end_is_known_is_waited_for_first(crowd: Any, planner: Planner) -> None:
    for name in ("two", "three"):
        crowd.pods[name]["spec"]["activeDeadlineSeconds"] = 600
        crowd.touch(crowd.pods[name])
    assert f"{B}-7g-80gb-0 on node node-b" in told(crowd, planner, "large")


def test_cpu_is_kept_with_the_place(crowd: Any, planner: Planner) -> None:
    end(crowd, "large")
    crowd.add_pod_with_claim("large", "7g.80gb", created=-301.0, cpu="15")
    crowd.add_pod_with_claim("plain", "1g.10gb", cpu="2", nodeSelector={"here": "yes"})
    crowd.nodes["node-a"]["metadata"]["labels"] = {"here": "yes"}
    crowd.touch(crowd.nodes["node-a"])
    message = told(crowd, planner, "plain")
    assert "insufficient cpu excluded 1" in message


def test_an_explanation_says_what_is_kept_and_counts_with_what_is_kept_for_others(crowd: Any) -> None:
    order = QueueOrder(age_limit_seconds=300)
    large = explain_pod(crowd.snapshot(), ("default", "large"), FirstFit(), order=order)
    assert large.message.startswith(f"{A}-7g-80gb-0 on node node-a is kept for it")
    crowd.add_pod_with_claim("small", "1g.10gb")
    small = explain_pod(crowd.snapshot(), ("default", "small"), FirstFit(), order=order)
    assert small.devices == (f"{B}-1g-10gb-2",)


@pytest.mark.parametrize("waits", [290.0, 301.0])
def test_nobody_is_moved_for_a_place_that_is_reserved(world: Any, waits: float) -> None:
    cluster = Cluster(world, a_planner())
    world.allow_moves("pool", A, B)
    run_on(world, "fixed", A, 0, profile="3g.40gb")
    run_on(world, "service", B, 0, profile="3g.40gb", restartPolicy="Always")
    cluster.add_victim("victim", "3g.40gb", device_name(A, "3g.40gb", 4), node="node-a")
    world.nodes["node-a"]["metadata"]["labels"] = {"here": "yes"}
    cluster.ask("large", "7g.80gb", created=-waits)
    cluster.ask("half", "3g.40gb", nodeSelector={"here": "yes"})
    moved = of(cluster.round(), HoldTarget)
    assert len(moved) == int(waits < 300)


@pytest.mark.parametrize(
    ("rule", "first"), [("age", "long"), ("smallest-work", "short")], ids=["age", "smallest work"]
)
def test_the_order_of_the_queue_is_an_option(world: Any, rule: QueueRule, first: str) -> None:
    planner = Planner(FirstFit(), grace_seconds=30, order=QueueOrder(rule=rule, age_limit_seconds=300))
    run_on(world, "used", B)
    world.add_pod_with_claim("long", "7g.80gb", created=0.0, activeDeadlineSeconds=7200)
    world.add_pod_with_claim("short", "7g.80gb", created=1.0, activeDeadlineSeconds=60)
    assert list(placed(planner.plan(world.snapshot()))) == [first]
    world.now += 300
    assert list(placed(planner.plan(world.snapshot()))) == ["long"]


def test_a_round_that_failed_takes_no_place_away(
    crowd: Any, planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the round fails")

    crowd.add_pod_with_claim("small", "1g.10gb")
    with monkeypatch.context() as broken, pytest.raises(RuntimeError, match="the round fails"):
        broken.setattr(planner.queue, "placed", fail)
        planner.plan(crowd.snapshot())
    assert a_round(crowd, planner)["small"][0].startswith(B)


def test_two_do_not_keep_the_same_gpu(crowd: Any, planner: Planner) -> None:
    a_round(crowd, planner)
    crowd.add_pod_with_claim("urgent", "4g.40gb", created=-301.0, priority=1)
    crowd.add_pod_with_claim("small", "1g.10gb")
    assert a_round(crowd, planner)["small"] == (f"{A}-1g-10gb-4",)


def test_work_is_counted_anew_when_other_gpus_are_published(world: Any) -> None:
    order = QueueOrder(rule="smallest-work", age_limit_seconds=300)
    planner = Planner(FirstFit(), grace_seconds=30, order=order)
    later, world.slices = world.slices, []
    world.add_pod_with_claim("large", "7g.80gb", created=0.0)
    planner.plan(world.snapshot())
    world.slices = later
    world.add_pod_with_claim("small", "1g.10gb", created=1.0)
    assert list(placed(planner.plan(world.snapshot()))) == ["small", "large"]
