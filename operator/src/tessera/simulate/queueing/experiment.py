"""Runs over seeds and arms. Every arm of a seed gets the same jobs, so arms are compared seed by seed.

An *arm* is a load, a policy and an order. The paired difference to the first arm of the same load cancels
what the jobs of a seed have in common, which is most of the spread: a difference of 1 % can be certain
although two seeds differ by 30 %.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tessera.gpu.profiles import GPUModel
from tessera.simulate.queueing.cluster import QueueCluster
from tessera.simulate.queueing.geometry import GeometryKind, queue_geometry
from tessera.simulate.queueing.measures import Validity
from tessera.simulate.queueing.moving import MoveRule, Moves
from tessera.simulate.queueing.policies import queue_policy
from tessera.simulate.queueing.queue import Order, Queue
from tessera.simulate.queueing.reservations import ReservationRule, Reservations
from tessera.simulate.queueing.simulation import QueueSimulation
from tessera.simulate.queueing.workload import PUBLISHED_SEED, Demand, Job, Mix, Workload, draw
from tessera.simulate.statistics import Summary, summarise

SATURATED = "saturated"
ARM_KEYS = ("load", "policy", "order")
"""What tells the arms of a report apart."""


@dataclass(frozen=True, slots=True)
class Arm:
    """What is compared. `load` None: saturated arrivals."""

    policy: str
    order: Order = "fifo"
    load: float | None = 1.4


def load_label(load: float | None) -> str:
    """How a report names a load."""
    return SATURATED if load is None else f"{load:g}"


@dataclass(frozen=True, slots=True)
class Experiment:
    """What all arms share."""

    model: GPUModel
    mix: Mix
    nodes: int = 2
    gpus_per_node: int = 4
    geometry: GeometryKind = "memory"
    jobs: int = 500
    median_seconds: float = 600.0
    sigma: float = 0.8
    cap_seconds: float | None = None
    demand: Demand = "memory"
    priorities: tuple[float, ...] = (1.0,)
    age_limit_seconds: float = 3600.0
    reservation: ReservationRule = field(default_factory=ReservationRule)
    moves: MoveRule = field(default_factory=MoveRule)
    trace: tuple[Job, ...] | None = None

    @property
    def compute_slices(self) -> int:
        """Of the whole cluster."""
        return self.nodes * self.gpus_per_node * self.model.compute_slices

    def config(self, *, seeds: int) -> dict[str, Any]:
        """What a report says about how it was made."""
        rule = self.reservation
        return {
            "model": self.model.name,
            "nodes": self.nodes,
            "gpus_per_node": self.gpus_per_node,
            "geometry": self.geometry,
            "mix": {s.profile: w for s, w in zip(self.mix.shapes, self.mix.weights, strict=True)},
            "jobs": self.jobs if self.trace is None else len(self.trace),
            "drawn": self.trace is None,
            "duration": {
                "median_seconds": self.median_seconds,
                "sigma": self.sigma,
                "cap_seconds": self.cap_seconds,
            },
            "demand": self.demand,
            "priority_weights": list(self.priorities),
            "age_limit_seconds": self.age_limit_seconds,
            "reservation": {
                "after_seconds": rule.after_seconds,
                "profiles": sorted(rule.profiles),
                "at_once": rule.at_once,
                "backfill": rule.backfill,
            },
            "moves": {
                "most_victims": self.moves.most_victims,
                "per_100": self.moves.moves_per_100,
                "after_seconds": self.moves.after_seconds,
                "checkpoint_seconds": self.moves.costs.checkpoint_every,
                "restart_seconds": self.moves.costs.restart,
            },
            "seeds": [] if self.trace is not None else list(_seeds(seeds)),
        }

    def title(self, *, seeds: int) -> str:
        """One line over a table."""
        jobs = self.jobs if self.trace is None else len(self.trace)
        runs = "one trace" if self.trace is not None else f"{seeds} seed{'s' if seeds > 1 else ''}"
        gpus = f"{self.nodes} x {self.gpus_per_node} {self.model.name}"
        return f"{jobs} jobs on {gpus}, geometry {self.geometry}, {runs}"

    def draw(self, arm: Arm, seed: int) -> tuple[Job, ...]:
        """The jobs of an arm; equal for all arms of a load."""
        if self.trace is not None:
            return self.trace
        return draw(
            Workload(
                mix=self.mix,
                compute_slices=self.compute_slices,
                jobs=self.jobs,
                offered_load=arm.load,
                median_seconds=self.median_seconds,
                sigma=self.sigma,
                cap_seconds=self.cap_seconds,
                demand=self.demand,
                priorities=self.priorities,
            ),
            seed,
        )

    def simulation(self, arm: Arm, seed: int) -> QueueSimulation:
        """A fresh run of one arm and one seed."""
        policy = queue_policy(arm.policy, seed=seed)
        cluster = QueueCluster(
            geometry=queue_geometry(self.model, self.mix, self.geometry),
            mix=self.mix,
            policy=policy,
            nodes=self.nodes,
            gpus_per_node=self.gpus_per_node,
            memory_slices=self.model.memory_slices,
        )
        return QueueSimulation(
            cluster=cluster,
            jobs=self.draw(arm, seed),
            queue=Queue(arm.order, age_limit_seconds=self.age_limit_seconds),
            reservations=Reservations(self.reservation),
            moves=Moves(self.moves, policy, gpus=self.nodes * self.gpus_per_node),
            validity=Validity(saturated=arm.load is None),
        )


def conditions(arms: Sequence[Arm]) -> list[str]:
    """What makes a run of these arms one under high load, in words."""
    return [str(Validity(saturated=saturated)) for saturated in sorted({arm.load is None for arm in arms})]


def run_all(
    experiment: Experiment,
    arms: Sequence[Arm],
    *,
    seeds: int,
    progress: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """One mapping per arm and seed: what identifies it, and its measures. `progress` is called after each."""
    runs = []
    for arm in arms:
        for seed in _seeds(seeds):
            name = {"load": load_label(arm.load), "policy": arm.policy, "order": arm.order, "seed": seed}
            runs.append(name | experiment.simulation(arm, seed).run())
            progress()
    return runs


def _seeds(count: int) -> range:
    return range(PUBLISHED_SEED, PUBLISHED_SEED + count)


def paired_differences(runs: Sequence[Mapping[str, Any]]) -> dict[tuple[str, ...], tuple[Summary, Summary]]:
    """arm (load, policy, order) -> mean and half-width of its difference to the first arm of the same load.

    Differences are taken seed by seed; only plain numbers have one.
    """
    first: dict[str, tuple[str, ...]] = {}
    by_arm: dict[tuple[str, ...], dict[int, Mapping[str, Any]]] = {}
    for run in runs:
        arm = tuple(str(run[key]) for key in ARM_KEYS)
        first.setdefault(run["load"], arm)
        by_arm.setdefault(arm, {})[run["seed"]] = run
    differences = {}
    for arm, members in by_arm.items():
        base = by_arm[first[arm[0]]]
        if members is base:
            continue
        differences[arm] = summarise(
            [_difference(run, base[seed]) for seed, run in members.items() if seed in base]
        )
    return differences


def _difference(run: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, float]:
    return {
        key: value - base[key]
        for key, value in run.items()
        if key != "seed" and isinstance(value, int | float) and isinstance(base.get(key), int | float)
    }
