"""Whatever is wanted of MIG mode, asked by claims and killed, a GPU is cut or whole and never both.

A scheduler that sees what is published takes what is free, and its kubelet asks at once, late or never. The
agent dies now and then. After each step every claim that was promised something still has it.
"""

from __future__ import annotations

import random
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from simulation.agent_looks import Looks, looking
from simulation.agent_node import AgentNode
from tessera.api.names import WHOLE_GPU, bars_everybody

STEPS = 150
OFTEN = {"want": 1, "look": 3, "place": 3, "ask": 3, "release": 2, "die": 1}


@dataclass
class Walk:
    """One node, the agent that lives now, and claims by name: where the scheduler put them."""

    agent: Looks
    chance: random.Random
    allocated: dict[str, str] = field(default_factory=dict)
    """Not asked for yet, e.g. `2g.20gb@4`."""
    held: dict[str, str] = field(default_factory=dict)
    masks: dict[str, int] = field(default_factory=dict)
    """Memory slices of every device that was ever published."""

    def free(self) -> list[str]:
        """What a scheduler may give away: published, barred by nothing, beside all that it gave away. Media
        engines are another matter.
        """
        taken = 0
        for place in (*self.allocated.values(), *self.held.values()):
            taken |= self.masks[place]
        found = []
        for device in self.agent.devices():
            attributes = device["attributes"]
            start, width = attributes["start"]["int"], attributes["memorySlices"]["int"]
            place = f"{attributes['profile']['string']}@{start}"
            self.masks[place] = ((1 << width) - 1) << start
            barred = any(bars_everybody(taint["key"]) for taint in device["taints"])
            if not barred and not taken & self.masks[place] and "+me" not in place:
                found.append(place)
        return found

    async def ask(self) -> None:
        """The kubelet asks for a claim; one that is refused is placed anew, as its pod is."""
        name = self.chance.choice(sorted(self.allocated))
        place = self.allocated.pop(name)
        if await self.agent.claim(name, place) == "":
            self.held[name] = place

    async def release(self, pods: int) -> None:
        """Some pods end."""
        for name in self.chance.sample(sorted(self.held), pods):
            assert await self.agent.process.unprepare(name) == {name: ""}
            del self.held[name]

    def check(self) -> None:
        """Everybody has what was promised, and nobody the same."""
        gpu, node = self.agent.gpu, self.agent.node
        whole = [name for name, place in self.held.items() if place == f"{WHOLE_GPU}@0"]
        assert not whole or (not gpu.mig_current and len(self.held) == 1)
        assert node.specs().keys() == {f"uid-{name}" for name in self.held}
        standing = {compute.uuid for instance in node.instances() for compute in instance.compute}
        for name in self.held:
            assert set(node.specs()[f"uid-{name}"]) <= ({gpu.uuid} if name in whole else standing)


@pytest.mark.parametrize("seed", range(3))
async def test_a_gpu_is_cut_or_whole_and_never_both(tmp_path: Path, seed: int) -> None:
    node = AgentNode.new(tmp_path / "node")
    chance, seen = random.Random(seed), set[str]()
    lives = ExitStack()
    walk = Walk(lives.enter_context(looking(node)), chance)
    await walk.agent.look()
    with lives:
        for step in range(STEPS):
            if step % 40 == 20:  # nobody is there for a while, so that what is wanted comes about
                await walk.release(len(walk.held))
                walk.agent.want("Disabled")
                await walk.agent.look()
                await walk.agent.look()
                assert len(walk.agent.devices()) == 1
            match chance.choices(tuple(OFTEN), weights=tuple(OFTEN.values()))[0]:
                case "want":
                    walk.agent.want(chance.choice(("Enabled", "Disabled")))
                case "look":
                    await walk.agent.look()
                case "place" if places := walk.free():
                    walk.allocated[f"c{step}"] = chance.choice(places)
                case "ask" if walk.allocated:
                    await walk.ask()
                case "release" if walk.held:
                    await walk.release(chance.randint(1, len(walk.held)))
                case "die":
                    lives.pop_all().close()
                    walk.agent = lives.enter_context(looking(node))
            walk.check()
            seen |= {place.partition("@")[0] for place in walk.held.values()}
        await walk.release(len(walk.held))
        for mode, offered in (("Enabled", 25), ("Disabled", 1), ("Enabled", 25)):
            walk.agent.want(mode)
            await walk.agent.look()
            await walk.agent.look()
            assert len(walk.agent.devices()) == offered
    assert WHOLE_GPU in seen
    assert len(seen) > 1
