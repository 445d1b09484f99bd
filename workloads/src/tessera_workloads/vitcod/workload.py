"""ViTCoD as a workload: five arms, trained one after the other, judged together."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tessera_workloads.digits import CLASSES, SIDE, load_digits_split
from tessera_workloads.protocol import (
    Artefacts,
    Batch,
    Check,
    Dataset,
    FederatedView,
    Loss,
    Metrics,
    Mode,
    Phase,
    Shard,
    Split,
    Step,
    Workload,
)
from tessera_workloads.vitcod import evaluation, phases
from tessera_workloads.vitcod.data import Pictures, move
from tessera_workloads.vitcod.masks import BlockMask, polarised, prune, random_like
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
    copy_weights,
    head_grams,
    principal_heads,
    serve_by,
    set_coders,
    set_masks,
)
from tessera_workloads.vitcod.parameters import VitcodParameters

DIFFERENCE = 1e-5
SPARSITY_TOLERANCE = 0.01
PRUNING_POINTS = 1.5
TOTAL_POINTS = 2.0
FLOPS_SHARE = 0.2
LATENCY_RATIO = 0.7


class Vitcod(Workload[VitcodParameters]):
    """Pruned attention that is really left out (arXiv 2210.09573)."""

    name = "vitcod"
    version = "1"
    Parameters = VitcodParameters

    def make_data(
        self, p: VitcodParameters, *, split: Split, seed: int, shard: Shard | None = None
    ) -> Pictures:
        """Digits, drawn at the size of the parameters."""
        train, test = load_digits_split(seed)
        pictures = Pictures(train if split == "train" else test, p.image)
        return pictures if shard is None else pictures.shard(shard)

    def build_model(self, p: VitcodParameters, artefacts: Mapping[str, Artefacts]) -> Arms:
        """All arms; what is copied between them and which masks they get is in the artefacts."""
        return Arms(p)

    def phases(self, p: VitcodParameters) -> tuple[Phase, ...]:
        """See `phases`."""
        return phases.phases(p)

    def compute_artefacts(
        self, p: VitcodParameters, phase: Phase, model: nn.Module, data: Dataset, step: Step
    ) -> Artefacts:
        """After the dense phase the coders that lose least, after the auto-encoder the two masks."""
        assert isinstance(model, Arms)
        assert isinstance(data, Pictures)
        images = data.images(step.device)
        if phase.name == DENSE:
            query, key = head_grams(model.arm(DENSE), images)
            return Artefacts(tensors={"query": principal_heads(query), "key": principal_heads(key)})
        if phase.name == CODED:
            attention = average_attention(model.arm(CODED), images)
            pruned, part = prune(attention, block=p.block, columns=p.global_columns, sparsity=p.sparsity)
            masks = {SPARSE: pruned, RANDOM: random_like(pruned, step.generator)}
            return Artefacts(tensors=_as_tensors(masks), facts={"keptMass": part})
        return Artefacts()

    def apply_artefacts(self, model: nn.Module, phase: str, artefacts: Artefacts) -> nn.Module:
        """Arms start where the arm before them stopped; coders and masks come from the artefacts."""
        assert isinstance(model, Arms)
        if phase == DENSE:
            for name in (CONTINUED, CODED):
                copy_weights(model.arm(DENSE), model.arm(name))
            set_coders(model.arm(CODED), artefacts.tensors["query"], artefacts.tensors["key"])
        elif phase == CODED:
            for name in MASKED_ARMS:
                copy_weights(model.arm(CODED), model.arm(name))
                set_masks(model.arm(name), *_buffers(name, artefacts))
        return model

    def loss(self, p: VitcodParameters, model: nn.Module, batch: Batch, step: Step) -> Loss:
        """Cross-entropy of the phase's arm, and how far its coders move queries and keys."""
        logits, distance = model.get_submodule(step.phase)(batch["image"])
        entropy = F.cross_entropy(logits, batch["label"])
        return Loss(entropy + p.reconstruction * distance, {"entropy": entropy, "distance": distance})

    def evaluate(self, p: VitcodParameters, model: nn.Module, data: Dataset, device: torch.device) -> Metrics:
        """Accuracy of all arms, the savings of the pruned one, latencies, and the picture of its masks."""
        assert isinstance(model, Arms)
        assert isinstance(data, Pictures)
        return evaluation.measure(model, data, device)

    def checks(self, p: VitcodParameters, metrics: Metrics) -> list[Check]:
        """Gates on equality, sparsity, losses, operations and latency; the random mask as control."""
        m = metrics.values
        return [
            Check.at_most(
                "sparse execution equals masked dense: largest difference", m["difference"], DIFFERENCE
            ),
            Check.at_least("sparsity", m["sparsity_sparse"], p.sparsity - SPARSITY_TOLERANCE),
            Check.at_most("sparsity, upper end", m["sparsity_sparse"], p.sparsity + SPARSITY_TOLERANCE),
            Check.at_most("points lost by pruning", m["pruning_points"], PRUNING_POINTS, over="mean"),
            Check.at_most("points lost in all", m["total_points"], TOTAL_POINTS, over="mean"),
            Check.at_most("operations of the core, share of dense", m["flops_share"], FLOPS_SHARE),
            Check.at_most("operations at N=1024, share of dense", m["flops_share_n1024"], FLOPS_SHARE),
            Check.at_most("latency at N=1024, multiple of dense", m["latency_ratio_n1024"], LATENCY_RATIO),
            Check.note("points lost by a random mask", m["random_pruning_points"], kind="control"),
            Check.note("sparsity of the random mask", m["sparsity_random"], kind="control"),
            Check.note(
                "computed and masked at N=1024, multiple of dense",
                m["masked_latency_ratio_n1024"],
                kind="control",
            ),
            *(
                Check.note(f"accuracy, {said}", m[f"accuracy_{name}"])
                for name, said in _ARMS_IN_WORDS.items()
            ),
            Check.note("points lost by the auto-encoder", m["autoencoder_points"]),
            Check.note("kept entries in columns that a quarter of the queries use", m["polarised_share"]),
            Check.note("sparsity at N=1024 (synthetic)", m["sparsity_n1024"]),
            Check.note("operations of the auto-encoder, share of the dense core", m["coder_flops_share"]),
            Check.note("bytes of the core, share of dense", m["bytes_share"]),
            Check.note("bytes at N=1024, share of dense", m["bytes_share_n1024"]),
            Check.note("latency at N=256, multiple of dense", m["latency_ratio_n256"]),
            Check.note("latency of the first trained layer, multiple of dense", m["latency_ratio_trained"]),
            Check.note("latency of a whole picture, multiple of dense", m["end_to_end_ratio"]),
        ]

    def example_batch(self, p: VitcodParameters, size: int, mode: Mode, step: Step) -> Batch:
        """Noise pictures, and for training any labels; drawn small and moved, as digits are."""
        small = torch.rand((size, 1, SIDE, SIDE), generator=step.generator, device=step.device)
        image = move(small, p.image, torch.zeros((size, 4), device=step.device))
        if mode == "infer":
            return {"image": image}
        return {
            "image": image,
            "label": torch.randint(CLASSES, (size,), generator=step.generator, device=step.device),
        }

    def example_artefacts(self, p: VitcodParameters, phase: Phase) -> Artefacts:
        """Coders that keep the first half of the heads, and synthetic masks of the sparsity asked for."""
        if phase.name == DENSE:
            kept = torch.eye(p.heads)[: (p.heads + 1) // 2].expand(p.layers, -1, -1)
            return Artefacts(tensors={"query": kept, "key": kept})
        if phase.name == CODED:
            generator = torch.Generator().manual_seed(0)
            made = polarised(
                p.layers * p.heads,
                p.tokens,
                parts=p.patches // p.block,
                columns=p.global_columns,
                sparsity=p.sparsity,
                generator=generator,
            )
            blocks, columns = (
                tensor.view(p.layers, p.heads, *tensor.shape[1:]) for tensor in (made.blocks, made.columns)
            )
            pruned = BlockMask(blocks, columns, p.tokens)
            return Artefacts(tensors=_as_tensors({SPARSE: pruned, RANDOM: random_like(pruned, generator)}))
        return Artefacts()

    def build_serving(self, p: VitcodParameters, artefacts: Mapping[str, Artefacts]) -> Arms:
        """The pruned arm alone, with the attention cores that `serving` names."""
        arms = Arms(p, (SPARSE,))
        set_masks(arms.arm(SPARSE), *_buffers(SPARSE, artefacts[CODED]))
        serve_by(arms.arm(SPARSE), p.serving)
        return arms

    def federated(self, p: VitcodParameters) -> FederatedView:
        """Clients train the dense arm together; coders and masks are each client's own."""
        others = tuple(f"{name}.*" for name in ARMS if name != DENSE)
        return FederatedView(
            phase=DENSE, shared=(f"{DENSE}.*",), personal=others, buffers=("*.core.blocks", "*.core.columns")
        )


def _as_tensors(masks: Mapping[str, BlockMask]) -> dict[str, Tensor]:
    """Masks by arm as the tensors of an artefact."""
    return {
        f"{name}.{part}": tensor
        for name, mask in masks.items()
        for part, tensor in (("blocks", mask.blocks), ("columns", mask.columns))
    }


def _buffers(name: str, artefacts: Artefacts) -> tuple[Tensor, Tensor]:
    """An arm's masks out of an artefact."""
    return artefacts.tensors[f"{name}.blocks"], artefacts.tensors[f"{name}.columns"]


_ARMS_IN_WORDS = {
    DENSE: "dense",
    CONTINUED: "dense, trained on",
    CODED: "with auto-encoder",
    SPARSE: "pruned",
    "executed": "pruned, executed sparsely",
    RANDOM: "pruned at random",
}
