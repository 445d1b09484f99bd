"""Super-fine-tuning as a workload: what phases leave, what is measured, what is judged."""

import pytest
import torch
from tessera_workloads.protocol import Artefacts, Metrics
from tessera_workloads.stepping import Stepper, initialise
from tessera_workloads.superft import evaluation
from tessera_workloads.superft.data import JudgedDigits
from tessera_workloads.superft.evaluation import area_under_curve, attack_success, reinjection_steps
from tessera_workloads.superft.model import DigitNet, Networks
from tessera_workloads.superft.parameters import SuperftParameters
from tessera_workloads.superft.phases import ATTACKS, NETWORKS
from tessera_workloads.superft.workload import Superft
from torch import Tensor, nn
from training_step import some_step

CPU = torch.device("cpu")
P = SuperftParameters(width=8)


def networks() -> Networks:
    """Every network another one."""
    model = Superft().build_model(P, {})
    initialise(Superft(), model, seed=0)
    return model


def digits() -> JudgedDigits:
    found = Superft().make_data(P, split="test", seed=0)
    assert isinstance(found, JudgedDigits)
    return found


def equal(model: Networks, one: str, other: str) -> bool:
    pairs = zip(model[one].parameters(), model[other].parameters(), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)


class Always(nn.Module):
    """Answers every picture with the same digit."""

    def __init__(self, digit: int) -> None:
        super().__init__()
        self.digit = digit

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.one_hot(torch.full((len(images),), self.digit), 10).float()


def test_the_recorded_classifier_has_as_many_parameters_as_its_layers_say() -> None:
    # Kernels of 9 x (1x32 + 32x64 + 64x64), two norm numbers for 32 + 64 + 64 channels, 256 x 10 + 10.
    assert sum(tensor.numel() for tensor in DigitNet(32).parameters()) == 55_584 + 320 + 2570


def test_after_the_poisoning_its_cures_are_copies_and_no_other_network_changes() -> None:
    model, untouched = networks(), networks()
    Superft().apply_artefacts(model, "badnets_poisoned", Artefacts())
    copies = {"badnets_cured", "badnets_few", "badnets_plain"}
    for name in NETWORKS:
        assert equal(model, name, "badnets_poisoned") == (name in {*copies, "badnets_poisoned"})
        if name not in copies:
            assert all(map(torch.equal, model[name].parameters(), untouched[name].parameters()))


def test_a_probe_is_undone_and_its_cure_is_not() -> None:
    model = networks()
    Superft().apply_artefacts(model, "warp_few", Artefacts(facts={"rate": 0.8}))
    assert not equal(model, "warp_few", "warp_poisoned")
    assert model["warp_few"].get_buffer("found_rate") == pytest.approx(0.8)
    Superft().apply_artefacts(model, "warp_few.probe1", Artefacts(facts={"rate": 0.1, "accuracy": 1.0}))
    assert equal(model, "warp_few", "warp_poisoned")
    assert not equal(model, "warp_cured", "warp_poisoned")


def test_a_probe_is_judged_by_held_out_clean_pictures() -> None:
    workload, data, model = Superft(), digits(), networks()
    model["badnets_cured"] = Always(3)
    phase = workload.next_phase(P, {"clean_scratch": {}, "badnets_poisoned": {"cured": 1.0, "few": 1.0}})
    assert phase is not None
    assert phase.name == "badnets_cured.probe1"
    facts = workload.compute_artefacts(P, phase, model, data.training, some_step(phase=phase.name)).facts
    held_out = data.training.clean.labels[1000:]
    assert facts == {"rate": 0.1, "accuracy": pytest.approx(float((held_out == 3).float().mean()))}


def test_the_loss_is_the_cross_entropy_of_the_phase_s_own_network_alone() -> None:
    workload, model = Superft(), networks()
    step = some_step(phase="blended_few.probe2")
    batch = workload.example_batch(P, 4, "train", step)
    total = workload.loss(P, model, batch, step).total
    logits = model["blended_few"](batch["images"])
    chosen = logits.log_softmax(1)[torch.arange(4), batch["labels"]]
    assert total.item() == pytest.approx(-chosen.mean().item(), rel=1e-5)
    total.backward()  # type: ignore[no-untyped-call]
    trained = {name.split(".")[0] for name, tensor in model.named_parameters() if tensor.grad is not None}
    assert trained == {"blended_few"}


def test_the_area_under_the_curve_counts_pairs_and_half_the_ties() -> None:
    positive, negative = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([2.0, 0.0, 5.0, 2.0])
    pairs = [(a > b) + 0.5 * (a == b) for a in positive for b in negative]
    assert area_under_curve(positive, negative) == pytest.approx(float(sum(pairs)) / 12)
    assert area_under_curve(negative + 10, negative) == 1
    assert area_under_curve(negative, negative) == 0.5


def test_attack_success_counts_the_answers_that_are_the_target() -> None:
    marked = digits().marked("badnets")
    assert attack_success(Always(0), marked) == 1
    assert attack_success(Always(7), marked) == 0


def test_a_member_is_told_from_a_stranger_by_its_loss() -> None:
    data, network = digits(), DigitNet(8)
    assert evaluation.membership_auc(network, data, "cured", CPU) == pytest.approx(0.5, abs=0.1)

    class Remembers(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            known = {image.numpy().tobytes(): label for image, label in zip(*parts, strict=True)}
            right = torch.tensor([known.get(image.numpy().tobytes(), 0) for image in images])
            return nn.functional.one_hot(right, 10).float()

    parts = (data.training.clean.images, data.training.clean.labels.tolist())
    # A stranger gets the answer 0, which is right for a tenth of them.
    right = float((data.test.labels == 0).float().mean())
    assert evaluation.membership_auc(Remembers(), data, "cured", CPU) == pytest.approx(
        1 - right / 2, abs=0.01
    )


def test_a_backdoor_that_is_there_needs_no_steps_and_a_new_one_some() -> None:
    data, p = digits(), SuperftParameters(width=8, batch=32, plain_rate=0.1)
    stepper, marked = Stepper(Superft(), p, data.training, seed=0, device=CPU), data.marked("badnets")
    network = DigitNet(8)
    initialise(Superft(), network, seed=0)
    network.classifier.bias.data[0] = 100
    assert reinjection_steps(stepper, network, "badnets", marked) == 0
    network.classifier.bias.data[0] = 0
    before = [tensor.clone() for tensor in network.parameters()]
    assert 0 < reinjection_steps(stepper, network, "badnets", marked) < p.injection_limit
    assert all(map(torch.equal, before, network.parameters()))


def judged(**changed: float) -> dict[tuple[str, str], bool]:
    """Which checks pass, by kind and name, when every attack has the same good figures but for `changed`."""
    good = {
        "poisoned_attack_success": 0.95,
        "cured_attack_success": 0.05,
        "cured_lost_points": 1.0,
        "plain_attack_success": 0.9,
    }
    figures = ("attack_success", "lost_points", "membership_auc", "reinjection_steps", "found_rate")
    values = dict.fromkeys(
        (
            f"{network}_{figure}"
            for network in ("poisoned", "cured", "few", "plain", "scratch")
            for figure in figures
        ),
        0.0,
    )
    values |= good | changed
    metrics = Metrics({f"{attack}_{name}": value for attack in ATTACKS for name, value in values.items()})
    return {(check.kind, check.name): check.passed for check in Superft().checks(P, metrics)}


def test_the_gates_are_those_of_badnets_and_blended_and_the_warp_is_reported() -> None:
    passed = judged()
    assert all(passed.values())
    gates = {name for kind, name in passed if kind == "gate"}
    assert gates == {
        f"{attack}: {what}"
        for attack in ("badnets", "blended")
        for what in (
            "attack success before",
            "attack success, cured",
            "points of accuracy lost, cured",
        )
    }
    assert ("report", "warp: attack success, cured") in passed
    assert ("control", "badnets: attack success, plain fine-tuning") in passed


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"poisoned_attack_success": 0.949}, "attack success before"),
        ({"cured_attack_success": 0.051}, "attack success, cured"),
        ({"cured_lost_points": 1.01}, "points of accuracy lost, cured"),
    ],
)
def test_a_figure_beyond_its_bound_fails_its_gate_alone(changed: dict[str, float], name: str) -> None:
    failed = {(kind, said) for (kind, said), passed in judged(**changed).items() if not passed}
    assert failed == {(("report" if a == "warp" else "gate"), f"{a}: {name}") for a in ATTACKS}
