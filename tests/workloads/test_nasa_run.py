"""NASA, trained, stopped in every phase and evaluated, at its smallest."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tessera_workloads.checkpoint import CheckpointStore, weights_hash
from tessera_workloads.errors import Preempted
from tessera_workloads.nasa.operators import NegativeDistance, PowerOfTwo
from tessera_workloads.nasa.parameters import NasaParameters
from tessera_workloads.nasa.phases import PRICES
from tessera_workloads.nasa.workload import Nasa
from tessera_workloads.progress import Progress
from tessera_workloads.training import Trainer

SETTINGS = {
    "channels": 4,
    "batch": 4,
    "pretrain_steps": 2,
    "search_steps": 3,
    "retrain_steps": 2,
    "retrains": 2,
}
STEPS = 3 * 2 + 3 * 2 + 3 + 2
"""Joint pretraining as long as its three stages, the stages, the search, the retraining."""


@pytest.mark.timeout(300)
def test_a_run_stopped_in_every_phase_ends_with_the_same_weights_and_a_whole_result(
    tmp_path: Path, start_worker: Callable[..., Any]
) -> None:
    out = tmp_path / "out"
    settings = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    worker = start_worker("train", "nasa", *settings, "--seed", "5", "--out", str(out))
    code, termination = worker.finish()
    result = json.loads((out / "result.json").read_text())
    assert code in (0, 3), termination  # a run this short need not pass the gates
    gates = {check["name"]: check["passed"] for check in result["checks"] if check["kind"] == "gate"}
    assert len(gates) == 5
    assert all(passed for name, passed in gates.items() if "gradient" in name)
    networks = {row["network"] for row in result["tables"]["networks"]}
    assert networks >= {*PRICES, "joint", "all_conv", "all_shift", "all_adder", "all_skip", "random_4"}
    assert (out / "pareto.png").read_bytes().startswith(b"\x89PNG")

    assert _stopped_every_other_step(tmp_path / "stopped") == result["weightsHash"]


def _stopped_every_other_step(out: Path) -> str:
    """The final weights of a run that was stopped again and again, each time before its third step."""
    workload, p = Nasa(), NasaParameters(**SETTINGS)  # type: ignore[arg-type]
    asked = iter(range(10_000))
    trainer = Trainer(
        workload=workload,
        parameters=p,
        data=workload.make_data(p, split="train", seed=5),
        seed=5,
        device=torch.device("cpu"),
        threads=1,
        configuration={},
        store=CheckpointStore(out, "0" * 64),
        checkpoint_every=100,
        progress=Progress(workload="nasa"),
        preempted=lambda: next(asked) % 3 == 2,
        report=lambda line: None,
    )
    state = trainer.start()
    for stops in range(STEPS):
        try:
            state = trainer.train(state)
        except Preempted:
            checkpoint = trainer.store.load_newest(report=pytest.fail)
            assert checkpoint is not None
            assert checkpoint.ordinal == 2 * (stops + 1)
            state = trainer.restore(checkpoint)
    assert state.ordinal == STEPS
    return weights_hash(state.model.state_dict())


def test_shift_and_adder_work_under_transforms_of_functions() -> None:
    """`torch.func.grad` refuses the older form of autograd functions. It imports torch's compiler, which is
    why this is not among the unit tests.
    """
    patches, weight = torch.rand(2, 1, 4, 3), torch.rand(1, 3, 4)
    for_weight = torch.func.grad(lambda w: NegativeDistance.apply(patches, w).sum())(weight)
    assert for_weight.shape == weight.shape
    for_exponent = torch.func.grad(lambda e: PowerOfTwo.apply(weight, e).sum())(weight - 3)
    assert torch.allclose(for_exponent, math.log(2) * 2 ** (weight - 3).round())
