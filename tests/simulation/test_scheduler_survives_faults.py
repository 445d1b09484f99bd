"""The whole allocator (election, informers, rounds, writes) on a simulated API server that loses, delays and
refuses, with replicas that are killed and stopped: no slice is given twice, nobody is let go too early,
everything that fits ends up bound, and nothing stays allocated that nobody uses.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable

import pytest
from simulation.cluster_actors import Cluster
from simulation.faulty_client import Faults, run_virtually
from simulation.replicas import CALM_SECONDS, Replicas, actors, assert_settled, empty


async def storm(seed: int) -> None:
    """Two minutes of users, faults, kills and stops; then calm."""
    rng = random.Random(seed)
    cluster = Cluster(rng)
    for node in ("a", "b", "c"):
        gpus = rng.choice([1, 2])
        cluster.add_node(node, gpus=gpus, whole=int(node == "a"), cpu=str(rng.choice([4, 8, 16])))
    faults = Faults(seed, refused=0.08, lost=0.05, late=0.2, doubled=0.1, missed=0.03, cut=0.03)
    replicas = Replicas(cluster, faults)
    running = actors(cluster)
    for _ in range(2):
        replicas.start()
    made = itertools.count()
    for _ in range(90):
        await asyncio.sleep(rng.choice([0.05, 0.3, rng.uniform(0.5, 4.0)]))
        replicas.bury_the_dead()
        _disturb(cluster, replicas, rng, made)
        for _ in range(2 - len(replicas.clients)):
            replicas.start()
    faults.stop()
    replicas.resume()
    cluster.bind_delay_seconds = 0.2
    await asyncio.sleep(CALM_SECONDS)
    assert cluster.allocations > 5
    assert_settled(cluster)
    await empty(cluster)
    assert all(not task.done() for task in running)


def _disturb(cluster: Cluster, replicas: Replicas, rng: random.Random, made: itertools.count[int]) -> None:
    profiles = ["1g.10gb", "2g.20gb", "3g.40gb", "7g.80gb", "gpu"]
    pods = cluster.pods()
    number = next(made)
    match rng.choice(
        ["pod", "pod", "pod", "gang", "shared", "end", "end", "end", "kill", "stop", "go", "bind"]
    ):
        case "pod":
            for part in range(rng.choice([1, 1, 3])):
                name = f"p{number}-{part}"
                cluster.add_pod(
                    name, rng.choice(profiles), cpu=str(rng.randrange(1, 5)), priority=rng.randrange(5),
                    gated=rng.random() < 0.8,
                )  # fmt: skip
                if rng.random() < 0.1:
                    cluster.hidden_rule |= {(name, rng.choice("abc"))}
        case "gang":
            size = rng.randrange(2, 4)
            for member in range(size):
                cluster.add_pod(f"g{number}-{member}", rng.choice(profiles[:3]), gang=(f"g{number}", size))
        case "shared":
            cluster.add_claim(f"s{number}", rng.choice(profiles[:3]))
            for member in range(3):
                cluster.add_pod(f"s{number}-{member}", claim=f"s{number}")
        case "end" if pods:
            name = rng.choice(sorted(pods))
            if pods[name]["spec"].get("nodeName") and rng.random() < 0.5:
                cluster.finish(name)
            else:
                cluster.delete_pod(name)
        case "kill" | "stop" | "go" as fault:
            replicas.suffer(fault, rng)
        case "bind":
            # kube-scheduler restarts, or is back.
            cluster.bind_delay_seconds = rng.choice([0.2, 8.0])


@pytest.mark.parametrize("seed", range(4))
def test_a_storm_of_faults_gives_no_slice_twice_and_leaks_nothing(seed: int) -> None:
    run_virtually(storm(seed), seed=seed)


async def _lagging_view(seed: int, *, lost: float = 0.0) -> None:
    """The leader sees pods at once and claims late, and each pod is more urgent than the one before: who
    forgets what it has written gives the same room again.
    """
    cluster = Cluster(random.Random(seed))
    cluster.add_node("a", gpus=2)
    for number in range(12):
        cluster.add_claim(f"c{number}", "1g.10gb")
    faults = Faults(seed)
    replicas = Replicas(cluster, faults)
    running = actors(cluster)
    replicas.start()
    await asyncio.sleep(3.0)
    faults.late, faults.late_only, faults.lost = 1.0, "resourceclaims", lost
    for number in range(12):
        cluster.add_pod(f"p{number}", claim=f"c{number}", priority=number)
        await asyncio.sleep(0.3)
    faults.stop()
    await asyncio.sleep(60)
    assert_settled(cluster)
    assert len([p for p in cluster.pods().values() if p["spec"].get("nodeName")]) == 12
    assert all(not task.done() for task in running)


@pytest.mark.parametrize("lost", [0.0, 0.2])
@pytest.mark.parametrize("seed", range(2))
def test_a_view_that_lags_behind_our_own_writes_does_not_make_us_forget_them(seed: int, lost: float) -> None:
    run_virtually(_lagging_view(seed, lost=lost), seed=seed)


def _gang_of_different_profiles(cluster: Cluster) -> None:
    for member, profile in enumerate(("3g.40gb", "7g.80gb", "2g.20gb")):
        cluster.add_pod(f"m{member}", profile, gang=("g", 3))


def _claim_of_two_pods_and_others(cluster: Cluster) -> None:
    cluster.add_claim("shared", "3g.40gb")
    for name in ("first", "second"):
        cluster.add_pod(name, claim="shared")
    cluster.add_pod("alone", "7g.80gb")


async def _work(prepare: Callable[[Cluster], None], *, seed: int, dies_at: int | None) -> int:
    """One leader does a piece of work and dies at its n-th call; another comes. The calls it made."""
    cluster = Cluster(random.Random(seed))
    for node in ("a", "b"):
        cluster.add_node(node)
    replicas = Replicas(cluster, Faults(seed))
    running = actors(cluster)
    first = replicas.start(dies_at=dies_at)
    await asyncio.sleep(3.0)
    prepare(cluster)
    await asyncio.sleep(3.0)
    replicas.start()
    await asyncio.sleep(40.0 if dies_at else 3.0)
    assert [name for name, pod in cluster.pods().items() if not pod["spec"].get("nodeName")] == []
    assert_settled(cluster)
    if dies_at:
        await empty(cluster)
    assert all(not task.done() for task in running)
    return first.calls


@pytest.mark.parametrize("prepare", [_gang_of_different_profiles, _claim_of_two_pods_and_others])
def test_a_leader_may_be_killed_at_any_call(prepare: Callable[[Cluster], None]) -> None:
    calls = 0

    async def count() -> None:
        nonlocal calls
        calls = await _work(prepare, seed=0, dies_at=None)

    run_virtually(count(), seed=0)
    assert calls > 15

    for at in range(1, calls + 1):

        async def once(at: int = at) -> None:
            await _work(prepare, seed=at, dies_at=at)

        run_virtually(once(), seed=at)
