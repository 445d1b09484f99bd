"""The phases of a run, and what is handed from one to the next as facts.

Pretraining comes in stages (convolutions; then shift and add, with the convolutions held; then all of them),
because adder weights, which start wide and move by gradients of fixed norm, disturb the others when all begin
together. Joint pretraining for as many steps is the control. Then all searches, then all retrainings.
"""

import math
from collections.abc import Mapping
from typing import Any

from tessera_workloads.nasa.parameters import NasaParameters
from tessera_workloads.nasa.space import (
    Architecture,
    EnergyTable,
    Operation,
    make_space,
    random_architectures,
)
from tessera_workloads.protocol import Json, OptimizerSpec, ParameterGroup, Phase, Update
from tessera_workloads.schedules import cosine

EVERY_OPERATION: tuple[Operation, ...] = ("conv", "shift", "adder", "skip")

PRETRAINING: Mapping[str, tuple[Operation, ...]] = {
    "pretrain-joint": EVERY_OPERATION,
    "pretrain-conv": ("conv",),
    "pretrain-free": ("shift", "adder"),
    "pretrain-mixed": EVERY_OPERATION,
}
"""Which operations are open in each pretraining phase; the last three are the stages."""

SEARCH, RETRAIN = "search", "retrain"
BEFORE_SEARCH = "pretrain-mixed"
"""The last phase of pretraining: the searches start from what it leaves."""

SERVED = "searched"
PRICES: Mapping[str, float] = {
    "price_0": 0.0,
    "price_third": 1 / 3,
    SERVED: 1.0,
    "price_3": 3.0,
    "price_10": 10.0,
}
"""Searches by name, with their price as a multiple of `cost_weight`, rising."""

RANDOM_NETWORKS = 5
HOTTEST, COLDEST = 5.0, 0.5
"""Temperature of the gates: falls exponentially during the search; pretraining stays at the first."""


def make_phases(p: NasaParameters) -> tuple[Phase, ...]:
    """All phases in their order. The search has two updates a step: the weights', then the gates'."""
    adam = OptimizerSpec(kind="adam", groups=(ParameterGroup("*.exponent", lr_scale=p.exponent_scale),))
    phases = []
    for name, operations in PRETRAINING.items():
        joint = name == "pretrain-joint"
        if joint and not p.comparisons:
            continue
        steps = p.pretrain_steps * (3 if joint else 1)
        update = Update(adam, weights_of(pretrained_supernet(name), operations))
        phases.append(Phase(name, steps, p.batch, (update,), cosine(p.learning_rate, steps)))
    for_gates = OptimizerSpec(
        kind="adam",
        betas=(0.5, 0.999),
        groups=(ParameterGroup("*", lr_scale=p.gate_rate / p.learning_rate),),
    )
    updates = (
        Update(adam, weights_of("*", EVERY_OPERATION)),
        Update(for_gates, ("supernets.*.gates",), name="gates"),
    )
    phases.append(Phase(SEARCH, p.search_steps, p.batch, updates, lambda step: p.learning_rate))
    falling = cosine(p.learning_rate, p.retrain_steps)
    phases.append(Phase(RETRAIN, p.retrain_steps, p.batch * p.retrains, (Update(adam),), falling))
    return tuple(phases)


def pretrained_supernet(phase: str) -> str:
    """Which supernet a pretraining phase trains."""
    return "joint" if phase == "pretrain-joint" else "progressive"


def weights_of(supernet: str, operations: tuple[Operation, ...]) -> tuple[str, ...]:
    """Patterns of what trains when these operations are open: without convolution the stem is held, too."""
    blocks = tuple(f"supernets.{supernet}.cells.*.{operation}_*" for operation in operations)
    ends = ("stem", "head") if "conv" in operations else ("head",)
    return blocks + tuple(f"supernets.{supernet}.{end}*" for end in ends)


def temperature(p: NasaParameters, phase: str, step: int) -> float:
    """Of the gates' softmax."""
    cooled = step / p.search_steps if phase == SEARCH else 0.0
    return HOTTEST * math.exp(cooled * math.log(COLDEST / HOTTEST))


def searches(p: NasaParameters) -> dict[str, str]:
    """The searches of a run, and which pretrained supernet each starts from."""
    if not p.comparisons:
        return {SERVED: "progressive"}
    return dict.fromkeys(PRICES, "progressive") | {"joint": "joint"}


def retraining_facts(p: NasaParameters, found: Mapping[str, Architecture], *, seed: int) -> dict[str, Json]:
    """Which networks are trained from scratch, by name, and the seed of their first weights.

    `found` are the searches' networks; the controls are added: one operation everywhere, and random networks
    that cost as much as the one that is searched for. Only what the gate compares is trained several times.
    """
    space = make_space(p)
    networks = dict(found) | {"all_conv": space.uniform("conv")}
    if p.comparisons:
        networks |= {f"all_{kind}": space.uniform(kind) for kind in ("shift", "adder", "skip")}
        drawn = random_architectures(
            space, EnergyTable.of(p), like=found[SERVED], count=RANDOM_NETWORKS, seed=seed
        )
        networks |= {f"random_{index}": one for index, one in enumerate(drawn)}
    named: dict[str, Any] = {name: [one.name for one in network] for name, network in networks.items()}
    times = {name: p.retrains if name in (SERVED, "all_conv") else 1 for name in named}
    return {"architectures": named, "trainings": times, "seed": seed}


def example_facts(p: NasaParameters) -> dict[str, Json]:
    """As if every search had found a random network that costs about as much as shifts everywhere."""
    space, names = make_space(p), list(searches(p))
    drawn = random_architectures(
        space, EnergyTable.of(p), like=space.uniform("shift"), count=len(names), seed=1
    )
    return retraining_facts(p, dict(zip(names, drawn, strict=True)), seed=0)
