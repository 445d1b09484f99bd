"""Which keys a query attends to: masks of whole key blocks and global columns; the rest can be left out.

A mask knows nothing smaller than a block: the queries of a block share one list of key blocks, and every
query also attends to the class token and to the global columns. With blocks of one patch that is any mask.
The class token attends to all, and a patch always to its own block, so that no row is empty.

The choice is ViTCoD's: for each row the largest entries of the average attention map until they hold a given
part of its mass, the same part for all layers and heads. Here that part is found by bisection, so that the
sparsity is what was asked for.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_BISECTIONS = 30
_POLARISED_SHARE = 0.25
"""A column that more of the queries attend to is a global token (published code: 50 of 197)."""


@dataclass(frozen=True)
class BlockMask:
    """One mask, or one per layer and head in the leading dimensions.

    `blocks` (..., M, M) is true where a query block attends to a key block; `columns` (..., G) are the global
    columns, as token numbers. The N tokens are a class token (or none) and then M blocks of equal length.
    """

    blocks: Tensor
    columns: Tensor
    tokens: int

    @property
    def block(self) -> int:
        """Patches in a block."""
        return self.tokens // self.blocks.shape[-1]

    @property
    def class_tokens(self) -> int:
        """Tokens before the first block: 1, or 0 in a bare attention core."""
        return self.tokens % self.blocks.shape[-1]

    def expand(self) -> Tensor:
        """(..., N, N), true where a query attends to a key."""
        entries = self.blocks.repeat_interleave(self.block, -2).repeat_interleave(self.block, -1)
        entries = F.pad(entries, (self.class_tokens, 0, self.class_tokens, 0), value=True)
        everywhere = torch.zeros_like(entries[..., 0, :]).scatter_(-1, self.columns, True)
        return entries | everywhere[..., None, :]

    def sparsity(self) -> float:
        """Share of the attention map that is pruned."""
        return 1 - float(self.expand().float().mean())

    def polarised_share(self) -> float:
        """Share of the kept entries that lie in columns used by more than a quarter of the queries."""
        entries = self.expand()
        popular = entries.float().mean(-2, keepdim=True) > _POLARISED_SHARE
        return float((entries & popular).sum() / entries.sum())


def prune(attention: Tensor, *, block: int, columns: int, sparsity: float) -> tuple[BlockMask, float]:
    """The mask that keeps the most informative part of average attention maps (..., N, N), class token first.

    Returns:
        The mask, and the part of a row's mass that it keeps. It has the sparsity asked for or a little
        more, unless what is always kept (class token, global columns, own blocks) is too much for that.
    """
    tokens = attention.shape[-1]
    patches = attention[..., 1:, 1:]
    chosen = patches.mean(-2).topk(columns).indices
    in_column = torch.zeros_like(patches[..., 0, :], dtype=torch.bool).scatter_(-1, chosen, True)
    rest = patches.masked_fill(in_column[..., None, :], 0)
    parts = (tokens - 1) // block
    heads = attention.shape[:-2]
    mass = rest.reshape(*heads, parts, block, parts, block).sum(-1).mean(-2)
    kept_anyway = (attention[..., 1:, :].sum(-1) - rest.sum(-1)).reshape(*heads, parts, block).mean(-1)
    own = torch.eye(parts, dtype=torch.bool, device=mass.device)
    order = mass.masked_fill(own, torch.inf).argsort(dim=-1, descending=True, stable=True)
    sorted_mass = mass.gather(-1, order)
    before = kept_anyway[..., None] + sorted_mass.cumsum(-1) - sorted_mass

    def keeping(part: float) -> BlockMask:
        kept = torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order, before < part) | own
        return BlockMask(kept, chosen + 1, tokens)

    least, most = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (least + most) / 2
        if keeping(middle).sparsity() >= sparsity:
            least = middle
        else:
            most = middle
    return keeping(least), least


def random_like(mask: BlockMask, generator: torch.Generator) -> BlockMask:
    """The control: in every row as many blocks as in `mask`, its own one and others at random; random global
    columns.
    """
    noise = torch.rand(mask.blocks.shape, generator=generator, device=mask.blocks.device)
    own = torch.eye(mask.blocks.shape[-1], dtype=torch.bool, device=noise.device)
    rank = noise.masked_fill(own, 2).argsort(-1, descending=True).argsort(-1)
    patches = (*mask.columns.shape[:-1], mask.tokens - mask.class_tokens)
    shuffled = torch.rand(patches, generator=generator, device=noise.device).argsort(-1)
    columns = shuffled[..., : mask.columns.shape[-1]] + mask.class_tokens
    return BlockMask(rank < mask.blocks.sum(-1, keepdim=True), columns, mask.tokens)


def polarised(
    heads: int, tokens: int, *, parts: int, columns: int, sparsity: float, generator: torch.Generator
) -> BlockMask:
    """A synthetic mask of the shape that pruning leaves: a thick diagonal, global columns, little else.

    For measuring speed and memory where no trained mask of that size is at hand.
    """
    class_tokens = tokens % parts
    budget = round((1 - sparsity - (columns + 2 * class_tokens) / tokens) * parts**2)
    place = torch.arange(parts)
    nearness = -(place[:, None] - place).abs() - 4.0 * torch.rand((heads, parts, parts), generator=generator)
    nearness = nearness.masked_fill(torch.eye(parts, dtype=torch.bool), 1)
    kept = nearness.flatten(1).argsort(-1, descending=True).argsort(-1) < max(budget, parts)
    chosen = torch.rand((heads, tokens - class_tokens), generator=generator).argsort(-1)[:, :columns]
    return BlockMask(kept.view(heads, parts, parts), chosen + class_tokens, tokens)
