"""Moves and preemption against the real API server, controller manager and kube-scheduler, on simulated
nodes: evictions, disruption budgets, Jobs that replace their pods, and a scheduler that is killed at every
write.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from eventually import eventually
from integration.moves_cluster import Clock, MortalClient, MovesCluster, replica
from invariants import InvariantChecker
from scheduler_objects import exactly
from tessera.api import names
from tessera.kube.client import KubeClient
from tessera.kube.resources import JOBS
from tessera.local.control_plane import ControlPlane
from tessera.local.kwok import KwokNodes

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def simulated(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """The control plane with KWOK beside it; each test makes its own nodes."""
    identity = control_plane.state.identity()
    assert identity is not None
    KwokNodes(control_plane, identity=identity).up(1)
    # Nothing else may be scheduled to the node that KWOK was started with.
    control_plane.kubectl("delete", "nodes", "-l", "type=kwok")
    yield control_plane


@pytest.fixture
async def cluster(admin: KubeClient, namespace: str, simulated: ControlPlane) -> AsyncIterator[MovesCluster]:
    made = MovesCluster(admin, namespace)
    try:
        await made.alone()
        with InvariantChecker(simulated.kubeconfig, newcomers_only=True):
            yield made
    finally:
        await made.clean_up()


HALVES = (("a", 0), ("a", 4), ("b", 0), ("b", 4))


async def scattered(cluster: MovesCluster, *, pods: int = 4, movable: bool = True) -> list[str]:
    """Two GPUs whose halves hold one 1g slice each: no 3g fits, though 12 of 16 memory slices are free."""
    for letter in ("a", "b"):
        await cluster.add_node(letter)
    made = await cluster.add_job("spread", "1g.10gb", completions=pods, movable=movable)
    for name, (letter, start) in zip(made, HALVES, strict=False):
        await cluster.put(name, letter, "1g.10gb", start)
    return made


async def ask_for_a_half(cluster: MovesCluster, **spec: Any) -> None:
    await cluster.add_claim("wide", exactly("3g.40gb"))
    await cluster.add_pod("wide", claim="wide", **spec)


async def refused(cluster: MovesCluster) -> None:
    async def told() -> bool:
        return "Unplaceable" in await cluster.message("wide")

    await eventually("the refusal of the wide pod", told)


async def begun(cluster: MovesCluster) -> None:
    async def held() -> bool:
        return len(await cluster.placeholders()) == 1 and bool(await cluster.room_of("wide"))

    await eventually("a place held and a room kept", held)


async def test_a_pod_that_fits_nowhere_gets_room_and_the_victim_another_place(
    cluster: MovesCluster, admin: KubeClient
) -> None:
    before = await scattered(cluster)
    await cluster.allow_moves()
    async with replica(admin, cluster.namespace, Clock()):
        await cluster.earn(2)
        await ask_for_a_half(cluster)
        await cluster.running("wide")
        await cluster.settled()
        members = await cluster.members("spread")
        assert sorted(members) == ["0", "1", "2", "3"]
        for pod in members.values():
            await cluster.running(pod["metadata"]["name"])
        after = [pod["metadata"]["name"] for pod in members.values()]
        [victim] = set(before) - set(after)

        async def told() -> bool:
            return "Moved" in await cluster.reasons(victim) and "Placed" in await cluster.reasons("wide")

        await eventually("the events of the move", told)


async def test_a_disruption_budget_that_forbids_it_ends_the_move_and_everybody_stays(
    cluster: MovesCluster, admin: KubeClient
) -> None:
    before = await scattered(cluster)
    await cluster.forbid_evictions("spread", pods=4)
    await cluster.allow_moves()
    clock = Clock()
    async with replica(admin, cluster.namespace, clock):
        await cluster.earn(2)
        await ask_for_a_half(cluster)
        await begun(cluster)

        async def told() -> bool:
            return "EvictionRefused" in await cluster.reasons("wide")

        await eventually("the waiting pod to be told of the disruption budget", told)
        asked: set[str] = set()

        async def given_up() -> bool:
            """After a minute of refused evictions for every victim that is asked in its turn."""
            asked.update(claim["metadata"]["name"] for claim in await cluster.placeholders())
            clock.ahead_seconds = 61.0 * len(asked)
            return not await cluster.marked() and "Unplaceable" in await cluster.message("wide")

        await eventually("the end of all moves", given_up, state=cluster.placeholders)
        members = await cluster.members("spread")
        assert [members[i]["metadata"]["name"] for i in sorted(members)] == before
        assert not (await cluster.pod("wide"))["spec"].get("nodeName")


async def test_a_replacement_whose_job_is_gone_is_not_waited_for(
    cluster: MovesCluster, admin: KubeClient
) -> None:
    """The Job is deleted while its pod is asked to leave; it has no other, whose end would make room, too."""
    for letter in ("a", "b"):
        await cluster.add_node(letter)
    leaves = await cluster.add_job("spread", "1g.10gb")
    stays = await cluster.add_job("stays", "1g.10gb", completions=3, movable=False)
    for name, (letter, start) in zip([*leaves, *stays], HALVES, strict=True):
        await cluster.put(name, letter, "1g.10gb", start)
    await cluster.forbid_evictions("spread", pods=1)
    await cluster.allow_moves(replacementTimeoutSeconds=300)
    async with replica(admin, cluster.namespace, Clock()):
        await cluster.earn(2)
        await ask_for_a_half(cluster)
        await begun(cluster)
        await admin.delete(JOBS, "spread", namespace=cluster.namespace, propagation="Background")
        await cluster.running("wide")
        # No clock goes ahead: nobody makes the replacement any more, so its place is free at once.
        await cluster.settled()


async def test_pods_that_did_not_say_so_are_not_moved(cluster: MovesCluster, admin: KubeClient) -> None:
    """Pods of a Job without the annotation, and a bare pod with it: nobody would make its replacement."""
    before = await scattered(cluster, pods=3, movable=False)
    await cluster.add_claim("bare", exactly("1g.10gb"))
    bare = await cluster.add_pod("bare", claim="bare", annotations={names.MOVABLE_ANNOTATION: "true"})
    letter, start = HALVES[3]
    await cluster.put("bare", letter, "1g.10gb", start)
    await cluster.allow_moves(preemption="LowerPriority")
    async with replica(admin, cluster.namespace, Clock()):
        await cluster.earn(2)
        await ask_for_a_half(cluster)
        await refused(cluster)
        # Rounds have gone by when others have come and gone.
        await cluster.earn(2)
        assert await cluster.placeholders() == []
        assert await cluster.room_of("wide") == ""
        members = await cluster.members("spread")
        assert [members[i]["metadata"]["name"] for i in sorted(members)] == before
        assert (await cluster.running("bare"))["metadata"]["uid"] == bare["metadata"]["uid"]


async def test_a_pod_of_higher_priority_preempts_a_movable_one(
    cluster: MovesCluster, admin: KubeClient
) -> None:
    before = await scattered(cluster)
    await cluster.allow_moves(per100Placements=0, preemption="LowerPriority")
    important = await cluster.add_priority_class(1000)
    async with replica(admin, cluster.namespace, Clock()):
        await ask_for_a_half(cluster, priorityClassName=important)
        await cluster.running("wide")
        await cluster.settled()
        stayed = {pod["metadata"]["name"] for pod in (await cluster.members("spread")).values()}
        [victim] = set(before) - stayed

        async def told() -> bool:
            return "Preempted" in await cluster.reasons(victim)

        await eventually("the event of the preemption", told)


async def test_a_gpu_becomes_empty_while_nobody_waits(cluster: MovesCluster, admin: KubeClient) -> None:
    for letter in ("a", "b"):
        await cluster.add_node(letter)
    [alone] = await cluster.add_job("alone", "1g.10gb")
    [half] = await cluster.add_job("half", "3g.40gb", movable=False)
    await cluster.put(alone, "a", "1g.10gb", 0)
    await cluster.put(half, "b", "3g.40gb", 4)
    await cluster.allow_moves(defragmentation={"everySeconds": 60})
    clock = Clock()
    async with replica(admin, cluster.namespace, clock):
        await cluster.earn(2)
        # When this one is placed, it is seen that those are gone.
        [late] = await cluster.add_job("late", "1g.10gb")
        await cluster.running(late)
        clock.ahead_seconds = 61.0

        async def moved() -> bool:
            gpus = [await cluster.gpus_of(job) for job in ("alone", "late", "half")]
            return gpus == [{cluster.gpu("b")}] * 3

        await eventually("all slices on one GPU", moved, state=cluster.placeholders)
        await cluster.settled()
        assert "Compacted" in await cluster.reasons(alone)
        await cluster.running(half)


async def left(cluster: MovesCluster, before: list[str]) -> set[str]:
    """Who of the Job's pods has gone, once all indexes run again."""
    members = await cluster.members("spread")
    now = {p["metadata"]["name"] for p in members.values() if p["status"]["phase"] == "Running"}
    return set(before) - now if len(now) == len(before) else set()


async def test_a_scheduler_killed_after_every_write_comes_to_the_same_end(
    cluster: MovesCluster, admin: KubeClient, simulated: ControlPlane
) -> None:
    """Up to the eviction the n-th process is killed after its n-th write, or after the eviction; from then on
    each is killed after its first write.
    """
    before = await scattered(cluster)
    await cluster.allow_moves()
    await ask_for_a_half(cluster)
    last_writes: list[str] = []
    evicted = done = False

    async def finished() -> bool:
        nonlocal done
        running = (await cluster.pod("wide"))["status"]["phase"] == "Running"
        done = running and bool(await left(cluster, before)) and not await cluster.marked()
        return done

    life = 0
    while not done:
        life += 1
        async with await MortalClient.connect(kubeconfig=simulated.kubeconfig) as client:
            client.writes_left = 1 if evicted else life
            async with replica(client, cluster.namespace, Clock()):

                async def dead_or_done(client: MortalClient = client) -> bool:
                    return client.dead or await finished()

                if not evicted:
                    await cluster.earn(2, unless=dead_or_done)
                await eventually(f"the end of life {life}", dead_or_done, state=cluster.placeholders)
            evicted = evicted or any(write.endswith("/eviction") for write in client.written)
            last_writes += client.written[-1:]
        assert life < 40, last_writes
    assert {write.split(" ")[0] for write in last_writes} == {"POST", "PATCH", "DELETE"}
    assert any(write.endswith("/eviction") for write in last_writes), last_writes
    assert life >= 8, last_writes
