"""The pruned attention core as FlexAttention: one compiled GPU kernel that skips whole blocks.

A kernel can only skip blocks, and global columns are scattered over all of them. So the class token and the
global columns are copied into a block of their own in front of the keys (ViTCoD's reordering into a dense and
a sparse part). Every query block visits the front block and its own list of blocks. A global column is masked
out in front where the block that it comes from is visited anyway, so that nothing counts twice. The class
token's own query attends to everything and is computed apart.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tessera_workloads.vitcod.masks import BlockMask


class FlexCore(nn.Module):
    """Skips what the mask prunes: compiled on CUDA; elsewhere torch's plain form, which only masks it.

    For masks with one class token, and fewer global columns than a block has tokens.
    """

    blocks: Tensor
    columns: Tensor

    def __init__(self, mask: BlockMask) -> None:
        super().__init__()
        self.tokens = mask.tokens
        self.register_buffer("blocks", mask.blocks, persistent=False)
        self.register_buffer("columns", mask.columns, persistent=False)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The class token's row densely, the patches' rows block by block."""
        mask = BlockMask(self.blocks, self.columns, self.tokens)
        first = F.scaled_dot_product_attention(query[:, :, :1], key, value)
        attend = _flex_attention(query.is_cuda)
        rest = attend(
            query[:, :, 1:].contiguous(),
            _with_front(key, mask),
            _with_front(value, mask),
            block_mask=_visits(mask),
        )
        return torch.cat([first, rest], dim=2)


@cache
def _flex_attention(compiled: bool) -> Any:
    # Imported late: it brings torch's compiler along, which costs as much time as torch itself.
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if compiled else flex_attention


def _with_front(tensor: Tensor, mask: BlockMask) -> Tensor:
    """(B, H, 1 + N, d) -> (B, H, block + N, d): class token, global columns and zeros, then the patches."""
    index = mask.columns[None, :, :, None].expand(len(tensor), -1, -1, tensor.shape[-1])
    front = torch.cat([tensor[:, :, :1], tensor.gather(2, index)], dim=2)
    return torch.cat([F.pad(front, (0, 0, 0, mask.block - front.shape[2])), tensor[:, :, 1:]], dim=2)


def _visits(mask: BlockMask) -> Any:
    """Which key blocks a query block visits: the front block under a mask, its own list in full."""
    from torch.nn.attention.flex_attention import BlockMask as Visits

    block, blocks = mask.block, mask.blocks
    origin = ((mask.columns - mask.class_tokens) // block)[:, None].expand(-1, blocks.shape[1], -1)
    in_front = F.pad(~blocks.gather(2, origin), (1, 0), value=True)
    in_front = F.pad(in_front, (0, block - in_front.shape[2]))

    def attends(_: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        row = query // block
        front = in_front[head, row, key.clamp(max=block - 1)]
        rest = blocks[head, row, (key // block - 1).clamp(min=0)]
        return torch.where(key < block, front, rest)

    counts = blocks.sum(-1, dtype=torch.int32)
    listed = blocks.int().argsort(dim=-1, descending=True, stable=True).int() + 1
    listed = F.pad(listed, (0, 1))
    return Visits.from_kv_blocks(
        torch.ones_like(counts)[None],
        torch.zeros_like(listed)[None],
        counts[None],
        listed[None],
        BLOCK_SIZE=block,
        mask_mod=attends,
        seq_lengths=(block * blocks.shape[1], block * (blocks.shape[2] + 1)),
        compute_q_blocks=False,  # only a backward pass would need them
    )
