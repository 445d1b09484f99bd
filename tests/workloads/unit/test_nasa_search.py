"""The supernet, what each phase trains and sees, and what is handed on, without a training."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

import pytest
import torch
from tessera_workloads.digits import Digits
from tessera_workloads.errors import NotOffered
from tessera_workloads.nasa.data import NoisyDigits
from tessera_workloads.nasa.model import Network, Search, Supernet
from tessera_workloads.nasa.parameters import NasaParameters
from tessera_workloads.nasa.phases import PRICES, make_phases
from tessera_workloads.nasa.space import EnergyTable, make_space
from tessera_workloads.nasa.workload import Nasa
from tessera_workloads.protocol import Artefacts, Metrics, Shard
from tessera_workloads.stepping import initialise
from training_step import some_step

TINY = NasaParameters(channels=4, batch=3, pretrain_steps=2, search_steps=2, retrain_steps=2, retrains=2)
SPACE, TABLE = make_space(TINY), EnergyTable.of(TINY)


def run_without_training(p: NasaParameters) -> tuple[Search, dict[str, Artefacts]]:
    """The model after all phases, as the runner makes it on a resume."""
    workload, left = Nasa(), {}
    model: torch.nn.Module = workload.build_model(p, {})
    for phase in workload.phases(p):
        left[phase.name] = workload.example_artefacts(p, phase)
        model = workload.apply_artefacts(model, phase.name, left[phase.name])
    assert isinstance(model, Search)
    return model, left


def test_under_closed_gates_a_supernet_is_the_network_that_it_derives() -> None:
    supernet = Supernet(SPACE, TABLE)
    initialise(Nasa(), supernet, seed=0)
    with torch.no_grad():
        supernet.gates[torch.arange(4), torch.tensor([0, 3, 1, 2])] = 100.0
    derived = supernet.derive()
    assert [one.operation for one in derived] == ["conv", "skip", "shift", "adder"]
    network = Network(SPACE, [[one] for one in derived])
    missing = network.load_state_dict(supernet.state_dict(), strict=False).missing_keys
    assert missing == []
    images, noise = torch.rand(2, 1, 8, 8), torch.zeros(2, 4, 4)
    chosen = supernet.choose(images, noise, allowed=[0, 1, 2, 3], temperature=1.0)
    assert torch.allclose(chosen, network(images), atol=1e-5)


def test_the_expected_cost_of_open_gates_is_the_mean_of_the_candidates() -> None:
    supernet = Supernet(SPACE, TABLE)
    initialise(Nasa(), supernet, seed=0)
    uniform = sum(sum(row) / 4 for row in TABLE.shares(SPACE))
    assert supernet.expected_cost().item() == pytest.approx(uniform)


def test_a_skipped_cell_keeps_its_input_or_pools_it() -> None:
    network = Network(SPACE, [[one] for one in SPACE.uniform("skip")])
    features = torch.rand(1, 4, 8, 8)
    assert torch.equal(network.cells[0](features), features)
    assert torch.equal(network.cells[1](features), torch.nn.functional.avg_pool2d(features, 2))


def test_every_stage_trains_its_own_operations() -> None:
    names = [name for name, _ in Nasa().build_model(TINY, {}).named_parameters()]

    def trained(phase: str) -> set[str]:
        updates = next(one for one in make_phases(TINY) if one.name == phase).updates
        return {name for name in names if any(fnmatchcase(name, match) for match in updates[0].trains)}

    assert not any("shift" in name or "adder" in name or "joint" in name for name in trained("pretrain-conv"))
    assert any(".stem." in name for name in trained("pretrain-conv"))
    free = trained("pretrain-free")
    assert not any(".conv_" in name or ".stem" in name or "joint" in name for name in free)
    assert any(".shift_" in name for name in free)
    assert any(".adder_" in name for name in free)
    mixed = trained("pretrain-mixed")
    assert mixed == {name for name in names if ".progressive." in name and not name.endswith(".gates")}
    assert {name.replace("progressive", "joint") for name in mixed} == trained("pretrain-joint")


def test_gates_are_judged_on_pictures_that_the_weights_do_not_see() -> None:
    digits = Digits(torch.zeros(10, 1, 8, 8), torch.arange(10))
    data = NoisyDigits(digits, SPACE)
    seen = {
        (phase, update): set(data.batch(200, some_step(phase=phase, update=update))["labels"].tolist())
        for phase, update in (
            ("search", "weights"),
            ("search", "gates"),
            ("pretrain-mixed", "weights"),
            ("retrain", "weights"),
        )
    }
    assert seen["search", "weights"] == seen["pretrain-mixed", "weights"] == set(range(5))
    assert seen["search", "gates"] == set(range(5, 10))
    assert seen["retrain", "weights"] == set(range(10))
    assert "gate_noise" not in data.batch(2, some_step(phase="retrain"))


def test_clients_have_stretches_of_the_digits() -> None:
    digits = Digits(torch.zeros(10, 1, 8, 8), torch.arange(10))
    data = NoisyDigits(digits, SPACE)
    parts = [data.shard(Shard(index, 3)).digits.labels.tolist() for index in range(3)]
    assert [label for part in parts for label in part] == list(range(10))
    assert [len(part) for part in parts] == [3, 3, 4]
    with pytest.raises(NotOffered, match="scheme iid, not by 'labels:2'"):
        data.shard(Shard(0, 3, "labels:2"))


def test_searches_differ_by_their_price_alone() -> None:
    model = Nasa().build_model(TINY, {})
    initialise(Nasa(), model, seed=0)
    assert isinstance(model, Search)
    model.branch(dict.fromkeys(PRICES, "progressive"))
    batch = Nasa().example_batch(TINY, 3, "train", some_step(phase="search"))
    parts = Nasa().loss(TINY, model, batch, some_step(phase="search")).parts
    cost = model.supernet("searched").expected_cost().item()
    assert parts["price"].item() == pytest.approx(TINY.cost_weight * cost * sum(PRICES.values()), rel=1e-5)
    one = Search(SPACE, TABLE, ["progressive"])
    one.supernets["progressive"].load_state_dict(model.supernet("price_3").state_dict())
    alone = Nasa().loss(TINY, one, batch, some_step(phase="search")).parts["cross_entropy"]
    assert parts["cross_entropy"].item() == pytest.approx(5 * alone.item(), rel=1e-5)


def test_the_retraining_starts_from_weights_that_depend_on_the_facts_alone() -> None:
    model, left = run_without_training(TINY)
    again, _ = run_without_training(TINY)
    for (name, first), (_, second) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(first, second), name
    one_training, another = (dict(one.named_parameters()) for one in model.trained("searched"))
    assert not torch.equal(one_training["head.weight"], another["head.weight"])
    facts = left["search"].facts
    assert set(facts["architectures"]) == {
        *PRICES,
        "joint",
        *(f"all_{kind}" for kind in ("conv", "shift", "adder", "skip")),
        *(f"random_{index}" for index in range(5)),
    }


def test_what_serves_is_the_searched_network_by_the_trained_models_names() -> None:
    model, left = run_without_training(TINY)
    serving = Nasa().build_serving(TINY, left)
    state = model.state_dict()
    serving.load_state_dict({name: state[name] for name in serving.state_dict()})
    images = Nasa().example_batch(TINY, 2, "infer", some_step(phase="infer"))["images"]
    assert torch.equal(serving(images), model(images))


def test_without_comparisons_one_search_and_its_baseline_remain() -> None:
    p = NasaParameters(channels=4, comparisons=False, retrains=1)
    model, _ = run_without_training(p)
    assert set(model.architectures) == {"searched", "all_conv"}
    assert next(phase.name for phase in make_phases(p)) == "pretrain-conv"


@pytest.mark.parametrize("lost", [1.4, 1.6])
def test_more_than_one_and_a_half_points_lost_fail_the_gate(lost: float) -> None:
    values: Mapping[str, float] = {
        "gradient_error_shift": 0.0,
        "gradient_error_adder": 0.0,
        "accuracy_all_conv": 0.95,
        "cost_all_conv": 1.0,
        "accuracy_searched": 0.95 - lost / 100,
        "cost_searched": 0.2,
    }
    gates = [check for check in Nasa().checks(TINY, Metrics(values)) if check.kind == "gate"]
    assert [check.name for check in gates if not check.passed] == (
        ["searched: accuracy lost to all-convolution, points"] if lost > 1.5 else []
    )
