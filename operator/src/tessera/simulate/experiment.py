"""Runs policies on workloads and collects their figures: one run per mix, load, policy and seed.

All policies of one mix, load and seed get the same workload, and the ideal pool gets it too, so that their
differences are paired.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tessera.placement.geometry import Geometry
from tessera.placement.policies import POLICIES, FragmentationGradient, make_policy
from tessera.placement.score import ArrivalHistogram
from tessera.simulate.cluster import Cluster
from tessera.simulate.costs import MoveCosts
from tessera.simulate.errors import BadSimulationInput
from tessera.simulate.lifetimes import Lifetimes
from tessera.simulate.loss_system import Outcome, run
from tessera.simulate.measures import Series, measure
from tessera.simulate.mixes import Mix
from tessera.simulate.mover import MoveRules
from tessera.simulate.online import WARM_UP, check_load, default_arrivals, poisson_workload, population
from tessera.simulate.pool import pool_decisions
from tessera.simulate.progress import Progress
from tessera.simulate.repacking import repacking_decisions
from tessera.simulate.workload import Workload


@dataclass(frozen=True)
class Arms:
    """What is compared on one workload: policies, all under the same rules for moves. `known_mix`: those that
    estimate from the arrivals what may come next are told the shares instead.
    """

    policies: tuple[str, ...]
    known_mix: bool = False
    moves: MoveRules = field(default_factory=MoveRules)
    costs: MoveCosts = field(default_factory=MoveCosts)

    def __post_init__(self) -> None:
        for name in self.policies:
            self.moves.check(make_policy(name))

    def config(self) -> dict[str, Any]:
        """For the JSON report."""
        return {
            "policies": list(self.policies),
            "known_mix": self.known_mix,
            "max_victims": self.moves.most_victims,
            "max_moves_per_100": self.moves.moves_per_100,
            "compact_every_seconds": self.moves.compact_every,
            "move_costs_seconds": asdict(self.costs),
        }


@dataclass(frozen=True)
class OnlinePlan:
    """The runs of `tessera simulate online`. `arrivals` None: `default_arrivals` for each mix and load."""

    cluster: Cluster
    mixes: tuple[Mix, ...]
    loads: tuple[float, ...]
    lifetimes: Lifetimes
    arrivals: int | None
    seeds: int
    arms: Arms

    def __post_init__(self) -> None:
        for load in self.loads:
            check_load(load)

    def arrivals_of(self, mix: Mix, load: float) -> int:
        """The number of arrivals of a run."""
        return default_arrivals(self.cluster, mix, load=load) if self.arrivals is None else self.arrivals

    def number_of_runs(self) -> int:
        """Runs in all."""
        return len(self.mixes) * len(self.loads) * self.seeds * len(self.arms.policies)

    def warnings(self) -> list[str]:
        """What the reader of the result should know: runs that end before the cluster is in balance."""
        found = []
        for mix in self.mixes:
            for load in self.loads:
                arrivals = self.arrivals_of(mix, load)
                covered = arrivals / population(self.cluster, mix, load=load)
                if WARM_UP * covered < 1:
                    found.append(
                        f"{arrivals:,} arrivals are only {covered:.1f} lifetimes of {mix.name} at load "
                        f"{load:g} on {self.cluster.gpus:,} GPUs: the warm-up does not fill the cluster"
                    )
        return found

    def title(self) -> str:
        """The first words of every table."""
        counts = {self.arrivals_of(mix, load) for mix in self.mixes for load in self.loads}
        arrivals = " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))
        seeds = f"{self.seeds} seeds" if self.seeds > 1 else "1 seed"
        return f"{self.cluster.title()}, {arrivals} arrivals x {seeds}"

    def config(self) -> dict[str, Any]:
        """For the JSON report: everything that decides the result."""
        return {
            **self.cluster.report(),
            "mixes": {mix.name: dict(mix.shares) for mix in self.mixes},
            "loads": list(self.loads),
            "lifetime": self.lifetimes.name,
            "mean_lifetime_seconds": self.lifetimes.mean_seconds,
            "arrivals": [
                {"mix": mix.name, "load": load, "arrivals": n, "counted_from": int(WARM_UP * n)}
                for mix in self.mixes
                for load in self.loads
                for n in [self.arrivals_of(mix, load)]
            ],
            "seeds": list(range(self.seeds)),
            **self.arms.config(),
        }

    def events(self) -> int:
        """About how many events all runs have, for the progress bar."""
        arrivals = sum(self.arrivals_of(mix, load) for mix in self.mixes for load in self.loads)
        return 2 * arrivals * self.seeds * len(self.arms.policies)


@dataclass(frozen=True)
class Result:
    """One run: what identifies it with its figures, the cluster over time, and all that a log needs."""

    figures: dict[str, Any]
    series: Series
    workload: Workload
    outcome: Outcome


def run_online(
    plan: OnlinePlan, *, progress: Progress, keep: Callable[[Result], None]
) -> list[dict[str, Any]]:
    """All runs, by mix, load, policy and seed. Every result is shown to `keep` as soon as it is there."""
    runs: list[dict[str, Any]] = []
    for mix in plan.mixes:
        for load in plan.loads:
            block: list[dict[str, Any]] = []
            for seed in range(plan.seeds):
                progress.begins(f"{mix.name}, load {load:g}, seed {seed}")
                workload = poisson_workload(
                    plan.cluster,
                    mix,
                    load=load,
                    lifetimes=plan.lifetimes,
                    arrivals=plan.arrivals_of(mix, load),
                    seed=seed,
                )
                shares = mix.shares if plan.arms.known_mix else None
                head = {"mix": mix.name, "load": load}
                for result in run_arms(
                    workload,
                    plan.cluster,
                    plan.arms,
                    head=head,
                    seed=seed,
                    progress=progress,
                    shares=shares,
                ):
                    keep(result)
                    block.append(result.figures)
            runs += sorted(block, key=lambda run: plan.arms.policies.index(run["policy"]))
    return runs


def run_arms(
    workload: Workload,
    cluster: Cluster,
    arms: Arms,
    *,
    head: Mapping[str, Any],
    seed: int,
    progress: Progress,
    shares: Mapping[str, float] | None = None,
) -> Iterator[Result]:
    """Every policy on one workload; `head` begins the figures of each run. `shares` are told to the policies
    that would estimate them.
    """
    pool, repacking = pool_decisions(workload, cluster), repacking_decisions(workload, cluster)
    for name in arms.policies:
        policy = make_policy(name, seed=seed)
        if shares is not None and isinstance(policy, FragmentationGradient):
            policy.histogram = KnownShares(shares)
        outcome = run(
            workload, cluster, policy, rules=arms.moves, costs=arms.costs, progress=progress.advanced
        )
        figures, series = measure(
            workload, cluster, outcome, pool=pool, repacking=repacking, costs=arms.costs
        )
        yield Result({**head, "policy": name, "seed": seed, **figures}, series, workload, outcome)


class KnownShares(ArrivalHistogram):
    """Stands in for the histogram of arrivals where the shares are known."""

    def __init__(self, shares: Mapping[str, float]) -> None:
        super().__init__()
        self._shares = shares

    def record(self, profile: str) -> None:
        """Nothing to learn."""

    def weights(self, geometry: Geometry) -> dict[str, float]:
        """The shares among the profiles of a geometry."""
        shares = {profile: self._shares.get(profile, 0.0) for profile in geometry.profiles}
        total = math.fsum(shares.values())
        return {profile: share / total if total else 0.0 for profile, share in shares.items()}


def policies_given(names: Sequence[str], *, others: Collection[str] = ()) -> tuple[str, ...]:
    """The policies of `--policy`, each once; `all` stands for every one. `others` are known beside those of
    the engine. Raises BadSimulationInput.
    """
    every = (*POLICIES, *others)
    found: dict[str, None] = {}
    for name in names:
        if name == "all":
            found |= dict.fromkeys(every)
        elif name in others:
            found[name] = None
        elif name in POLICIES:
            found[make_policy(name).name] = None
        else:
            raise BadSimulationInput(
                f"--policy {name} does not exist",
                remedy=f"Choose of {', '.join(('default', 'all', *every))}.",
            )
    return tuple(found)
