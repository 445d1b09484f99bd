"""Which training follows which, and how high its learning rate goes: pure functions of the facts.

One network is trained from scratch on clean data. Then each attack trains a poisoned network, and from copies
of that one come a cure with all clean data, a cure with a fifth of it, and plain fine-tuning. The highest
learning rate of a cure is searched first: a probe is one cycle up to a rate, on the clean data without a
held-out part; the rate *holds* when the accuracy on that part stays within the tolerated points of the
poisoned network's. The rate is doubled while it holds, and the last gap is bisected (in the logarithm). After
each probe the network is the poisoned one again.

A phase is named after its network, `<attack>_<role>`, and a probe has `.probe<number>` behind that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from tessera_workloads.protocol import Json, LrSchedule, OptimizerSpec, Phase, Update
from tessera_workloads.superft.parameters import SuperftParameters
from tessera_workloads.superft.triggers import TRIGGERS

ATTACKS = tuple(TRIGGERS)
POISONED, CURED, FEW, PLAIN, SCRATCH = "poisoned", "cured", "few", "plain", "scratch"
SEARCHED = (CURED, FEW)
"""The roles whose learning rate is searched."""
CLEAN_SCRATCH = f"clean_{SCRATCH}"
NETWORKS = (
    CLEAN_SCRATCH,
    *(f"{attack}_{role}" for attack in ATTACKS for role in (POISONED, CURED, FEW, PLAIN)),
)
"""Every network of a run, in the order of their trainings."""
LARGEST_RATE, SMALLEST_RATE = 10.0, 1e-4
"""The search does not leave this range, and never goes below the rate at both ends of a cycle."""
_ROUNDING = 1e-6


class Place(NamedTuple):
    """What a phase's name says: whose network it trains, and whether that is a probe."""

    attack: str
    role: str
    is_probe: bool

    @staticmethod
    def of(phase: str) -> "Place":
        """Read the name of a phase."""
        network, _, probe = phase.partition(".")
        attack, _, role = network.partition("_")
        return Place(attack, role, bool(probe))

    @property
    def network(self) -> str:
        """The network that the phase trains."""
        return f"{self.attack}_{self.role}"

    @property
    def copies(self) -> tuple[str, ...]:
        """The networks that become the poisoned one of this attack when the phase is over."""
        if self.role == POISONED:
            return tuple(f"{self.attack}_{role}" for role in (CURED, FEW, PLAIN))
        return (self.network,) if self.is_probe else ()


@dataclass(frozen=True)
class Trial:
    """A probed learning rate, and whether the accuracy held."""

    rate: float
    held: bool


def next_phase(p: SuperftParameters, facts: Mapping[str, Mapping[str, Json]]) -> Phase | None:
    """The first training that is not done; for a cure, the probes of its search come before it."""
    for network in NETWORKS:
        if network in facts:
            continue
        place = Place.of(network)
        if place.role in (SCRATCH, POISONED):
            return _phase(p, network, p.training_steps, partial(_falling, p))
        if place.role == PLAIN:
            return _phase(p, network, cure_steps(p), lambda step: p.plain_rate)
        trials = finished_trials(p, network, facts)
        rate = next_rate(
            trials, first=p.first_rate, lowest=max(p.base_rate, SMALLEST_RATE), bisections=p.bisections
        )
        if rate is not None:
            name = f"{network}.probe{len(trials) + 1}"
            return _phase(p, name, 2 * p.half_period, partial(cure_rate, p, rate))
        return _phase(p, network, cure_steps(p), partial(cure_rate, p, found_rate(trials)))
    return None


def finished_trials(
    p: SuperftParameters, network: str, facts: Mapping[str, Mapping[str, Json]]
) -> list[Trial]:
    """The probes of a network's search so far."""
    place = Place.of(network)
    least = facts[f"{place.attack}_{POISONED}"][place.role] - p.tolerated_points / 100
    return [
        Trial(rate=left["rate"], held=left["accuracy"] >= least)
        for phase, left in facts.items()
        if phase.startswith(f"{network}.")
    ]


def next_rate(trials: Sequence[Trial], *, first: float, lowest: float, bisections: int) -> float | None:
    """The rate to probe next, None when the search is over."""
    held = [trial.rate for trial in trials if trial.held]
    lost = [trial.rate for trial in trials if not trial.held]
    if not trials:
        return first
    if not lost:
        doubled = 2 * max(held)
        return doubled if doubled <= LARGEST_RATE else None
    if not held:
        halved = min(lost) / 2
        return halved if halved >= lowest else None
    low, high = max(held), min(lost)
    narrow = high / low <= 2 ** (0.5**bisections) + _ROUNDING
    return None if narrow else float((low * high) ** 0.5)


def found_rate(trials: Sequence[Trial]) -> float:
    """The highest rate that held; the lowest probed when none did."""
    held = [trial.rate for trial in trials if trial.held]
    return max(held) if held else min(trial.rate for trial in trials)


def injection(p: SuperftParameters, attack: str) -> Phase:
    """Poisoned training at the plain rate, by which the evaluation injects a backdoor once more."""
    return _phase(p, f"{attack}_{POISONED}", p.injection_limit, lambda step: p.plain_rate)


def cure_steps(p: SuperftParameters) -> int:
    """Steps of a cure, and of plain fine-tuning beside it."""
    return 2 * p.half_period * (p.forget_cycles + p.recover_cycles)


def cure_rate(p: SuperftParameters, highest: float, step: int) -> float:
    """base + (top - base) * triangle(step), where top is the searched rate, then a share of it."""
    forgetting = step < 2 * p.half_period * p.forget_cycles
    top = highest if forgetting else p.recover_share * highest
    return p.base_rate + (top - p.base_rate) * triangle(step, p.half_period)


def triangle(step: int, half_period: int) -> float:
    """0 at step 0, up to 1 in a straight line over half a period, down again, and so on."""
    within = step % (2 * half_period)
    return 1 - abs(within - half_period) / half_period


def _falling(p: SuperftParameters, step: int) -> float:
    return p.training_rate * (1 - step / p.training_steps)


def _phase(p: SuperftParameters, name: str, steps: int, lr_at: LrSchedule) -> Phase:
    sgd = OptimizerSpec(kind="sgd", momentum=0.9, weight_decay=5e-4, clip_norm=p.clip_norm)
    return Phase(
        name=name,
        steps=steps,
        batch=p.batch,
        updates=(Update(optimizer=sgd, trains=(f"{Place.of(name).network}.*",)),),
        lr_at=lr_at,
        precision=p.precision,
    )
