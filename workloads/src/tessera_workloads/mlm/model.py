"""The two models, from one set of blocks: T5's (Raffel et al., arXiv 1910.10683, as released in version 1.0).

Blocks normalise first, by the root mean square alone; nothing has a bias; where a word stands enters only as
a learned bias on how far apart two words are, shared by all layers; the embedding is also the output layer.
T5's own parameter counts come out (60,506,624 for `small`, 2,851,598,336 for `3B`). Attention is scaled as
usual, where T5 has scaled initial weights instead: the same function at the start. The blocks are written
here because that is 100 lines; `transformers`, which has them, would be a large dependency for nothing else.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tessera_workloads.mlm.parameters import MlmParameters
from tessera_workloads.mlm.spans import Signs

DISTANCE_BUCKETS = 32
_FARTHEST = 128


class Attention(nn.Module):
    """Multi-head attention of (B, N, d) to itself or to `memory` (B, M, d); `bias` is added to the scores."""

    def __init__(self, p: MlmParameters) -> None:
        super().__init__()
        inner = p.heads * p.d_kv
        self.heads = p.heads
        self.query, self.key, self.value = (nn.Linear(p.d_model, inner, bias=False) for _ in range(3))
        self.out = nn.Linear(inner, p.d_model, bias=False)

    def forward(self, x: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
        """(B, N, d); `bias` is (B or 1, heads or 1, N, M), minus infinity where nothing may be read."""
        query, key, value = (
            layer(read).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, read in ((self.query, x), (self.key, memory), (self.value, memory))
        )
        # Written out, because torch's fused attention on the CPU has no gradient for a bias.
        shares = (query @ key.transpose(2, 3) * query.shape[3] ** -0.5 + bias).softmax(dim=3)
        result: Tensor = self.out((shares.to(value.dtype) @ value).transpose(1, 2).flatten(2))
        return result


class Block(nn.Module):
    """Self-attention, attention to the encoder's output where there is one, and a feed-forward layer."""

    def __init__(self, p: MlmParameters, *, crossed: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(p.d_model, eps=1e-6) for _ in range(3 if crossed else 2))
        self.own = Attention(p)
        self.cross = Attention(p) if crossed else None
        self.widen = nn.Linear(p.d_model, p.d_ff, bias=False)
        self.narrow = nn.Linear(p.d_ff, p.d_model, bias=False)

    def forward(self, x: Tensor, bias: Tensor, memory: Tensor | None, memory_bias: Tensor | None) -> Tensor:
        """(B, N, d)."""
        normed = self.norms[0](x)
        x = x + self.own(normed, normed, bias)
        if self.cross is not None:
            assert memory is not None
            assert memory_bias is not None
            x = x + self.cross(self.norms[1](x), memory, memory_bias)
        result: Tensor = x + self.narrow(F.relu(self.widen(self.norms[-1](x))))
        return result


class Stack(nn.Module):
    """Blocks with their bias on distances; a decoder's looks back only, and reads the encoder's output."""

    def __init__(self, p: MlmParameters, *, decodes: bool) -> None:
        super().__init__()
        self.decodes = decodes
        self.distances = nn.Parameter(torch.empty(DISTANCE_BUCKETS, p.heads))
        self.blocks = nn.ModuleList(Block(p, crossed=decodes) for _ in range(p.layers))
        self.norm = nn.RMSNorm(p.d_model, eps=1e-6)

    def forward(
        self, x: Tensor, readable: Tensor, memory: Tensor | None = None, memory_readable: Tensor | None = None
    ) -> Tensor:
        """(B, N, d) from (B, N, d); `readable` (B, N) says which places hold something."""
        place = torch.arange(x.shape[1], device=x.device)
        distance = place[None, :] - place[:, None]
        bias = self.distances[distance_bucket(distance, two_sided=not self.decodes)].permute(2, 0, 1)
        allowed = readable[:, None, None, :]
        if self.decodes:
            allowed = allowed & (distance <= 0)
        bias = bias.masked_fill(~allowed, -math.inf)
        memory_bias = None
        if memory_readable is not None:
            memory_bias = bias.new_zeros(()).masked_fill(~memory_readable[:, None, None, :], -math.inf)
        for block in self.blocks:
            x = block(x, bias, memory, memory_bias)
        result: Tensor = self.norm(x)
        return result


def distance_bucket(distance: Tensor, *, two_sided: bool) -> Tensor:
    """T5's bucket of a relative position (key minus query): exact when near, logarithmic when far."""
    buckets = DISTANCE_BUCKETS
    offset = torch.zeros_like(distance)
    if two_sided:
        buckets //= 2
        offset = (distance > 0).long() * buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = buckets // 2
    ratio = (distance.clamp(min=1).float() / exact).log() / math.log(_FARTHEST / exact)
    far = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
    return offset + torch.where(distance < exact, distance, far)


class EncoderModel(nn.Module):
    """Fills masked places: logits (B, L, vocabulary) from tokens (B, L)."""

    def __init__(self, p: MlmParameters) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(p.vocabulary, p.d_model))
        self.encoder = Stack(p, decodes=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Every place gets logits; only those of masked places mean something."""
        hidden = self.encoder(F.embedding(tokens, self.embedding), torch.ones_like(tokens, dtype=torch.bool))
        return _logits(hidden, self.embedding)


class T5Model(nn.Module):
    """Writes masked spans out: logits (B, T, vocabulary) of each target token from the ones before it."""

    def __init__(self, p: MlmParameters) -> None:
        super().__init__()
        self.signs = Signs(p.words)
        self.embedding = nn.Parameter(torch.empty(p.vocabulary, p.d_model))
        self.encoder = Stack(p, decodes=False)
        self.decoder = Stack(p, decodes=True)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """`inputs` (B, L) and `targets` (B, T) as `spans.spell` writes them."""
        readable = inputs != self.signs.start
        memory = self.encoder(F.embedding(inputs, self.embedding), readable)
        told = F.pad(targets[:, :-1], (1, 0), value=self.signs.start)
        # The decoder never looks ahead, so what fills a target up is read by nothing that counts.
        hidden = self.decoder(
            F.embedding(told, self.embedding), torch.ones_like(told, dtype=torch.bool), memory, readable
        )
        return _logits(hidden, self.embedding)


class MlmModel(nn.Module):
    """The models of a run, by form."""

    def __init__(self, p: MlmParameters) -> None:
        super().__init__()
        self.forms = nn.ModuleDict(
            {form: EncoderModel(p) if form == "encoder" else T5Model(p) for form in p.forms}
        )
        self.early: dict[str, Mapping[str, float]] = {}
        """What was measured of each form while it was under-trained."""

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """Logits of the T5 form where there are targets, else of the encoder."""
        result: Tensor = (
            self.forms["encoder"](tokens) if targets is None else self.forms["t5"](tokens, targets)
        )
        return result


def init_parameter(name: str, tensor: Tensor, generator: torch.Generator) -> None:
    """T5's initial values: normal, of deviation 1 (embedding) or 1/sqrt(fan-in) (layers); distances 0."""
    if name.endswith("distances"):
        tensor.zero_()
    elif tensor.ndim == 1:
        tensor.fill_(1.0)
    else:
        deviation = 1.0 if name.endswith("embedding") else tensor.shape[1] ** -0.5
        tensor.normal_(0.0, deviation, generator=generator)


def _logits(hidden: Tensor, embedding: Tensor) -> Tensor:
    return F.linear(hidden * embedding.shape[1] ** -0.5, embedding)


def mean_log_loss(logits: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
    """Cross-entropy in nats: a mean over the counted places (B, N) of each text, then over the texts."""
    each = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none").view_as(targets)
    return ((each * counted).sum(dim=1) / counted.sum(dim=1)).mean()
