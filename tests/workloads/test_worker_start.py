"""What a worker's start costs."""

import subprocess
import sys


def test_a_training_does_not_import_torchs_compiler() -> None:
    """Its import would double the start-up time of every pod."""
    script = """
import sys, torch
from tessera_workloads.memory import TensorBytes
from tessera_workloads.optimizers import build_optimizer
from tessera_workloads.protocol import OptimizerSpec, Update
for kind in ("adam", "adamw", "sgd"):
    model = torch.nn.Linear(2, 2)
    before = model.weight.detach().clone()
    built = build_optimizer(model, Update(OptimizerSpec(kind, momentum=0.9)))
    built.set_lr(0.1)
    built.optimizer.zero_grad(set_to_none=True)
    with TensorBytes() as counter:
        model(torch.ones(1, 2)).sum().backward()
    assert counter.peak > 0
    built.step()
    built.optimizer.load_state_dict(built.optimizer.state_dict())
    assert not torch.equal(before, model.weight), kind
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
