"""The attention core softmax(Q K^T / sqrt(d)) V in the forms that are compared: dense, masked and gathered.

`MaskedCore` computes everything and throws nine tenths away: it is the reference, and what trains.
`GatherCore` never computes what the mask prunes. The queries of a block share their keys, so it collects
those keys and values once per block and multiplies small dense matrices. Lists of unequal length are put
together with lists of nearly their length: lengths are rounded up to 2^n or 3 * 2^n, so that the padding is
less than half of what is needed. `flex` does the same by a compiled GPU kernel.

All take Q, K, V as (B, H, N, d) and return (B, H, N, d).
"""

from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tessera_workloads.vitcod.masks import BlockMask

INDEX_BYTES = 8
"""torch's index type."""


class DenseCore(nn.Module):
    """Every query attends to every key."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """torch's fused attention."""
        return F.scaled_dot_product_attention(query, key, value)


class MaskedCore(nn.Module):
    """Dense arithmetic under a mask, which is a pair of buffers so that it is saved with the weights."""

    blocks: Tensor
    columns: Tensor

    def __init__(self, heads: int, *, tokens: int, parts: int, columns: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.register_buffer("blocks", torch.ones((heads, parts, parts), dtype=torch.bool))
        self.register_buffer("columns", torch.zeros((heads, columns), dtype=torch.long))

    @property
    def mask(self) -> BlockMask:
        """The mask; it prunes nothing until one is set."""
        return BlockMask(self.blocks, self.columns, self.tokens)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """torch's attention with the mask as minus infinity."""
        return F.scaled_dot_product_attention(query, key, value, attn_mask=self.mask.expand())


class _Bucket(nn.Module):
    """Query groups of one size whose key lists have one (padded) length; tokens of all heads in one row."""

    queries: Tensor
    keys: Tensor
    padding: Tensor | None

    def __init__(self, queries: Tensor, keys: Tensor, padding: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("queries", queries, persistent=False)
        self.register_buffer("keys", keys, persistent=False)
        self.register_buffer("padding", padding, persistent=False)

    @property
    def entries(self) -> int:
        """Entries of the attention map that are computed, padding included."""
        return self.queries.numel() * self.keys.shape[1]

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(B, H*N, d) each -> (B, queries of this bucket, d)."""
        batch, _, width = query.shape
        groups, length = self.keys.shape
        own = query.index_select(1, self.queries.flatten()).view(batch, groups, -1, width)
        near_keys = key.index_select(1, self.keys.flatten()).view(batch, groups, length, width)
        near_values = value.index_select(1, self.keys.flatten()).view(batch, groups, length, width)
        scores = (own * width**-0.5) @ near_keys.transpose(-1, -2)
        if self.padding is not None:
            scores = scores + self.padding.to(scores.dtype)
        found: Tensor = scores.softmax(-1) @ near_values
        return found.flatten(1, 2)


class GatherCore(nn.Module):
    """Computes what the mask keeps, and nothing else but a little padding. Built from real masks only."""

    order: Tensor

    def __init__(self, mask: BlockMask) -> None:
        super().__init__()
        self.heads, self.tokens = mask.blocks.shape[0], mask.tokens
        lists: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        rows = mask.expand().cpu()
        first_queries = [*range(mask.class_tokens), *range(mask.class_tokens, mask.tokens, mask.block)]
        for head in range(self.heads):
            for first in first_queries:
                size = 1 if first < mask.class_tokens else mask.block
                keys = rows[head, first].nonzero()[:, 0] + head * self.tokens
                queries = torch.arange(first, first + size) + head * self.tokens
                lists[size, padded_length(len(keys))].append((queries, keys))
        self.buckets = nn.ModuleList(_bucket(found, length) for (_, length), found in sorted(lists.items()))
        self.register_buffer(
            "order",
            torch.cat([bucket.queries.flatten() for bucket in self._buckets()]).argsort(),
            persistent=False,
        )

    @property
    def flops_share(self) -> float:
        """Operations as a share of the dense core's: 4*d per computed entry, padding included."""
        entries = sum(bucket.entries for bucket in self._buckets())
        return entries / (self.heads * self.tokens**2)

    def bytes_share(self, head_width: int) -> float:
        """Bytes moved as a share of the dense core's; see `bytes_moved`."""
        shape = {"heads": self.heads, "tokens": self.tokens, "head_width": head_width}
        entries = sum(bucket.entries for bucket in self._buckets())
        indices = sum(bucket.keys.numel() for bucket in self._buckets()) + 2 * self.heads * self.tokens
        dense = bytes_moved(**shape, entries=self.heads * self.tokens**2)
        return bytes_moved(**shape, entries=entries, indices=indices) / dense

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Bucket by bucket, then back into the order of the tokens."""
        shape = query.shape
        query, key, value = (tensor.flatten(1, 2) for tensor in (query, key, value))
        found = torch.cat([bucket(query, key, value) for bucket in self.buckets], dim=1)
        return found.index_select(1, self.order).view(shape)

    def _buckets(self) -> list[_Bucket]:
        return [bucket for bucket in self.buckets if isinstance(bucket, _Bucket)]


def bytes_moved(*, heads: int, tokens: int, head_width: int, entries: int, indices: int = 0) -> int:
    """Bytes of one attention core in fp32: 4 (4 H N d + 2 entries) + 8 indices.

    Q, K, V and the result once, every computed score written and read, every index read once (derived; caches
    that keep scores on the chip, as fused kernels do, spare the second term of both cores).
    """
    return 4 * (4 * heads * tokens * head_width + 2 * entries) + INDEX_BYTES * indices


def padded_length(length: int) -> int:
    """The next 2^n or 3 * 2^n: less than one and a half times the length."""
    power = 1 << (length - 1).bit_length()
    return power * 3 // 4 if power >= 4 and length <= power * 3 // 4 else power


def _bucket(lists: list[tuple[Tensor, Tensor]], length: int) -> _Bucket:
    """Stack lists of at most `length` keys; padding repeats a list's first key, at minus infinity."""
    keys = torch.stack([torch.cat([keys, keys[:1].expand(length - len(keys))]) for _, keys in lists])
    counts = torch.tensor([len(keys) for _, keys in lists])
    padded = torch.arange(length) >= counts[:, None]
    padding = torch.zeros(padded.shape).masked_fill_(padded, -torch.inf)[:, None] if padded.any() else None
    return _Bucket(torch.stack([queries for queries, _ in lists]), keys, padding)
