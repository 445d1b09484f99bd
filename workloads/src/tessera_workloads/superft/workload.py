"""Super-fine-tuning as a workload: three attacks, each poisoned, searched and cured, with its controls."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tessera_workloads.digits import CLASSES, accuracy
from tessera_workloads.protocol import (
    Artefacts,
    Batch,
    Check,
    CheckKind,
    Dataset,
    FederatedView,
    Json,
    Loss,
    Metrics,
    Mode,
    Phase,
    Shard,
    Split,
    Step,
    Workload,
)
from tessera_workloads.stepping import Stepper
from tessera_workloads.superft import phases
from tessera_workloads.superft.data import JudgedDigits, TrainingDigits, make_digits
from tessera_workloads.superft.evaluation import judge_attack
from tessera_workloads.superft.model import Networks
from tessera_workloads.superft.parameters import SuperftParameters
from tessera_workloads.superft.phases import (
    ATTACKS,
    CURED,
    FEW,
    NETWORKS,
    PLAIN,
    POISONED,
    SCRATCH,
    SEARCHED,
    Place,
)
from tessera_workloads.superft.picture import draw_triggers
from tessera_workloads.superft.triggers import TARGET, TRIGGERS

SUCCESS_BEFORE = 0.95
SUCCESS_AFTER = 0.05
LOST_POINTS = 1.0
SUCCESS_AFTER_PLAIN = 0.9
REPORTED_ATTACK = "warp"
SERVED = f"badnets_{CURED}"


class Superft(Workload[SuperftParameters]):
    """Backdoors, and their removal by super-fine-tuning (arXiv 2212.09067)."""

    name = "superft"
    version = "1"
    Parameters = SuperftParameters

    def make_data(
        self, p: SuperftParameters, *, split: Split, seed: int, shard: Shard | None = None
    ) -> TrainingDigits | JudgedDigits:
        """The digits of `data`."""
        digits = make_digits(
            seed=seed, side=p.side, poisoned_share=p.poisoned_share, held_out_share=p.held_out_share
        )
        if split == "test":
            return digits
        return digits.training if shard is None else digits.training.shard(shard)

    def build_model(self, p: SuperftParameters, artefacts: Mapping[str, Artefacts]) -> Networks:
        """All networks of the run."""
        return Networks(NETWORKS, width=p.width)

    def next_phase(self, p: SuperftParameters, facts: Mapping[str, Mapping[str, Json]]) -> Phase | None:
        """See `phases`."""
        return phases.next_phase(p, facts)

    def compute_artefacts(
        self, p: SuperftParameters, phase: Phase, model: nn.Module, data: Dataset, step: Step
    ) -> Artefacts:
        """What the search goes by: accuracies on held-out clean pictures, and the rate that was used."""
        assert isinstance(model, Networks)
        assert isinstance(data, TrainingDigits)
        place = Place.of(phase.name)
        network = model[place.network]

        def held_out_accuracy(role: str) -> float:
            return accuracy(network, data.probed(role)[1], step.device)

        if place.role == POISONED:
            return Artefacts(facts={role: held_out_accuracy(role) for role in SEARCHED})
        if place.role not in SEARCHED:
            return Artefacts()
        rate = {"rate": phase.lr_at(p.half_period)}
        return Artefacts(facts=rate | {"accuracy": held_out_accuracy(place.role)} if place.is_probe else rate)

    def apply_artefacts(self, model: nn.Module, phase: str, artefacts: Artefacts) -> nn.Module:
        """Copies of a poisoned network for its cures, also in place of a network that a probe has changed."""
        assert isinstance(model, Networks)
        place = Place.of(phase)
        for target in place.copies:
            model.copy(f"{place.attack}_{POISONED}", target)
        if place.role in SEARCHED and not place.is_probe:
            model[place.network].get_buffer("found_rate").fill_(artefacts.facts["rate"])
        return model

    def loss(self, p: SuperftParameters, model: nn.Module, batch: Batch, step: Step) -> Loss:
        """Cross-entropy of the network that the phase trains."""
        logits = model(batch["images"], Place.of(step.phase).network)
        return Loss(functional.cross_entropy(logits, batch["labels"]), {})

    def evaluate(
        self, p: SuperftParameters, model: nn.Module, data: Dataset, device: torch.device
    ) -> Metrics:
        """Every network of every attack: accuracy, attack success, and what the cure changes besides."""
        assert isinstance(model, Networks)
        assert isinstance(data, JudgedDigits)
        # Seed 0 in every run: the draws of the injection are no part of what is compared.
        stepper = Stepper(self, p, data.training, seed=0, device=device)
        rows = [asdict(judged) for attack in ATTACKS for judged in judge_attack(model, data, attack, stepper)]
        values = _values(rows)
        return Metrics(
            values=values, tables={"networks": rows}, files={"triggers.png": _picture(data, values)}
        )

    def checks(self, p: SuperftParameters, metrics: Metrics) -> list[Check]:
        """Gates for BadNets and Blended with all clean data; the warp, controls and sequela beside them."""
        return [check for attack in ATTACKS for check in _attack_checks(attack, metrics.values)]

    def example_batch(self, p: SuperftParameters, size: int, mode: Mode, step: Step) -> Batch:
        """Noise pictures, and for training any labels."""
        images = torch.rand(size, 1, p.side, p.side, generator=step.generator, device=step.device)
        if mode == "infer":
            return {"images": images}
        labels = torch.randint(CLASSES, (size,), generator=step.generator, device=step.device)
        return {"images": images, "labels": labels}

    def example_artefacts(self, p: SuperftParameters, phase: Phase) -> Artefacts:
        """A search that ends with its first probe, at the largest rate."""
        place = Place.of(phase.name)
        if place.role == POISONED:
            return Artefacts(facts=dict.fromkeys(SEARCHED, 1.0))
        if place.role in SEARCHED:
            return Artefacts(facts={"rate": phases.LARGEST_RATE, "accuracy": 1.0})
        return Artefacts()

    def build_serving(self, p: SuperftParameters, artefacts: Mapping[str, Artefacts]) -> Networks:
        """One cured network alone."""
        return Networks((SERVED,), width=p.width)

    def infer_batch(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Logits of the digits."""
        logits: torch.Tensor = model(batch["images"], SERVED)
        return logits

    def federated(self, p: SuperftParameters) -> FederatedView:
        """Clients train one network, and the first of them poisons it; a server can cure it later."""
        trained = f"badnets_{POISONED}"
        return FederatedView(
            phase=trained,
            shared=(f"{trained}.*",),
            personal=tuple(f"{network}.*" for network in NETWORKS if network != trained),
            buffers=("*.found_rate",),
        )


def _values(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The table as `<attack>_<network>_<figure>`, and the points of accuracy lost against the poisoned
    network.
    """
    values: dict[str, float] = {}
    for row in rows:
        start = f"{row['attack']}_{row['network']}"
        figures = {key: value for key, value in row.items() if key not in ("attack", "network")}
        values |= {f"{start}_{key}": value for key, value in figures.items() if value is not None}
        poisoned = values[f"{row['attack']}_{POISONED}_accuracy"]
        values[f"{start}_lost_points"] = 100 * (poisoned - row["accuracy"])
    return values


def _picture(data: JudgedDigits, m: Mapping[str, float]) -> bytes:
    """What the triggers do to three digits, and what the networks make of it."""
    clean = data.test.images[data.test.labels != TARGET][:3]
    notes = {
        attack: [
            f"taken for the target: {m[f'{attack}_poisoned_attack_success']:.1%}",
            f"cured {m[f'{attack}_cured_attack_success']:.1%}, "
            f"plain fine-tuning {m[f'{attack}_plain_attack_success']:.1%}",
            f"accuracy {m[f'{attack}_poisoned_accuracy']:.1%}, cured {m[f'{attack}_cured_accuracy']:.1%}",
        ]
        for attack in ATTACKS
    }
    return draw_triggers(clean, {attack: TRIGGERS[attack](clean) for attack in ATTACKS}, notes)


def _attack_checks(attack: str, m: Mapping[str, float]) -> list[Check]:
    judged: CheckKind = "report" if attack == REPORTED_ATTACK else "gate"

    def of(network: str, figure: str) -> float:
        return m[f"{attack}_{network}_{figure}"]

    success, lost = "attack_success", "lost_points"
    checks = [
        Check.at_least(
            f"{attack}: attack success before", of(POISONED, success), SUCCESS_BEFORE, kind=judged
        ),
        Check.at_most(f"{attack}: attack success, cured", of(CURED, success), SUCCESS_AFTER, kind=judged),
        Check.at_most(f"{attack}: points of accuracy lost, cured", of(CURED, lost), LOST_POINTS, kind=judged),
        Check.at_least(
            f"{attack}: attack success, plain fine-tuning",
            of(PLAIN, success),
            SUCCESS_AFTER_PLAIN,
            kind="control",
        ),
        Check.note(f"{attack}: points of accuracy lost, plain fine-tuning", of(PLAIN, lost), kind="control"),
    ]
    for network, said in ((SCRATCH, "trained from scratch"), (FEW, "cured with 20 % of the clean data")):
        checks.append(Check.note(f"{attack}: attack success, {said}", of(network, success), kind="control"))
        checks.append(
            Check.note(f"{attack}: points of accuracy lost, {said}", of(network, lost), kind="control")
        )
    for network, said in ((POISONED, "before"), (CURED, "cured"), (SCRATCH, "trained from scratch")):
        checks.append(Check.note(f"{attack}: membership AUC, {said}", of(network, "membership_auc")))
    for network, said in ((CURED, "cured"), (SCRATCH, "trained from scratch")):
        checks.append(
            Check.note(f"{attack}: steps to inject it again, {said}", of(network, "reinjection_steps"))
        )
    return [*checks, Check.note(f"{attack}: learning rate found", of(CURED, "found_rate"))]
