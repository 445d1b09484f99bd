"""How much accuracy the pruning costs, and how much work, traffic and time it really saves.

Accuracy is compared between the arms of one run, on pictures that none of them has seen. Savings are counted
from the shapes that the gather core multiplies, padding included.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from tessera_workloads.protocol import Metrics
from tessera_workloads.vitcod.cores import GatherCore
from tessera_workloads.vitcod.data import Pictures
from tessera_workloads.vitcod.latency import (
    Timed,
    largest_difference,
    synthetic_mask,
    time_core,
    time_in_turns,
)
from tessera_workloads.vitcod.masks import BlockMask
from tessera_workloads.vitcod.model import (
    ARMS,
    CODED,
    CONTINUED,
    DENSE,
    MASKED_ARMS,
    RANDOM,
    SPARSE,
    Arms,
    average_attention,
    masked_cores,
    serve_by,
)
from tessera_workloads.vitcod.picture import draw_masks

LARGE, MEDIUM = "n1024", "n256"
TRAINED = "trained"
_HEAD_WIDTH = 64


def measure(model: Arms, data: Pictures, device: torch.device) -> Metrics:
    """Accuracy of all arms, the savings of the pruned one, latencies, and the picture of its masks."""
    accuracies = {name: accuracy(model.arm(name), data, device) for name in ARMS}
    executed = execute(model, data, device)
    masks = {name: [core.mask for core in masked_cores(model.arm(name))] for name in MASKED_ARMS}
    first = next(model.arm(SPARSE).layers()).attention
    cores = time_cores(masks[SPARSE][0], first.head_width, device)
    seen = average_attention(model.arm(CODED), data.images(device))
    kept = torch.stack([mask.expand() for mask in masks[SPARSE]])
    values = {
        **{f"accuracy_{name}": value for name, value in accuracies.items()},
        "accuracy_executed": executed.accuracy,
        **points_lost(accuracies),
        "difference": max(executed.difference, *(one.difference for one in cores.values())),
        **{f"sparsity_{name}": fmean([mask.sparsity() for mask in found]) for name, found in masks.items()},
        "polarised_share": fmean([mask.polarised_share() for mask in masks[SPARSE]]),
        "flops_share": executed.flops_share,
        "coder_flops_share": coder_flops_share(first.heads, masks[SPARSE][0].tokens),
        "bytes_share": executed.bytes_share,
        **_core_values(cores),
        "end_to_end_ratio": executed.latency_ratio,
    }
    return Metrics(
        values=values,
        tables={"cores": [_core_row(name, one) for name, one in cores.items()]},
        files={"masks.png": draw_masks(seen, kept)},
    )


def accuracy(arm: torch.nn.Module, data: Pictures, device: torch.device) -> float:
    """Share of the pictures that an arm classifies rightly."""
    right = sum(
        int((arm(images).logits.argmax(1) == labels).sum()) for images, labels in data.in_order(device)
    )
    return right / len(data.digits)


def points_lost(accuracies: Mapping[str, float]) -> dict[str, float]:
    """Points of accuracy that each step costs: the auto-encoder, the mask, both, and a random mask."""
    pairs = {
        "autoencoder": (CONTINUED, CODED),
        "pruning": (CODED, SPARSE),
        "total": (CONTINUED, SPARSE),
        "random_pruning": (CODED, RANDOM),
    }
    return {
        f"{name}_points": 100 * (accuracies[before] - accuracies[after])
        for name, (before, after) in pairs.items()
    }


@dataclass(frozen=True)
class Executed:
    """The pruned arm run by gathering cores: its accuracy; its largest difference from the masked dense form,
    over the outputs of all cores and the logits; its cores' operations and bytes as shares of the dense ones;
    one picture's latency as a multiple of the dense arm's.
    """

    accuracy: float
    difference: float
    flops_share: float
    bytes_share: float
    latency_ratio: float


def execute(model: Arms, data: Pictures, device: torch.device) -> Executed:
    """Run the pruned arm on all pictures with gathering cores, beside its masked dense form."""
    masked = model.arm(SPARSE)
    sparse = serve_by(deepcopy(masked), "gather").to(device)
    cores = [block.attention.core for block in sparse.layers()]
    gathering = [core for core in cores if isinstance(core, GatherCore)]
    head_width = next(masked.layers()).attention.head_width
    differences: list[float] = []
    for images in data.images(device):
        differences.append(largest_difference(sparse(images).logits, masked(images).logits))
        tokens = masked.embed(images)
        for block, core in zip(masked.layers(), gathering, strict=True):
            query, key, value, _ = block.attention.core_inputs(block.attention_norm(tokens))
            reference: Tensor = block.attention.core(query, key, value)
            differences.append(largest_difference(core(query, key, value), reference))
            tokens, _ = block(tokens)
    one = next(iter(data.images(device)))[:1]
    seconds = time_in_turns({"dense": lambda: model.arm(DENSE)(one), "sparse": lambda: sparse(one)}, device)
    return Executed(
        accuracy=accuracy(sparse, data, device),
        difference=max(differences),
        flops_share=fmean([core.flops_share for core in gathering]),
        bytes_share=fmean([core.bytes_share(head_width) for core in gathering]),
        latency_ratio=seconds["sparse"] / seconds["dense"],
    )


def time_cores(trained: BlockMask, head_width: int, device: torch.device) -> dict[str, Timed]:
    """Latencies of the first layer's core as trained, and of larger synthetic ones."""
    return {
        TRAINED: time_core(trained, head_width, device),
        MEDIUM: time_core(synthetic_mask(256, parts=16, columns=4), _HEAD_WIDTH, device),
        LARGE: time_core(synthetic_mask(1024, parts=32, columns=16), _HEAD_WIDTH, device),
    }


def coder_flops_share(heads: int, tokens: int) -> float:
    """Operations of both coders as a share of the dense core's.

    Encoding and decoding Q and K takes 8 H ceil(H/2) N d operations, the dense core 4 H N^2 d.
    """
    return 2 * ((heads + 1) // 2) / tokens


def _core_values(cores: Mapping[str, Timed]) -> dict[str, float]:
    values: dict[str, float] = {}
    for name, one in cores.items():
        values[f"latency_ratio_{name}"] = one.ratio("gather")
        values[f"masked_latency_ratio_{name}"] = one.ratio("masked")
        if name != TRAINED:
            values[f"sparsity_{name}"] = one.mask.sparsity()
            values[f"flops_share_{name}"] = one.gather.flops_share
            values[f"bytes_share_{name}"] = one.gather.bytes_share(one.head_width)
    return values


def _core_row(name: str, one: Timed) -> dict[str, Any]:
    return {
        "core": name,
        "mask": "first layer, as trained" if name == TRAINED else "synthetic, polarised",
        "tokens": one.mask.tokens,
        "heads": one.gather.heads,
        "head_width": one.head_width,
        "block": one.mask.block,
        "sparsity": one.mask.sparsity(),
        "flops_share": one.gather.flops_share,
        "bytes_share": one.gather.bytes_share(one.head_width),
        **{f"{form}_milliseconds": 1000 * seconds for form, seconds in one.seconds.items()},
    }
