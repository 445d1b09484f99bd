"""What the protocol promises of every workload, so that a plan or a benchmark needs no special case."""

from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
from tessera_workloads.bench import Repetitions, bench
from tessera_workloads.device import Place
from tessera_workloads.identity import Request
from tessera_workloads.parameters import Parameters
from tessera_workloads.protocol import Workload, apply_finished
from tessera_workloads.registry import BUILT_IN, find_parameters, find_workload
from tessera_workloads.rehearsal import finished_artefacts, rehearse
from torch import nn

every_workload = pytest.mark.parametrize("name", sorted(BUILT_IN))


def parsed(name: str, size: str = "ci") -> tuple[Workload[Parameters], Parameters]:
    return find_workload(name), find_parameters(name).parse({}, size=size)


def finished(name: str, size: str = "ci") -> nn.Module:
    """The trained model's structure, on the meta device."""
    workload, p = parsed(name, size)
    left = finished_artefacts(workload, p)
    with torch.device("meta"):
        model = workload.build_model(p, left)
    return apply_finished(workload, model, left)


@every_workload
def test_the_full_size_is_built_without_memory(name: str) -> None:
    workload, p = parsed(name, "full")
    with torch.device("meta"):
        model = workload.build_model(p, {})
    assert all(tensor.is_meta for tensor in model.parameters())


@every_workload
def test_a_federated_view_names_every_parameter_once_and_every_buffer(name: str) -> None:
    workload, p = parsed(name)
    view = workload.federated(p)
    if view is None:
        return
    phases = {phase.name: before for phase, before in rehearse(workload, p)}
    left = phases[view.phase]
    model = apply_finished(workload, workload.build_model(p, left), left)
    for parameter, _ in model.named_parameters():
        matches = [
            part
            for part, patterns in (("shared", view.shared), ("personal", view.personal))
            if any(fnmatchcase(parameter, pattern) for pattern in patterns)
        ]
        assert len(matches) == 1, (parameter, matches)
    saved = set(model.state_dict()) - {parameter for parameter, _ in model.named_parameters()}
    for buffer in saved:
        assert any(fnmatchcase(buffer, pattern) for pattern in view.buffers), buffer


@every_workload
def test_the_serving_model_takes_its_values_from_the_trained_one_by_name(name: str) -> None:
    workload, p = parsed(name)
    serving = workload.build_serving(p, finished_artefacts(workload, p))
    trained = finished(name).state_dict()
    for key, tensor in serving.state_dict().items():
        assert trained[key].shape == tensor.shape, key


@every_workload
def test_requests_and_training_steps_are_timed_from_example_batches_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload, p = parsed(name)

    def no_data(*_: object, **__: object) -> None:
        raise AssertionError("the data set was asked for")

    monkeypatch.setattr(type(workload), "make_data", no_data)
    timed = bench(
        Request(name, workload, p, "ci", seed=0, out=tmp_path, checkpoint_every=1),
        place=Place(device=torch.device("cpu"), slice=None, sentence=""),
        threads=1,
        batch=2,
        repetitions=Repetitions(warm_up=0, measured=1),
        preempted=lambda: False,
        report=lambda line: None,
    )
    request, step = timed.metrics.tables["calls"]
    assert (request["what"], step["what"]) == ("infer", "train")
    assert request["items"] >= 2
    assert step["phase"] in [phase.name for phase, _ in rehearse(workload, p)]
    assert min(request["p50_seconds"], step["p50_seconds"]) > 0
