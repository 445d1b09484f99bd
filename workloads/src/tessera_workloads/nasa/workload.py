"""NASA as a workload: pretrain a supernet in stages, let gates choose under a price on energy, train what
they chose from scratch, and train beside it what it must be compared with.

All searches of a run (one per price, one after joint pretraining) share a phase, its pictures and the
noise of its gates, so that they differ by their price alone; so do all trainings of found networks. Their
losses are added, and no gradient crosses from one to another.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from tessera_workloads.digits import CLASSES, Digits, accuracy, load_digits_split
from tessera_workloads.nasa import evaluation, phases
from tessera_workloads.nasa.data import NoisyDigits, enlarge, gate_noise
from tessera_workloads.nasa.evaluation import Scored
from tessera_workloads.nasa.model import Search
from tessera_workloads.nasa.operators import LOWEST_EXPONENT
from tessera_workloads.nasa.parameters import NasaParameters
from tessera_workloads.nasa.phases import (
    BEFORE_SEARCH,
    EVERY_OPERATION,
    PRETRAINING,
    PRICES,
    RETRAIN,
    SEARCH,
    SERVED,
)
from tessera_workloads.nasa.picture import draw_pareto
from tessera_workloads.nasa.space import Architecture, EnergyTable, make_space
from tessera_workloads.protocol import (
    Artefacts,
    Batch,
    Check,
    Dataset,
    FederatedView,
    Loss,
    Metrics,
    Mode,
    Phase,
    Shard,
    Split,
    Step,
    Workload,
)
from tessera_workloads.randomness import derive_seed

MOST_GRADIENT_ERROR = 1e-6
MOST_COST = 0.5
MOST_POINTS_LOST = 1.5
FALLING_STEPS = 3


class Nasa(Workload[NasaParameters]):
    """Search for networks of convolutions, shifts and adders (arXiv 2210.13361)."""

    name = "nasa"
    version = "1"
    Parameters = NasaParameters

    def make_data(
        self, p: NasaParameters, *, split: Split, seed: int, shard: Shard | None = None
    ) -> NoisyDigits:
        """The digits of a split."""
        train, test = load_digits_split(seed)
        data = NoisyDigits(test if split == "test" else train, make_space(p))
        return data if split == "test" or shard is None else data.shard(shard)

    def build_model(self, p: NasaParameters, artefacts: Mapping[str, Artefacts]) -> Search:
        """The supernets that are pretrained; the rest comes with the artefacts."""
        supernets = ["progressive", *(["joint"] if p.comparisons else [])]
        return Search(make_space(p), EnergyTable.of(p), supernets)

    def init_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        """Gates 0; adder weights N(0, 1); exponents so that 2^p is distributed like a convolution's |w|. A
        block's last scale is 0, so that every cell begins by passing on what it gets.
        """
        if name.endswith(("gates", "narrow_norm.weight")):
            tensor.zero_()
        elif name.endswith("exponent"):
            super().init_parameter(name, tensor, generator)
            tensor.abs_().log2_().clamp_(LOWEST_EXPONENT, 0)
        elif ".adder_" in name and tensor.ndim == 3:
            tensor.normal_(generator=generator)
        else:
            super().init_parameter(name, tensor, generator)

    def phases(self, p: NasaParameters) -> tuple[Phase, ...]:
        """Those of `phases.make_phases`."""
        return phases.make_phases(p)

    def compute_artefacts(
        self, p: NasaParameters, phase: Phase, model: nn.Module, data: Dataset, step: Step
    ) -> Artefacts:
        """After the pretraining what the searches start from; after the search what they found."""
        assert isinstance(model, Search)
        if phase.name != SEARCH:
            return self.example_artefacts(p, phase)
        found = {name: model.supernet(name).derive() for name in model.supernets}
        seed = torch.randint(2**62, (1,), generator=step.generator, device=step.device)
        return Artefacts(facts=phases.retraining_facts(p, found, seed=int(seed)))

    def example_artefacts(self, p: NasaParameters, phase: Phase) -> Artefacts:
        """The searches that begin, or networks as a search could find them."""
        if phase.name == BEFORE_SEARCH:
            return Artefacts(facts={"searches": phases.searches(p)})
        return Artefacts(facts=phases.example_facts(p) if phase.name == SEARCH else {})

    def apply_artefacts(self, model: nn.Module, phase: str, artefacts: Artefacts) -> nn.Module:
        """Start the searches from the pretrained supernets, or the retraining from fresh weights."""
        assert isinstance(model, Search)
        facts = artefacts.facts
        if phase == BEFORE_SEARCH:
            model.branch(facts["searches"])
        elif phase == SEARCH:
            device = next(model.parameters()).device
            found = {name: model.space.parse(names) for name, names in facts["architectures"].items()}
            model.hold(found, trainings=facts["trainings"])
            with torch.no_grad():
                for name, tensor in model.named_parameters():
                    generator = torch.Generator().manual_seed(derive_seed(facts["seed"], name))
                    self.init_parameter(name, tensor, generator)
            model.to(device)
        return model

    def loss(self, p: NasaParameters, model: nn.Module, batch: Batch, step: Step) -> Loss:
        """Cross-entropy, summed over the networks that train; in the search plus price times cost."""
        assert isinstance(model, Search)
        if step.phase == RETRAIN:
            return _retraining_loss(model, batch, times=p.retrains)
        operations = PRETRAINING.get(step.phase, EVERY_OPERATION)
        searching = step.phase == SEARCH
        names = list(model.supernets) if searching else [phases.pretrained_supernet(step.phase)]
        errors, prices = [], []
        for name in names:
            supernet = model.supernet(name)
            logits = supernet.choose(
                batch["images"],
                batch["gate_noise"],
                allowed=model.space.indices(operations),
                temperature=phases.temperature(p, step.phase, step.step),
            )
            errors.append(functional.cross_entropy(logits, batch["labels"]))
            prices.append(p.cost_weight * PRICES.get(name, 1.0) * supernet.expected_cost())
        error, price = torch.stack(errors).sum(), torch.stack(prices).sum()
        return Loss(error + price if searching else error, {"cross_entropy": error, "price": price})

    def example_batch(self, p: NasaParameters, size: int, mode: Mode, step: Step) -> Batch:
        """Noise pictures; with labels for training, and with gate noise for a supernet."""
        space = make_space(p)
        images = torch.rand((size, 1, space.side, space.side), generator=step.generator, device=step.device)
        if mode == "infer":
            return {"images": images}
        labels = torch.randint(CLASSES, (size,), generator=step.generator, device=step.device)
        batch = {"images": images, "labels": labels}
        return batch if step.phase == RETRAIN else batch | {"gate_noise": gate_noise(space, size, step)}

    def build_serving(self, p: NasaParameters, artefacts: Mapping[str, Artefacts]) -> Search:
        """Only the network that the search is for, and only its first training."""
        architectures = artefacts[SEARCH].facts["architectures"]
        model = Search(make_space(p), EnergyTable.of(p), [])
        model.hold({SERVED: model.space.parse(architectures[SERVED])}, trainings={SERVED: 1})
        return model

    def federated(self, p: NasaParameters) -> FederatedView:
        """Clients search together: they share the weights, and each keeps the gates that fit its data."""
        weights = phases.weights_of("*", EVERY_OPERATION)
        return FederatedView(phase=SEARCH, shared=weights, personal=("supernets.*.gates",))

    def evaluate(self, p: NasaParameters, model: nn.Module, data: Dataset, device: torch.device) -> Metrics:
        """Accuracy of every training, costs, the gradients' errors, and the Pareto picture."""
        assert isinstance(model, Search)
        assert isinstance(data, NoisyDigits)
        digits = Digits(enlarge(data.digits.images, model.space), data.digits.labels)
        measured: dict[Architecture, tuple[float, ...]] = {}
        scored = []
        for name, architecture in model.architectures.items():
            if architecture not in measured:
                measured[architecture] = tuple(
                    accuracy(network, digits, device) for network in model.trained(name)
                )
            table, space = model.table, model.space
            scored.append(
                Scored(
                    name,
                    architecture,
                    cost=table.relative(space, architecture),
                    energy_pj=table.network_pj(space, architecture),
                    accuracies=measured[architecture],
                )
            )
        return Metrics(
            values=_values(scored),
            tables={"networks": [_row(one) for one in scored]},
            files={"pareto.png": draw_pareto(scored)},
        )

    def checks(self, p: NasaParameters, metrics: Metrics) -> list[Check]:
        """Gates on gradients, cost, accuracy and the order of costs; controls; the search without them."""
        m = metrics.values
        lost = 100 * (m["accuracy_all_conv"] - m["accuracy_searched"])
        checks = [
            Check.at_most(
                f"{kind} gradient against differences: error",
                m[f"gradient_error_{kind}"],
                MOST_GRADIENT_ERROR,
            )
            for kind in ("shift", "adder")
        ]
        checks += [
            Check.at_most("searched: cost, all-convolution = 1", m["cost_searched"], MOST_COST),
            Check.at_most("searched: accuracy lost to all-convolution, points", lost, MOST_POINTS_LOST),
        ]
        if "price_steps_not_rising" in m:
            checks.append(
                Check.at_least(
                    "steps of the price (of 4) without a rise of the cost",
                    m["price_steps_not_rising"],
                    FALLING_STEPS,
                )
            )
        for name in [key.removeprefix("accuracy_") for key in m if key.startswith("accuracy_")]:
            kind: Literal["control", "report"] = "report" if name in PRICES else "control"
            words = name.replace("_", " ")
            checks += [
                Check.note(f"{words}: accuracy", m[f"accuracy_{name}"], kind=kind),
                Check.note(f"{words}: cost", m[f"cost_{name}"], kind=kind),
            ]
        if "random_mean_accuracy" in m:
            above = 100 * (m["accuracy_searched"] - m["random_mean_accuracy"])
            checks.append(Check.note("searched: points above the mean of random networks", above))
        return checks


def _retraining_loss(model: Search, batch: Batch, *, times: int) -> Loss:
    """The n-th training of every network sees the n-th part of the batch."""
    parts = list(zip(batch["images"].chunk(times), batch["labels"].chunk(times), strict=True))
    errors = [
        functional.cross_entropy(network(images), labels)
        for trainings in model.networks.values()
        for network, (images, labels) in zip(trainings.children(), parts, strict=False)
    ]
    total = torch.stack(errors).sum()
    return Loss(total, {"cross_entropy": total})


def _values(scored: list[Scored]) -> dict[str, float]:
    """Accuracy and cost by name, and what is derived from them."""
    values = {f"gradient_error_{kind}": error for kind, error in evaluation.gradient_errors().items()}
    for one in scored:
        values[f"accuracy_{one.name}"], values[f"cost_{one.name}"] = one.accuracy, one.cost
    named = {one.name: one for one in scored}
    if set(PRICES) <= set(named):
        values["price_steps_not_rising"] = evaluation.falls([named[name].cost for name in PRICES])
    chance = [one.accuracy for one in scored if one.name.startswith("random")]
    if chance:
        values["random_mean_accuracy"] = sum(chance) / len(chance)
    return values


def _row(one: Scored) -> dict[str, Any]:
    return {
        "network": one.name,
        "cells": " ".join(candidate.name for candidate in one.architecture),
        "cost": one.cost,
        "energy_pj": one.energy_pj,
        "accuracy": one.accuracy,
        "least_accuracy": min(one.accuracies),
        "most_accuracy": max(one.accuracies),
    }
