"""Runs of several policies on the same draws, and the figures of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tessera.simulate.errors import BadSimulationInput
from tessera.simulate.openb.arrivals import Draw, draw
from tessera.simulate.openb.cluster import Cluster
from tessera.simulate.openb.expected_fill import ExpectedFill
from tessera.simulate.openb.fragmentation import (
    FragmentationGradientDescent,
    UsableByNextPod,
    exact,
    fragmentation_milli,
    sigmoid_steps,
)
from tessera.simulate.openb.policies import (
    BestFit,
    DotProduct,
    FirstFit,
    GpuClustering,
    GpuPacking,
    Policy,
    RandomChoice,
    WorstFit,
)
from tessera.simulate.openb.replay import Outcome, run
from tessera.simulate.openb.trace import Node, Pod, PodType
from tessera.simulate.openb.typical import TypicalPod, typical_pods
from tessera.simulate.openb.unallocated import unallocated, unavoidable
from tessera.simulate.progress import Progress

LEVELS_PCT = (90, 100, 110, 130)
"""Arrived demand, in percent of the GPU capacity, at which a run is read."""

NodeOrder = Literal["published", "file"]
Make = Callable[["Workload", Cluster, int], Policy]


@dataclass(frozen=True)
class Workload:
    """What a policy may know: the pods that arrive, and how often."""

    pods: list[PodType]
    typical: list[TypicalPod]
    """The most frequent types, 95 % of the pods: what FGD knows."""
    all_types: list[TypicalPod]

    @classmethod
    def of(cls, pods: Sequence[Pod]) -> Workload:
        """The workload of a pod list."""
        types = [pod.type for pod in pods]
        return cls(types, typical_pods(types), typical_pods(types, coverage=1.0))


def _fgd(
    workload: Workload, cluster: Cluster, *, exactly: bool = False, prefer_fuller: bool = False
) -> Policy:
    return FragmentationGradientDescent(
        UsableByNextPod(cluster, workload.typical),
        quantise=exact if exactly else sigmoid_steps,
        prefer_fuller=prefer_fuller,
    )


DEFAULT_POLICY = "expected_fill"

SETTINGS = ("stop_chance", "sharpness", "set_bonus")
"""The constants of `expected_fill`, which can be given after its name."""

POLICIES: dict[str, Make] = {
    "expected_fill": lambda workload, cluster, seed: ExpectedFill(cluster, workload.all_types),
    "fgd": lambda workload, cluster, seed: _fgd(workload, cluster),
    "fgd-fuller": lambda workload, cluster, seed: _fgd(workload, cluster, prefer_fuller=True),
    "fgd-exact": lambda workload, cluster, seed: _fgd(workload, cluster, exactly=True),
    "best_fit": lambda workload, cluster, seed: BestFit(),
    "gpu_packing": lambda workload, cluster, seed: GpuPacking(),
    "gpu_clustering": lambda workload, cluster, seed: GpuClustering(),
    "dot_prod": lambda workload, cluster, seed: DotProduct(),
    "first_fit": lambda workload, cluster, seed: FirstFit(),
    "worst_fit": lambda workload, cluster, seed: WorstFit(),
    "random": lambda workload, cluster, seed: RandomChoice(seed),
}
"""Name -> maker. Of equal nodes `fgd` takes the first and `fgd-fuller` the one with the least free GPU."""


def policies_given(names: Sequence[str]) -> dict[str, Make]:
    """The policies that these names mean: `default` is the best, `all` all of them, and
    `expected_fill:KEY=NUMBER,...` is the best with other constants.

    Raises BadSimulationInput for an unknown name or constant.
    """
    given: dict[str, Make] = {}
    for text in names:
        name, _, settings = text.partition(":")
        if settings and name == "expected_fill":
            given[text] = _with_constants(text, settings)
        elif text == "all":
            given |= POLICIES
        elif text in ("default", *POLICIES):
            chosen = DEFAULT_POLICY if text == "default" else text
            given[chosen] = POLICIES[chosen]
        else:
            raise BadSimulationInput(
                f"there is no policy {text!r} for this trace",
                remedy=f"Give one of: default, all, {', '.join(POLICIES)}.",
            )
    return given


def _with_constants(text: str, settings: str) -> Make:
    values: dict[str, float] = {}
    for setting in settings.split(","):
        key, _, number = setting.partition("=")
        try:
            values[key] = float(number)
        except ValueError:
            values[key] = -1.0
        if key not in SETTINGS or not 0 <= values[key] < math.inf or (key == "sharpness" and not values[key]):
            raise BadSimulationInput(
                f"{setting!r} in the policy {text!r} is not a constant of expected_fill",
                remedy=f"Give positive numbers for some of: {', '.join(SETTINGS)}.",
            )
    return lambda workload, cluster, seed: ExpectedFill(cluster, workload.all_types, **values)


@dataclass(frozen=True)
class PodList:
    """A pod list under the name that tables show."""

    name: str
    pods: list[Pod]


@dataclass(frozen=True)
class TracePlan:
    """What to run. `tune` is the demand at the end, in multiples of the GPU capacity."""

    nodes: list[Node]
    lists: list[PodList]
    policies: dict[str, Make]
    tune: float
    seeds: range
    node_order: NodeOrder = "published"

    def __post_init__(self) -> None:
        if not 0 < self.tune <= 10:
            raise BadSimulationInput(f"--tune {self.tune:g}", "it must be above 0 and at most 10")

    @property
    def levels_pct(self) -> tuple[int, ...]:
        """The levels that this demand reaches."""
        return tuple(level for level in LEVELS_PCT if level <= round(100 * self.tune, 6))

    def number_of_runs(self) -> int:
        """How many runs there are."""
        return len(self.lists) * len(self.policies) * len(self.seeds)


def run_trace(plan: TracePlan, *, progress: Progress) -> list[dict[str, Any]]:
    """The figures of every run, by pod list, seed and policy.

    With `fgd` among the policies each run also says by how much it allocates more, on the same draw.
    """
    runs = []
    for pod_list in plan.lists:
        workload = Workload.of(pod_list.pods)
        for seed in plan.seeds:
            of_seed = list(_runs_of_seed(plan, pod_list.name, workload, seed, progress))
            baseline = next((r["allocation_pct"] for r in of_seed if r["policy"] == "fgd"), None)
            if baseline is not None:
                for figures in of_seed:
                    figures["gain_over_fgd_pct"] = figures["allocation_pct"] - baseline
            runs += of_seed
    return runs


def _runs_of_seed(
    plan: TracePlan, name: str, workload: Workload, seed: int, progress: Progress
) -> Iterator[dict[str, Any]]:
    capacity = Cluster(plan.nodes).capacity_milli
    drawn = draw(workload.pods, nodes=len(plan.nodes), gpu_milli=capacity, tune=plan.tune, seed=seed)
    for policy, make in plan.policies.items():
        progress.begins(f"{name}, seed {seed}, {policy}")
        cluster = Cluster(_ordered(plan.nodes, drawn, plan.node_order))
        usable = UsableByNextPod(cluster, workload.typical)
        outcome = run(
            cluster,
            drawn.pods,
            make(workload, cluster, seed),
            levels_pct=plan.levels_pct,
            fragmentation=partial(fragmentation_milli, usable=usable),
        )
        yield {
            "pods": name,
            "policy": policy,
            "seed": seed,
            **_figures(outcome, drawn, cluster, workload, usable),
        }
        progress.advanced(1)


def _ordered(nodes: Sequence[Node], drawn: Draw, order: NodeOrder) -> list[Node]:
    if order == "file":
        return list(nodes)
    ranked = zip(drawn.node_order, nodes, strict=True)
    return [node for _, node in sorted(ranked, key=lambda pair: pair[0])]


def _figures(
    outcome: Outcome, drawn: Draw, cluster: Cluster, workload: Workload, usable: UsableByNextPod
) -> dict[str, Any]:
    def pct(milli: float) -> float:
        return 100 * milli / cluster.capacity_milli

    idle = float(cluster.gpu_left.sum())
    fragmented = fragmentation_milli(cluster, usable)
    figures: dict[str, Any] = {
        "allocation_pct": 100 - pct(idle),
        "fragmentation_pct": pct(fragmented),
        "idle_fragmented_pct": 100 * fragmented / idle if idle else None,
    }
    for reading in outcome.readings:
        figures[f"allocation_pct_{reading.arrived_pct}"] = reading.allocation_pct
        figures[f"fragmentation_pct_{reading.arrived_pct}"] = pct(reading.fragmentation_milli)
    figures["placed_pods_pct"] = 100 * outcome.placed / outcome.arrived
    figures["unallocated_pct"] = {
        cause: pct(milli) for cause, milli in unallocated(cluster, workload.all_types).items()
    }
    placed = (pod for pod, node in zip(drawn.pods, outcome.placements, strict=True) if node >= 0)
    figures["unavoidable_idle_pct"] = pct(unavoidable(placed))
    figures["cpu_allocation_pct"] = 100 * (
        1 - float(cluster.cpu_left.sum()) / sum(node.cpu_milli for node in cluster.nodes)
    )
    return figures


def pod_list_name(path: Path) -> str:
    """`default` for `openb_pod_list_default.csv`; the file's name without its ending for another."""
    return path.stem.removeprefix("openb_pod_list_")
