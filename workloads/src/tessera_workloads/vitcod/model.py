"""A small vision transformer whose heads can be squeezed and whose attention core can be exchanged."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tessera_workloads.digits import CLASSES
from tessera_workloads.vitcod.cores import DenseCore, GatherCore, MaskedCore
from tessera_workloads.vitcod.flex import FlexCore
from tessera_workloads.vitcod.parameters import VitcodParameters

DENSE, CONTINUED, CODED, SPARSE, RANDOM = "dense", "continued", "autoencoder", "sparse", "random"
"""The arms, and the phases that train them: the dense model; the same trained on, as the baseline; with the
auto-encoder; pruned; pruned at random.
"""

ARMS = (DENSE, CONTINUED, CODED, SPARSE, RANDOM)
CODED_ARMS, MASKED_ARMS = (CODED, SPARSE, RANDOM), (SPARSE, RANDOM)


class HeadCoder(nn.Module):
    """Auto-encoder across heads: (B, H, N, d) is mixed into ceil(H/2) heads and back, without biases."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        kept = (heads + 1) // 2
        self.encode = nn.Linear(heads, kept, bias=False)
        self.decode = nn.Linear(kept, heads, bias=False)

    def forward(self, mixed: Tensor) -> Tensor:
        """What half of the heads can say of all."""
        code = torch.einsum("ch,bhnd->bcnd", self.encode.weight, mixed)
        return torch.einsum("hc,bcnd->bhnd", self.decode.weight, code)


class Attention(nn.Module):
    """Multi-head self-attention, with or without a coder on queries and keys."""

    def __init__(self, p: VitcodParameters, *, coded: bool, masked: bool) -> None:
        super().__init__()
        self.heads, self.head_width = p.heads, p.width // p.heads
        self.qkv = nn.Linear(p.width, 3 * p.width)
        self.out = nn.Linear(p.width, p.width)
        self.query_coder = HeadCoder(p.heads) if coded else None
        self.key_coder = HeadCoder(p.heads) if coded else None
        self.core: nn.Module = DenseCore()
        if masked:
            parts = p.patches // p.block
            self.core = MaskedCore(p.heads, tokens=p.tokens, parts=parts, columns=p.global_columns)

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Q, K, V as (B, H, N, d), before any coder."""
        query, key, value = (
            self.qkv(tokens).unflatten(-1, (3, self.heads, self.head_width)).permute(2, 0, 3, 1, 4)
        )
        return query, key, value

    def core_inputs(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Q, K, V as the core gets them, and how far the coders moved Q and K: |Q' - Q| + |K' - K| per
        sample, averaged.
        """
        query, key, value = self.project(tokens)
        if self.query_coder is None or self.key_coder is None:
            return query, key, value, query.new_zeros(())
        coded_query, coded_key = self.query_coder(query), self.key_coder(key)
        moved = (coded_query - query).flatten(1).norm(dim=1) + (coded_key - key).flatten(1).norm(dim=1)
        return coded_query, coded_key, value, moved.mean()

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, width) -> the same, and the coders' distance."""
        query, key, value, distance = self.core_inputs(tokens)
        attended: Tensor = self.core(query, key, value)
        return self.out(attended.transpose(1, 2).flatten(2)), distance


class Block(nn.Module):
    """Pre-norm transformer block with a perceptron of four times the width."""

    def __init__(self, p: VitcodParameters, *, coded: bool, masked: bool) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(p.width)
        self.attention = Attention(p, coded=coded, masked=masked)
        self.norm = nn.LayerNorm(p.width)
        self.perceptron = nn.Sequential(
            nn.Linear(p.width, 4 * p.width), nn.GELU(), nn.Linear(4 * p.width, p.width)
        )

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, width) -> the same, and the coders' distance."""
        attended, distance = self.attention(self.attention_norm(tokens))
        tokens = tokens + attended
        return tokens + self.perceptron(self.norm(tokens)), distance


class Output(NamedTuple):
    """Logits (B, 10), and the coders' distance summed over the layers."""

    logits: Tensor
    distance: Tensor


class Vit(nn.Module):
    """One arm: patches and a class token through the blocks, classified by the class token."""

    def __init__(self, p: VitcodParameters, *, coded: bool = False, masked: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, p.width, kernel_size=p.patch, stride=p.patch)
        self.class_token = nn.Parameter(torch.empty(1, 1, p.width))
        self.positions = nn.Parameter(torch.empty(1, p.tokens, p.width))
        self.blocks = nn.ModuleList(Block(p, coded=coded, masked=masked) for _ in range(p.layers))
        self.norm = nn.LayerNorm(p.width)
        self.classify = nn.Linear(p.width, CLASSES)

    def embed(self, images: Tensor) -> Tensor:
        """(B, 1, side, side) -> tokens (B, N, width), the class token first."""
        patches = self.patches(images).flatten(2).transpose(1, 2)
        return torch.cat([self.class_token.expand(len(images), -1, -1), patches], dim=1) + self.positions

    def layers(self) -> Iterator[Block]:
        """The blocks, first to last."""
        for block in self.blocks:
            assert isinstance(block, Block)
            yield block

    def forward(self, images: Tensor) -> Output:
        """Classify pictures."""
        tokens = self.embed(images)
        total = tokens.new_zeros(())
        for block in self.blocks:
            tokens, distance = block(tokens)
            total = total + distance
        return Output(self.classify(self.norm(tokens[:, 0])), total)


class Arms(nn.Module):
    """All models of a run side by side, so that every one of them is there to be judged at the end."""

    def __init__(self, p: VitcodParameters, names: Iterable[str] = ARMS) -> None:
        super().__init__()
        for name in names:
            self.add_module(name, Vit(p, coded=name in CODED_ARMS, masked=name in MASKED_ARMS))

    def arm(self, name: str) -> Vit:
        """One of the models."""
        found = self.get_submodule(name)
        assert isinstance(found, Vit)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the pruned model, which is the one that serves."""
        output: Output = self.arm(SPARSE)(images)
        return output.logits


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Give `target` the values of the parameters that it shares with `source`, by name."""
    values = dict(source.named_parameters())
    with torch.no_grad():
        for name, tensor in target.named_parameters():
            if name in values:
                tensor.copy_(values[name])


def set_coders(vit: Vit, query: Tensor, key: Tensor) -> None:
    """Start every layer's coders as projections on orthonormal directions (layers, ceil(H/2), H)."""
    with torch.no_grad():
        for layer, block in enumerate(vit.layers()):
            coders = (block.attention.query_coder, block.attention.key_coder)
            for coder, directions in zip(coders, (query[layer], key[layer]), strict=True):
                assert coder is not None
                coder.encode.weight.copy_(directions)
                coder.decode.weight.copy_(directions.T)


def set_masks(vit: Vit, blocks: Tensor, columns: Tensor) -> None:
    """Give every layer its mask: see `BlockMask`, with one more dimension for the layers."""
    for layer, core in enumerate(masked_cores(vit)):
        core.blocks.copy_(blocks[layer])
        core.columns.copy_(columns[layer])


def masked_cores(vit: Vit) -> list[MaskedCore]:
    """The cores of a masked arm, first layer to last."""
    cores = [block.attention.core for block in vit.layers()]
    return [core for core in cores if isinstance(core, MaskedCore)]


def serve_by(vit: Vit, form: str) -> Vit:
    """Exchange a masked arm's cores for those of a form (see the parameter `serving`)."""
    for block, core in zip(vit.layers(), masked_cores(vit), strict=True):
        block.attention.core = _FORMS[form](core)
    return vit


_FORMS: Mapping[str, Callable[[MaskedCore], nn.Module]] = {
    "gather": lambda core: GatherCore(core.mask),
    "flex": lambda core: FlexCore(core.mask),
    "masked": lambda core: core,
    "dense": lambda core: DenseCore(),
}


@torch.no_grad()
def head_grams(vit: Vit, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Sums over tokens, widths and pictures of q q^T and k k^T across heads: two (layers, H, H)."""
    sums: dict[str, list[Tensor]] = {"query": [], "key": []}
    for number, images in enumerate(batches):
        tokens = vit.embed(images)
        for layer, block in enumerate(vit.layers()):
            query, key, _ = block.attention.project(block.attention_norm(tokens))
            for name, mixed in (("query", query), ("key", key)):
                gram = torch.einsum("bhnd,bgnd->hg", mixed, mixed)
                if number == 0:
                    sums[name].append(gram)
                else:
                    sums[name][layer] += gram
            tokens, _ = block(tokens)
    return torch.stack(sums["query"]), torch.stack(sums["key"])


def principal_heads(gram: Tensor) -> Tensor:
    """The ceil(H/2) directions across heads that hold most of a (..., H, H) gram: (..., ceil(H/2), H)."""
    heads = gram.shape[-1]
    vectors: Tensor = torch.linalg.eigh(gram).eigenvectors
    return vectors[..., heads - (heads + 1) // 2 :].transpose(-1, -2).flip(-2).contiguous()


@torch.no_grad()
def average_attention(vit: Vit, batches: Iterable[Tensor]) -> Tensor:
    """The mean attention map of every layer and head over all pictures: (layers, H, N, N)."""
    sums: list[Tensor] = []
    pictures = 0
    for images in batches:
        tokens = vit.embed(images)
        for layer, block in enumerate(vit.layers()):
            query, key, _, _ = block.attention.core_inputs(block.attention_norm(tokens))
            scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
            total = scores.softmax(-1).sum(0)
            if pictures == 0:
                sums.append(total)
            else:
                sums[layer] += total
            tokens, _ = block(tokens)
        pictures += len(images)
    return torch.stack(sums) / pictures
