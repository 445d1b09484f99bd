"""How much memory and arithmetic a training step needs, known before it runs.

Every phase's training step (loss, backward pass, the phase's optimisers) is made once on fake tensors, which
have shapes and types but no memory and no values. The tensor-byte counter that measures real runs sees the
same operators here, so the prediction is the measurement without the data. The optimisers are given their
state first, because a step is at its largest once they have it. Nothing is written by hand, and a model of
any size is traced on any machine in seconds.

Fake tensors import torch's compiler, which takes longer than torch itself: a training traces only when asked.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import flop_registry

from tessera_workloads.memory import TensorBytes
from tessera_workloads.optimizers import BuiltOptimizer
from tessera_workloads.parameters import Parameters
from tessera_workloads.protocol import Artefacts, Phase, Workload, apply_finished
from tessera_workloads.rehearsal import ExampleData, rehearse
from tessera_workloads.stepping import Stepper

P = TypeVar("P", bound=Parameters)


@dataclass(frozen=True)
class PhaseFootprint:
    """One phase's need. Bytes are those of tensors: CUDA's context and torch itself come on top."""

    phase: str
    steps: int
    batch: int
    parameters: int
    weight_bytes: int
    """Parameters and buffers."""
    optimizer_bytes: int
    activation_bytes: int
    """What a step adds at its peak: the batch, activations and gradients."""
    peak_tensor_bytes: int
    """The sum of the three above."""
    step_flops: int
    """Matrix products, convolutions and attention, forward and backward, two per multiply-add; the rest, such
    as element-wise operators and kernels that torch's counter does not know, counts as zero.
    """

    def as_json(self) -> dict[str, Any]:
        """The row that `result.json` and `describe --footprint` hold."""
        return {
            "phase": self.phase,
            "steps": self.steps,
            "batch": self.batch,
            "parameters": self.parameters,
            "weightBytes": self.weight_bytes,
            "optimizerBytes": self.optimizer_bytes,
            "activationBytes": self.activation_bytes,
            "peakTensorBytes": self.peak_tensor_bytes,
            "stepFlops": self.step_flops,
        }


def footprint(workload: Workload[P], p: P) -> list[PhaseFootprint]:
    """The footprint of every phase, as it would train on the CPU.

    Raises:
        NotOffered: when the workload has no `example_batch`.
    """
    return [trace(workload, p, phase, before) for phase, before in rehearse(workload, p)]


def trace(workload: Workload[P], p: P, phase: Phase, before: Mapping[str, Artefacts]) -> PhaseFootprint:
    """The footprint of one phase, built on what the phases before it leave."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        model = workload.build_model(p, before)
    # Outside of the mode, so that real artefacts keep values that can be read.
    model = apply_finished(workload, model, before)
    _without_values(model, fake)
    stepper = Stepper(workload, p, ExampleData(workload, p), seed=0, device=torch.device("cpu"))
    counter = _TraceCounter()
    with fake:
        optimizers = stepper.optimizers(phase, model)
        counter.include([*model.parameters(), *model.buffers()])
        weight_bytes = counter.current
        for built in optimizers:
            _give_state(built)
            counter.include(built.state_tensors())
        optimizer_bytes = counter.current - weight_bytes
        model.train()
        with counter:
            stepper.step(phase, 0, model, optimizers)
    return PhaseFootprint(
        phase=phase.name,
        steps=phase.steps,
        batch=phase.batch,
        parameters=sum(tensor.numel() for tensor in model.parameters()),
        weight_bytes=weight_bytes,
        optimizer_bytes=optimizer_bytes,
        activation_bytes=counter.peak - weight_bytes - optimizer_bytes,
        peak_tensor_bytes=counter.peak,
        step_flops=counter.flops,
    )


def _without_values(model: nn.Module, fake: FakeTensorMode) -> None:
    """Replace the real tensors that artefacts brought into the model by fake ones."""
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    held[name] = fake.from_tensor(tensor)  # type: ignore[assignment]


def _give_state(built: BuiltOptimizer) -> None:
    """Let an optimiser make its state, as its first step would, and forget the gradients."""
    for tensor in built.trained:
        tensor.grad = torch.zeros_like(tensor)
    built.set_lr(0.0)
    with _TraceCounter():
        built.step()
    built.optimizer.zero_grad(set_to_none=True)


class _TraceCounter(TensorBytes):  # type: ignore[no-untyped-call]
    """The tensor-byte counter, which counts floating-point operations as well."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        packet = func.overloadpacket  # type: ignore[attr-defined]
        if packet in _FUSED_OPTIMIZERS:
            return None
        outputs = super().__torch_dispatch__(func, types, args, kwargs)
        if formula := flop_registry.get(packet):
            self.flops += formula(*args, **(kwargs or {}), out_val=outputs)
        return outputs


_FUSED_OPTIMIZERS = {torch.ops.aten._fused_adam_, torch.ops.aten._fused_adamw_, torch.ops.aten._fused_sgd_}
"""They change weights in place and make no tensor; torch has no fake form of the last one."""
