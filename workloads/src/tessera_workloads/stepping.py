"""One training step: the same for the run that trains, the trace that foresees its memory, and the benchmark.

A step makes one optimiser step per update of its phase, each over its micro-batches. Where a batch comes from
(the data set, or the workload's example) and whether tensors hold values makes no difference here.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import nn

from tessera_workloads.optimizers import BuiltOptimizer, build_optimizer
from tessera_workloads.parameters import Parameters
from tessera_workloads.protocol import Batches, Phase, Step, Workload
from tessera_workloads.randomness import generator_at

P = TypeVar("P", bound=Parameters)


@dataclass(frozen=True)
class Stepper(Generic[P]):
    """Makes training steps of one configuration of a workload."""

    workload: Workload[P]
    parameters: P
    data: Batches
    seed: int
    device: torch.device

    def optimizers(self, phase: Phase, model: nn.Module) -> list[BuiltOptimizer]:
        """The optimisers of a phase. With a single one, the parameters that it does not train are frozen."""
        built = [build_optimizer(model, update) for update in phase.updates]
        if len(built) == 1:
            _train_only(model, built[0])
        return built

    def step(
        self, phase: Phase, step: int, model: nn.Module, optimizers: list[BuiltOptimizer]
    ) -> torch.Tensor:
        """One optimiser step per update; returns the loss of the last one, summed over its micro-batches."""
        lr = phase.lr_at(step)
        autocast = torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=phase.precision == "bf16")
        seen = torch.zeros((), device=self.device)
        for built in optimizers:
            if len(optimizers) > 1:
                _train_only(model, built)
            built.set_lr(lr)
            built.optimizer.zero_grad(set_to_none=True)
            micro_batches = built.update.optimizer.accumulation
            seen = torch.zeros((), device=self.device)
            for micro in range(micro_batches):
                at = self.place(phase.name, step, built.update.name, micro)
                batch = self.data.batch(phase.batch, at)
                with torch.no_grad():
                    batch = self.workload.prepare(model, batch, at)
                with autocast:
                    loss = self.workload.loss(self.parameters, model, batch, at).total / micro_batches
                loss.backward()  # type: ignore[no-untyped-call]
                seen += loss.detach()
            built.step()
        return seen

    def place(self, phase: str, step: int, update: str, micro: int) -> Step:
        """The place of a micro-batch in the run, with its own generator."""
        generator = generator_at(self.device, self.seed, phase, step, update, micro)
        return Step(
            phase=phase, step=step, update=update, micro_batch=micro, generator=generator, device=self.device
        )


def initialise(workload: Workload[P], model: nn.Module, seed: int) -> None:
    """Give every parameter of a model on the CPU its first value, which depends on the seed and its name."""
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            workload.init_parameter(name, tensor, generator_at(torch.device("cpu"), seed, "init", name))


def _train_only(model: nn.Module, built: BuiltOptimizer) -> None:
    trained = {id(tensor) for tensor in built.trained}
    for tensor in model.parameters():
        tensor.requires_grad_(id(tensor) in trained)
