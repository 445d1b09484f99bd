"""The jobs of the queueing experiment, drawn as MIGBench draws them.

A job is an amount of memory and an amount of work, both those of a profile drawn by weights: its memory,
and its share of the GPU's compute times a log-normal duration. How long the job runs follows from the slice
that it gets: work divided by the slice's share. Which slice it gets depends on what it demands. By `memory`
it gets the smallest profile with enough memory (MIGBench's later rule): drawn as 2g.20gb it would run on a
1g.20gb, twice as long, where that profile is offered. By `memory-and-compute` (its earlier rule) it also
demands the share, so that it gets the profile that it was drawn for. For the published mix of four profiles
both are the same.

Two kinds of arrivals. *Offered load*: the cluster starts empty, and the mean gap of the Poisson arrivals is
such that the work of the drawn jobs is `load` times what the cluster can do. *Saturated*: the first jobs
all come at once, ask the smallest profile and fill every compute slice; the others follow with a fixed mean
gap.

Source: `FouoF/MIG-scheduler-benchmark`, `internal/workload` (draw order and seeds of its published runs).
Times are whole milliseconds and shares whole percent, as there, so that traces are equal and not only
alike.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tessera.boards import plain_profiles
from tessera.gpu.profiles import GPUModel, board
from tessera.simulate.errors import BadSimulationInput
from tessera.simulate.input_file import text_of
from tessera.simulate.queueing.go_random import GoRandom

PUBLISHED_SEED = 20260914
"""The seed of MIGBench's published runs; its 20 seeds are this one and the 19 after it."""

SATURATED_GAP_SECONDS = 15.0
DEFAULT_WEIGHTS = {1: 35.0, 2: 25.0, 3: 25.0, 7: 5.0}
"""Weights by compute slices; the names follow from the model."""


Demand = Literal["memory", "memory-and-compute"]


@dataclass(frozen=True, slots=True)
class Shape:
    """A profile as the queue sees it. `percent` is its share of the GPU's compute, rounded down."""

    profile: str
    compute_slices: int
    memory_slices: int
    percent: int


@dataclass(frozen=True, slots=True)
class Mix:
    """The profiles that the cluster offers, from the smallest, and how often each is drawn."""

    shapes: tuple[Shape, ...]
    weights: tuple[float, ...]

    def smallest_with(self, *, memory_slices: int, percent: int = 0) -> Shape:
        """The smallest profile (compute, then memory) with at least this much memory and share of compute."""
        for shape in self.shapes:
            if shape.memory_slices >= memory_slices and shape.percent >= percent:
                return shape
        raise BadSimulationInput(
            f"a job needs {memory_slices} memory slices",
            f"the largest profile of the mix has {max(s.memory_slices for s in self.shapes)}",
            "add a larger profile to --mix",
        )


@dataclass(frozen=True, slots=True)
class Job:
    """One job. `work` is in percent of a GPU times milliseconds; `shape` is the profile that it will get."""

    number: int
    arrival_ms: int
    work: int
    shape: Shape
    priority: int = 0

    @property
    def runtime_ms(self) -> int:
        """How long it runs on its slice."""
        return -(-self.work // self.shape.percent)


@dataclass(frozen=True, slots=True)
class Workload:
    """What is drawn. `offered_load` None: the saturated arrivals. `cap_seconds` bounds a drawn duration.

    `priorities` are the weights of the priorities 0, 1, ...; they are drawn from a stream of their own, so
    that the jobs stay the same.
    """

    mix: Mix
    compute_slices: int
    jobs: int = 500
    offered_load: float | None = 1.4
    median_seconds: float = 600.0
    sigma: float = 0.8
    cap_seconds: float | None = None
    demand: Demand = "memory"
    priorities: tuple[float, ...] = (1.0,)


def mix_of(model: GPUModel, weights: dict[str, float] | None = None) -> Mix:
    """The mix of these weights, or the published one (1g 35, 2g 25, 3g 25, 7g 5) in the model's profiles.

    Raises BadSimulationInput when the model has no such profiles, or the weights are no weights.
    """
    if weights is None:
        weights = _default_weights(model)
    if not weights or min(weights.values()) < 0 or not sum(weights.values()) > 0:
        raise BadSimulationInput("the weights of the mix are no weights", remedy="give numbers above 0")
    shapes = {name: _shape(model, name) for name in weights}
    ordered = sorted(shapes.values(), key=lambda s: (s.compute_slices, s.memory_slices, s.profile))
    return Mix(tuple(ordered), tuple(weights[shape.profile] for shape in ordered))


def _default_weights(model: GPUModel) -> dict[str, float]:
    weights = {}
    for compute, weight in DEFAULT_WEIGHTS.items():
        plain = [p for p in map(model.profile, plain_profiles(model)) if p.compute_slices == compute]
        if not plain:
            raise BadSimulationInput(
                f"the default mix does not exist on {model.name}",
                f"it has no {compute}g profile",
                f"give --mix with profiles of {model.name}",
            )
        weights[min(plain, key=lambda p: p.memory_slices).name] = weight
    return weights


def _shape(model: GPUModel, name: str) -> Shape:
    profile = model.profile(name)
    return Shape(
        profile=name,
        compute_slices=profile.compute_slices,
        memory_slices=profile.memory_slices,
        percent=100 * profile.compute_slices // model.compute_slices,
    )


def draw(workload: Workload, seed: int) -> tuple[Job, ...]:
    """The jobs of a seed, in the order of their arrival."""
    stream = GoRandom(seed, seed ^ 0x9E3779B97F4A7C15)
    if workload.offered_load is None:
        drawn = _saturated(workload, stream)
    else:
        sizes = [_size(workload, stream) for _ in range(workload.jobs)]
        drawn = list(zip(_arrivals(workload, sizes, seed), sizes, strict=True))
    classes = _priorities(workload, seed)
    return tuple(
        Job(number, arrival, work, shape, priority)
        for number, ((arrival, (work, shape)), priority) in enumerate(zip(drawn, classes, strict=True))
    )


def _saturated(workload: Workload, stream: GoRandom) -> list[tuple[int, tuple[int, Shape]]]:
    drawn = []
    arrival = 0
    for number in range(workload.jobs):
        first = number < workload.compute_slices // workload.mix.shapes[0].compute_slices
        if not first:
            arrival += int(stream.exponential() * SATURATED_GAP_SECONDS * 1000)
        drawn.append((arrival, _size(workload, stream, smallest=first)))
    return drawn


def _size(workload: Workload, stream: GoRandom, *, smallest: bool = False) -> tuple[int, Shape]:
    """Work and profile of the next job. The profile is drawn even when it does not count."""
    asked = workload.mix.shapes[_choose(stream, workload.mix.weights)]
    if smallest:
        asked = workload.mix.shapes[0]
    median = math.log(workload.median_seconds * 1000)
    milliseconds = max(1, int(math.exp(median + workload.sigma * stream.normal())))
    if workload.cap_seconds is not None:
        milliseconds = min(milliseconds, int(workload.cap_seconds * 1000))
    share = asked.percent if workload.demand == "memory-and-compute" else 0
    gets = workload.mix.smallest_with(memory_slices=asked.memory_slices, percent=share)
    return milliseconds * asked.percent, gets


def _choose(stream: GoRandom, weights: Sequence[float]) -> int:
    """A number below that of the weights, drawn by them."""
    point = stream.uniform() * sum(weights)
    for number, weight in enumerate(weights):
        point -= weight
        if point <= 0:
            return number
    return len(weights) - 1


def _arrivals(workload: Workload, sizes: Sequence[tuple[int, Shape]], seed: int) -> list[int]:
    """Poisson arrivals whose mean gap makes the drawn jobs `offered_load` times the cluster's capacity."""
    assert workload.offered_load is not None
    occupied = sum(float(shape.compute_slices) * -(-work // shape.percent) for work, shape in sizes)
    mean_ms = occupied / (len(sizes) * workload.compute_slices) / workload.offered_load
    stream = GoRandom(seed ^ 0xD1B54A32D192ED03, seed ^ 0x94D049BB133111EB)
    arrivals = []
    arrival = 0
    for _ in sizes:
        arrival += int(stream.exponential() * mean_ms)
        arrivals.append(arrival)
    return arrivals


def _priorities(workload: Workload, seed: int) -> list[int]:
    if len(workload.priorities) == 1:
        return [0] * workload.jobs
    stream = GoRandom(seed, ~seed)
    return [_choose(stream, workload.priorities) for _ in range(workload.jobs)]


def slice_mib(model: GPUModel) -> int:
    """The nominal memory of one slice in MiB: whole GiB, rounded up (10240 on an 80 GB board)."""
    return -(-board(model.name).memory_mib // (model.memory_slices * 1024)) * 1024


def read_trace(path: Path, mix: Mix, *, slice_mib: int) -> tuple[Job, ...]:
    """The jobs of a trace file of MIGBench (JSON lines with arrivalMS, computeCoreMS, memoryMB).

    `slice_mib` is the memory of one slice in MiB. Raises BadSimulationInput with the line that is wrong.
    """
    jobs = []
    for line, text in enumerate(text_of(path, kind="trace").splitlines(), start=1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
            arrival, work = int(record["arrivalMS"]), int(record["computeCoreMS"])
            memory = -(-int(record["memoryMB"]) // slice_mib)
        except (ValueError, TypeError, KeyError) as error:
            raise BadSimulationInput(
                f"{path}, line {line} is no job",
                f"{type(error).__name__}: {error}",
                "a line is a JSON object with arrivalMS, computeCoreMS and memoryMB",
            ) from error
        if arrival < 0 or work < 1 or memory < 1:
            raise BadSimulationInput(
                f"{path}, line {line} is no job", "work and memory must be above 0, the arrival not below 0"
            )
        jobs.append((arrival, work, mix.smallest_with(memory_slices=memory)))
    if not jobs:
        raise BadSimulationInput(f"{path} has no jobs")
    jobs.sort(key=lambda job: job[0])
    return tuple(Job(number, *job) for number, job in enumerate(jobs))
