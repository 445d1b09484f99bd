"""Is the backdoor gone, what did that cost, and what else did it change?

Attack success is the share of marked test pictures of other digits that are taken for the target. What the
cure changes besides (the paper's "sequela") is measured in two ways: how well a member of the training set is
told from a stranger by its loss, and how many steps of poisoned training bring the backdoor back.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tessera_workloads.digits import Digits, accuracy
from tessera_workloads.stepping import Stepper
from tessera_workloads.superft.data import JudgedDigits
from tessera_workloads.superft.model import DigitNet, Networks
from tessera_workloads.superft.parameters import SuperftParameters
from tessera_workloads.superft.phases import (
    CLEAN_SCRATCH,
    CURED,
    FEW,
    PLAIN,
    POISONED,
    SCRATCH,
    Place,
    injection,
)
from tessera_workloads.superft.triggers import TARGET

INJECTED = 0.95
"""Attack success from which on a backdoor counts as injected again."""


@dataclass(frozen=True)
class Judged:
    """One network against one attack. `reinjection_steps` is None where it was not measured, `found_rate` 0
    where no rate was searched.
    """

    attack: str
    network: str
    accuracy: float
    attack_success: float
    membership_auc: float
    found_rate: float
    reinjection_steps: int | None


def judge_attack(
    networks: Networks, data: JudgedDigits, attack: str, stepper: Stepper[SuperftParameters]
) -> list[Judged]:
    """The poisoned network, its cures, plain fine-tuning and training from scratch, against one attack.

    `stepper` makes the steps that inject the backdoor again.
    """
    device, rows = stepper.device, []
    marked = data.marked(attack).to(device)
    for role in (POISONED, CURED, FEW, PLAIN, SCRATCH):
        network = networks[CLEAN_SCRATCH if role == SCRATCH else f"{attack}_{role}"]
        assert isinstance(network, DigitNet)
        measured = role in (CURED, SCRATCH)
        rows.append(
            Judged(
                attack=attack,
                network=role,
                accuracy=accuracy(network, data.test, device),
                attack_success=attack_success(network, marked),
                membership_auc=membership_auc(network, data, role, device),
                found_rate=float(network.found_rate),
                reinjection_steps=reinjection_steps(stepper, network, attack, marked) if measured else None,
            )
        )
    return rows


def attack_success(network: nn.Module, marked: Tensor) -> float:
    """Share of the marked pictures that are taken for the target."""
    with torch.no_grad():
        return float((network(marked).argmax(1) == TARGET).float().mean())


def membership_auc(network: nn.Module, data: JudgedDigits, role: str, device: torch.device) -> float:
    """How well a low loss tells a training picture from a test picture: the area under the ROC curve.

    At 0.5 not at all. Pictures that were marked are left out, because not every network saw them clean.
    """
    training = data.training
    members = training.clean_for(role)
    if role != FEW:
        members = members.part(slice(training.marked_count, None))
    inside, outside = (-_losses(network, digits, device) for digits in (members, data.test))
    return area_under_curve(inside, outside)


def area_under_curve(positive: Tensor, negative: Tensor) -> float:
    """The probability that a positive scores above a negative, with ties as one half (Mann-Whitney)."""
    ordered = negative.sort().values
    below = torch.searchsorted(ordered, positive, right=False)
    not_above = torch.searchsorted(ordered, positive, right=True)
    return float((below + not_above).double().mean() / (2 * len(negative)))


def reinjection_steps(
    stepper: Stepper[SuperftParameters], network: DigitNet, attack: str, marked: Tensor
) -> int:
    """Training steps on the poisoned pictures, at the plain rate, until the backdoor is there again.

    At most `injection_limit`. The network itself is left as it is.
    """
    p, phase = stepper.parameters, injection(stepper.parameters, attack)
    name = Place.of(phase.name).network
    victim = Networks((name,), width=p.width).to(stepper.device)
    victim[name].load_state_dict(network.state_dict())
    optimizers = stepper.optimizers(phase, victim)
    for step in range(phase.steps):
        if attack_success(victim[name], marked) >= INJECTED:
            return step
        with torch.enable_grad():
            stepper.step(phase, step, victim, optimizers)
    return phase.steps


def _losses(network: nn.Module, digits: Digits, device: torch.device) -> Tensor:
    with torch.no_grad():
        logits = network(digits.images.to(device))
        return functional.cross_entropy(logits, digits.labels.to(device), reduction="none").cpu()
