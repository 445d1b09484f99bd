"""How long an attention core takes, against torch's own unmasked attention.

All forms are called in turns, so that a disturbance of the machine hits all of them, and the medians are
compared. At size ci no model has 1024 tokens: the larger masks are synthetic (`masks.polarised`), and the
tables say so.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from tessera_workloads.randomness import generator_at
from tessera_workloads.timing import seconds_of
from tessera_workloads.vitcod.cores import DenseCore, GatherCore, MaskedCore
from tessera_workloads.vitcod.masks import BlockMask, polarised

ROUNDS, WARM_UP = 31, 3
SPARSITY = 0.9


@dataclass(frozen=True)
class Timed:
    """One core: median seconds by form, and how far the gather core's result is from the masked one."""

    mask: BlockMask
    gather: GatherCore
    head_width: int
    seconds: Mapping[str, float]
    difference: float

    def ratio(self, form: str) -> float:
        """Median latency as a multiple of the dense one."""
        return self.seconds[form] / self.seconds["dense"]


def synthetic_mask(tokens: int, *, parts: int, columns: int) -> BlockMask:
    """A mask of 4 heads with one tenth kept, always the same for the same shape."""
    generator = generator_at(torch.device("cpu"), 0, "vitcod", "core", tokens)
    return polarised(4, tokens, parts=parts, columns=columns, sparsity=SPARSITY, generator=generator)


def time_core(mask: BlockMask, head_width: int, device: torch.device) -> Timed:
    """Time the forms of one core on random Q, K, V of one picture."""
    heads, tokens = mask.blocks.shape[0], mask.tokens
    generator = generator_at(device, 0, "vitcod", "tensors", tokens)
    tensors = torch.randn((3, 1, heads, tokens, head_width), generator=generator, device=device).unbind()
    gather = GatherCore(mask).to(device)
    masked = MaskedCore(heads, tokens=tokens, parts=mask.blocks.shape[-1], columns=mask.columns.shape[-1])
    masked.load_state_dict({"blocks": mask.blocks, "columns": mask.columns})
    forms: dict[str, nn.Module] = {"dense": DenseCore(), "gather": gather, "masked": masked.to(device)}
    return Timed(
        mask=mask,
        gather=gather,
        head_width=head_width,
        seconds=time_in_turns({name: partial(form, *tensors) for name, form in forms.items()}, device),
        difference=largest_difference(forms["gather"](*tensors), forms["masked"](*tensors)),
    )


def time_in_turns(calls: Mapping[str, Callable[[], object]], device: torch.device) -> dict[str, float]:
    """Median seconds of each call; one round makes every call once."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(WARM_UP + ROUNDS):
        for name, call in calls.items():
            seconds[name].append(seconds_of(call, device))
    return {name: median(found[WARM_UP:]) for name, found in seconds.items()}


def largest_difference(one: Tensor, other: Tensor) -> float:
    """The largest absolute difference of two tensors."""
    return float((one - other).detach().abs().max())
