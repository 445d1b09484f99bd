"""What a worker's start costs, and how many threads it starts."""

import os
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


def test_a_worker_without_a_given_number_has_as_many_threads_as_cpus_that_it_may_use() -> None:
    """Counted by the kernel after numpy, a convolution and a backward pass, on one CPU of however many."""
    script = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from tessera_workloads.threads import confine
threads = confine(os.environ)
import numpy, torch
torch.set_num_threads(threads)
numpy.ones((256, 256)) @ numpy.ones((256, 256))
picture = torch.ones(8, 3, 128, 128, requires_grad=True)
torch.nn.Conv2d(3, 16, 3)(picture).square().sum().backward()
print(threads, torch.get_num_threads(), len(os.listdir("/proc/self/task")))
"""
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    ended = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == ["1", "1", "1"]
