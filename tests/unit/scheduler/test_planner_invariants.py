"""Any sequence of arrivals, ends, lost writes and node changes: no two claims share a memory slice, nothing
is forgotten.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.placement.policies import POLICIES
from tessera.scheduler.actions import GiveUp, Place
from tessera.scheduler.planner import Planner

PROFILES = ["1g.10gb", "1g.10gb+me", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"]


def _carry_out(world: Any, actions: list[Any], rng: random.Random) -> None:
    """Write the decisions as the API server would hold them; some writes are lost, as after a conflict."""
    for action in actions:
        if isinstance(action, GiveUp):
            del world.claims[action.claim.key[1]]["status"]
            world.touch(world.claims[action.claim.key[1]])
        if not isinstance(action, Place) or rng.random() < 0.2:
            continue
        for placement in action.pods:
            name = placement.pod.key[1]
            world.hand_over(placement)
            world.pods[name]["spec"]["schedulingGates"] = []
            if rng.random() < 0.7:
                world.pods[name]["spec"]["nodeName"] = (
                    placement.claims[0].node if placement.claims else "node-a"
                )
            world.touch(world.pods[name])


def _check(world: Any) -> None:
    inventory = world.snapshot().inventory
    taken: dict[tuple[str, int], str] = {}
    media: dict[str, str] = {}
    for name, claim in world.claims.items():
        allocation = (claim.get("status") or {}).get("allocation")
        for result in allocation["devices"]["results"] if allocation else ():
            device = inventory.device(result["pool"], result["device"])
            assert device is not None, f"{name} points to a device that is not published"
            legal = inventory.by_name[device.gpu].geometry.placements[device.index]
            for offset in range(legal.width):
                key = (device.gpu, legal.start + offset)
                assert key not in taken, f"{name} and {taken[key]} share slice {key}"
                taken[key] = name
            if legal.exclusive:
                assert device.gpu not in media, f"{name} and {media[device.gpu]} share the media engines"
                media[device.gpu] = name


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 100_000), policy=st.sampled_from(sorted(POLICIES)))
def test_no_sequence_of_events_leads_to_a_shared_slice(
    empty_world: Callable[[], Any], request_for: Any, seed: int, policy: str
) -> None:
    rng = random.Random(seed)
    world = empty_world()
    for letter in "ab":
        world.add_node(f"node-{letter}", gpus=[f"gpu-{letter * 8}", f"gpu-{letter * 7}0"])
    planner = Planner(POLICIES[policy](), grace_seconds=30)
    for step in range(25):
        for _ in range(rng.randrange(4)):
            name = f"p{step}-{len(world.pods)}"
            requests = [
                request_for(rng.choice(PROFILES), name=f"r{i}") for i in range(rng.choice([1, 1, 1, 2]))
            ]
            world.add_claim(name, *requests)
            world.add_pod(name, name, created=float(step), priority=rng.randrange(2))
        if world.pods and rng.random() < 0.6:
            gone = rng.choice(sorted(world.pods))
            del world.pods[gone], world.claims[gone]
        if rng.random() < 0.1:
            planner = Planner(POLICIES[policy](), grace_seconds=30)  # another replica takes over
        world.now += rng.choice([1.0, 40.0])
        _carry_out(world, planner.plan(world.snapshot()), rng)
        _check(world)
    planner.plan(world.snapshot())
    owners: Iterator[Any] = planner.occupancy.state.owners()
    after = {h.claim for h in owners}
    allocated = {f"default/{n}" for n, c in world.claims.items() if (c.get("status") or {}).get("allocation")}
    assert allocated <= after


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_the_same_snapshot_gives_the_same_decisions(
    empty_world: Callable[[], Any], request_for: Any, seed: int
) -> None:
    rng = random.Random(seed)
    world = empty_world()
    world.add_node("node-a", gpus=["gpu-aaaaaaaa", "gpu-bbbbbbbb"])
    for i in range(8):
        world.add_pod_with_claim(f"p{i}", rng.choice(PROFILES), created=float(rng.randrange(3)))
    snapshot = world.snapshot()

    def devices() -> list[tuple[str, ...]]:
        actions = Planner(POLICIES["fgd"](), grace_seconds=30).plan(snapshot)
        return [
            tuple(r.device for p in a.pods for c in p.claims for r in c.results)
            for a in actions
            if isinstance(a, Place)
        ]

    assert devices() == devices()
