"""Moves and preemption on a simulated API server that loses, delays and refuses, with disruption budgets that
say no and replicas that are killed at any call: nobody is evicted without need and right, a room goes to the
pod for which it was made, no slice is given twice, and nothing stays held for ever.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable

import pytest
from simulation.faulty_client import Faults, run_virtually
from simulation.moving_cluster import MovingCluster
from simulation.replicas import CALM_SECONDS, Replicas, actors, assert_settled
from tessera.api import names
from tessera.kube.resources import LEASES
from tessera.scheduler.departures import read_departures
from tessera.scheduler.lease_notes import note_of


def all_actors(cluster: MovingCluster) -> list[asyncio.Task[None]]:
    return [
        *actors(cluster),
        asyncio.create_task(cluster.job_controller(), name="job-controller"),
        asyncio.create_task(cluster.kubelets(), name="kubelets"),
    ]


def assert_moves_kept_the_rules(cluster: MovingCluster) -> None:
    assert cluster.broken == []
    assert_settled(cluster)


async def empty(cluster: MovingCluster) -> None:
    """No jobs and no pods; then nothing is allocated, and no placeholder is left."""
    for name in list(cluster.jobs):
        cluster.end_job(name)
    for _ in range(2):
        for name in cluster.pods():
            cluster.delete_pod(name)
        await asyncio.sleep(100)
    assert [c["metadata"]["name"] for c in cluster.claims().values() if (c.get("status") or {})] == []
    assert cluster.placeholders() == []


async def scattered(cluster: MovingCluster) -> None:
    """Two GPUs on which a half fits only when the movable 1g goes to the other one."""
    for name, profile, movable in (
        ("first", "3g.40gb", False),
        ("victim", "1g.10gb", True),
        ("second", "3g.40gb", False),
        ("third", "2g.20gb", False),
    ):
        cluster.add_job(name, profile, movable=movable)
        await asyncio.sleep(2.0)


async def earn(cluster: MovingCluster) -> None:
    """Two placements, so that an account that was lost has tokens again."""
    for number in range(3):
        name = f"earner-{next(cluster._pod_numbers)}-{number}"
        cluster.add_pod(name, "1g.10gb")
        await asyncio.sleep(2.0)
        cluster.delete_pod(name)
        await asyncio.sleep(1.0)


def bound(cluster: MovingCluster, name: str) -> bool:
    return bool(cluster.pods()[name]["spec"].get("nodeName"))


def noted(cluster: MovingCluster) -> int:
    """How many left in this hour, by what the scheduler's Lease says."""
    lease = cluster.store.get(LEASES, names.SCHEDULER_LEASE, names.SYSTEM_NAMESPACE)
    return sum(sum(by_minute.values()) for by_minute in read_departures(note_of(lease)).by_minute.values())


def slices_of(cluster: MovingCluster, name: str) -> list[str]:
    """The devices of a job's pods that are bound."""
    uids = {p["metadata"]["uid"] for p in cluster.pods_of(name) if p["spec"].get("nodeName")}
    return [
        result["device"]
        for claim in cluster.claims().values()
        if uids & {owner["uid"] for owner in claim["metadata"].get("ownerReferences") or ()}
        for result in claim["status"]["allocation"]["devices"]["results"]
    ]


async def _until_moved(cluster: MovingCluster, moved: Callable[[], bool]) -> None:
    """Nothing is left to be done; or two minutes have passed, which is longer than any deadline."""
    for _ in range(60):
        await asyncio.sleep(2.0)
        if moved() and len(slices_of(cluster, "victim")) == 1 and not cluster.placeholders():
            return


async def _dies(
    *,
    seed: int,
    dies_at: int | None,
    begin: Callable[[MovingCluster], Awaitable[None]],
    go: Callable[[MovingCluster], Awaitable[None]],
    moved: Callable[[MovingCluster], bool],
) -> int:
    """One leader moves a pod from `go` on, dies at its n-th call, another comes. The calls that it made."""
    cluster = MovingCluster(random.Random(seed))
    cluster.allow_moves(replacementTimeoutSeconds=30)
    for node in ("a", "b"):
        cluster.add_node(node)
    replicas = Replicas(cluster, Faults(seed))
    running = all_actors(cluster)
    first = replicas.start()
    await asyncio.sleep(3.0)
    await begin(cluster)
    before = first.calls
    if dies_at is not None:
        first.dies_at = before + dies_at
    await go(cluster)
    made = first.calls - before
    if dies_at is not None:
        replicas.start()
        await asyncio.sleep(30.0)
        await earn(cluster)
        await _until_moved(cluster, lambda: moved(cluster))
    assert moved(cluster)
    assert len(cluster.evicted) == 1
    assert noted(cluster) == 1
    assert len(slices_of(cluster, "victim")) == 1
    assert_moves_kept_the_rules(cluster)
    if dies_at is not None and dies_at % 5 == 0:
        await empty(cluster)
    assert all(not task.done() for task in running)
    return made


async def ask_for_a_half(cluster: MovingCluster) -> None:
    cluster.add_pod("waiting", "3g.40gb")
    await asyncio.sleep(12.0)


async def alone(cluster: MovingCluster) -> None:
    """A movable 1g alone on a GPU, though there is room for it beside a half; nobody has looked yet."""
    cluster.add_job("filler", "7g.80gb")
    await asyncio.sleep(2.0)
    cluster.add_job("victim", "1g.10gb")
    await asyncio.sleep(2.0)
    cluster.end_job("filler")
    await asyncio.sleep(5.0)
    cluster.add_job("half", "3g.40gb", movable=False)
    await asyncio.sleep(48.5)
    assert cluster.evicted == set()


async def look(_: MovingCluster) -> None:
    await asyncio.sleep(6.5)


def is_with_the_half(cluster: MovingCluster) -> bool:
    gpus = [device.split("-")[1] for name in ("victim", "half") for device in slices_of(cluster, name)]
    return len(gpus) == 2 and len(set(gpus)) == 1


SCENARIOS = {
    "for one that waits": (scattered, ask_for_a_half, lambda cluster: bound(cluster, "waiting")),
    "while nobody waits": (alone, look, is_with_the_half),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_leader_may_be_killed_at_any_call_of_a_move(scenario: str) -> None:
    begin, go, moved = SCENARIOS[scenario]
    calls = 0

    async def count() -> None:
        nonlocal calls
        calls = await _dies(seed=0, dies_at=None, begin=begin, go=go, moved=moved)

    run_virtually(count(), seed=0)
    assert calls > 12

    for at in range(1, calls + 1):

        async def once(at: int = at) -> None:
            await _dies(seed=at, dies_at=at, begin=begin, go=go, moved=moved)

        run_virtually(once(), seed=at)


async def _ends_by_itself() -> None:
    """A pod that may not be evicted now completes its work: nobody comes in its place."""
    cluster = MovingCluster(random.Random(0))
    cluster.allow_moves(replacementTimeoutSeconds=300)
    for node in ("a", "b"):
        cluster.add_node(node)
    replicas = Replicas(cluster, Faults(0))
    running = all_actors(cluster)
    replicas.start()
    await asyncio.sleep(3.0)
    await scattered(cluster)
    cluster.refusals = 1.0
    cluster.add_pod("waiting", "3g.40gb")
    await asyncio.sleep(12.0)
    assert len(cluster.placeholders()) == 1
    (victim,) = cluster.pods_of("victim")
    cluster.finish(victim["metadata"]["name"])
    await asyncio.sleep(10.0)
    assert bound(cluster, "waiting")
    assert cluster.placeholders() == []
    assert cluster.evicted == set()
    assert_moves_kept_the_rules(cluster)
    assert all(not task.done() for task in running)


def test_a_place_is_not_held_for_a_pod_whose_work_is_done() -> None:
    run_virtually(_ends_by_itself(), seed=0)


async def storm(seed: int) -> None:
    """A hundred seconds of users, jobs, faults, refused evictions, kills and stops; then calm. Then faults
    again, while nobody waits; then calm.
    """
    rng = random.Random(seed)
    cluster = MovingCluster(rng)
    preemption = "LowerPriority" if seed % 2 else "Never"
    cluster.allow_moves(replacementTimeoutSeconds=30, preemption=preemption)
    for node in ("a", "b", "c"):
        cluster.add_node(node, gpus=2)
    cluster.refusals = 0.3
    faults = Faults(seed)
    replicas = Replicas(cluster, faults)
    running = all_actors(cluster)
    for _ in range(2):
        replicas.start()
    await _scatter(cluster, rng)
    _begin(faults)
    made = itertools.count()
    for _ in range(70):
        await asyncio.sleep(rng.choice([0.3, 1.0, rng.uniform(0.5, 4.0)]))
        replicas.bury_the_dead()
        _disturb(cluster, replicas, rng, next(made))
        for _ in range(2 - len(replicas.clients)):
            replicas.start()
    faults.stop()
    cluster.refusals = 0.0
    replicas.resume()
    await asyncio.sleep(CALM_SECONDS)
    assert cluster.evicted, "no move was tried, so nothing was tested"
    assert_moves_kept_the_rules(cluster)
    evicted = len(cluster.evicted)
    await _thin_out(cluster, rng)
    _begin(faults)
    cluster.refusals = 0.3
    for number in range(8):
        await asyncio.sleep(15.0)
        cluster.add_job(f"another-{number}", "1g.10gb")
    faults.stop()
    await asyncio.sleep(CALM_SECONDS)
    assert len(cluster.evicted) > evicted, "nothing was moved while nobody waited"
    assert_moves_kept_the_rules(cluster)
    await empty(cluster)
    assert all(not task.done() for task in running)


def _begin(faults: Faults) -> None:
    faults.refused, faults.lost, faults.late, faults.doubled = 0.06, 0.04, 0.2, 0.1
    faults.missed = faults.cut = 0.03


async def _scatter(cluster: MovingCluster, rng: random.Random) -> None:
    """Fill all GPUs with small slices, most of which end: free room, but few neighbours."""
    for number in range(3):
        cluster.add_job(f"old-{number}", "1g.10gb", size=14, movable=number < 2)
    await asyncio.sleep(30.0)
    for pod in rng.sample(sorted(cluster.pods()), 24):
        cluster.finish(pod)
    await asyncio.sleep(2.0)


async def _thin_out(cluster: MovingCluster, rng: random.Random) -> None:
    """Nobody waits, and nothing is left but a few small slices all over the GPUs."""
    for name in list(cluster.jobs):
        cluster.end_job(name)
    for name in cluster.pods():
        cluster.delete_pod(name)
    await asyncio.sleep(10.0)
    cluster.add_job("last", "1g.10gb", size=42)
    await asyncio.sleep(30.0)
    for pod in rng.sample(sorted(cluster.pods()), 34):
        cluster.finish(pod)


def _disturb(cluster: MovingCluster, replicas: Replicas, rng: random.Random, number: int) -> None:
    steps = ["job"] * 8 + ["pod"] * 8 + ["end"] * 10 + ["end job"] * 2 + ["kill", "stop", "go", "go", "slow"]
    match rng.choice(steps):
        case "job":
            cluster.add_job(
                f"j{number}", rng.choice(["1g.10gb", "1g.10gb", "2g.20gb"]), size=rng.randrange(1, 5),
                movable=rng.random() < 0.8, priority=rng.randrange(2),
            )  # fmt: skip
        case "pod":
            profile = rng.choice(["3g.40gb", "3g.40gb", "7g.80gb"])
            cluster.add_pod(f"p{number}", profile, priority=rng.randrange(4))
        case "end" if pods := sorted(n for n, p in cluster.pods().items() if p["spec"].get("nodeName")):
            name = rng.choice(pods)
            if cluster.pods()[name]["status"]["phase"] == "Running" and rng.random() < 0.5:
                cluster.finish(name)
            else:
                cluster.delete_pod(name)
        case "end job" if cluster.jobs:
            cluster.end_job(rng.choice(sorted(cluster.jobs)))
        case "kill" | "stop" | "go" as fault:
            replicas.suffer(fault, rng)
        case "slow":
            cluster.longest_end_seconds = rng.choice([1.0, 10.0])


@pytest.mark.parametrize("seed", [0, 5])
def test_a_storm_of_faults_breaks_no_rule_of_moves(seed: int) -> None:
    run_virtually(storm(seed), seed=seed)
