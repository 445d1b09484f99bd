"""How long the kubelet waits for a slice, and a layout takes, with the simulator's times of a real driver's
slow calls.

    python -m simulation.agent_latency --times 20

The times are assumptions with sources (`tessera.gpu.simulator.latency`), the processor's part is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from simulation.agent_effects import Effects
from simulation.agent_node import AgentNode, Process
from tessera.gpu.simulator.latency import ENVIRONMENT


async def _timed(process: Process, name: str) -> float:
    began = time.perf_counter()
    await process.prepare(name)
    return (time.perf_counter() - began) * 1000


async def _laid_out(node: AgentNode, process: Process, *places: str) -> float:
    """Of a whole look at the node."""
    node.demand(*places)
    began = time.perf_counter()
    await process.agent.refresh()
    took = (time.perf_counter() - began) * 1000
    assert node.api.layout() == {"state": "Applied"}
    return took


async def measure(directory: Path, times: int) -> dict[str, list[float]]:
    """Milliseconds of each: a 2g.20gb on an empty GPU, the same again, and a 3g.40gb in its place; a layout
    of seven slices on an empty GPU, and of two instead of them.
    """
    took: dict[str, list[float]] = {
        "cold": [],
        "warm": [],
        "cold, one warm in the way": [],
        "rolled back": [],
        "layout of seven": [],
        "layout of two instead": [],
    }
    for number in range(times):
        node = AgentNode.new(directory / f"{number}")
        node.known = None
        node.allocate("a", "2g.20gb@4")
        node.allocate("b", "2g.20gb@4")
        node.allocate("c", "3g.40gb@4")
        with node.start(Effects()) as process:
            await process.agent.refresh()
            took["cold"].append(await _timed(process, "a"))
            await process.unprepare("a")
            took["warm"].append(await _timed(process, "b"))
            await process.unprepare("b")
            process.effects.expect()
            effects, whole = process.effects, node.fresh("whole")
            with whole.start(Effects()) as other:
                took["cold, one warm in the way"].append(await _timed(other, "c"))
                last = other.effects.calls.index("nvmlGpuInstanceCreateComputeInstance") + 1
            effects.expect(fail_call=last)
            took["rolled back"].append(await _timed(process, "c"))
            assert node.layout() == "2g.20gb@4"
        empty = AgentNode.new(directory / f"{number}-empty")
        empty.known = None
        with empty.start(Effects()) as process:
            await process.agent.refresh()
            sevenths = [f"1g.10gb@{start}" for start in range(7)]
            took["layout of seven"].append(await _laid_out(empty, process, *sevenths))
            took["layout of two instead"].append(await _laid_out(empty, process, "3g.40gb@0", "3g.40gb@4"))
    return took


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and range, in whole milliseconds."""
    return {
        "median_ms": round(statistics.median(values)),
        "least_ms": round(min(values)),
        "most_ms": round(max(values)),
    }


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=20)
    times = parser.parse_args().times
    logging.disable(logging.CRITICAL)
    os.environ[ENVIRONMENT] = "typical"
    with tempfile.TemporaryDirectory(prefix="agent-latency-") as place:
        took = asyncio.run(measure(Path(place), times))
    print(json.dumps({"times": times, **{kind: summary(values) for kind, values in took.items()}}, indent=1))


if __name__ == "__main__":
    main()
