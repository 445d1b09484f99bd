"""Every form of the attention core computes the same, and the counts are those of what is executed."""

import pytest
import torch
from tessera_workloads.vitcod.cores import DenseCore, GatherCore, MaskedCore, bytes_moved, padded_length
from tessera_workloads.vitcod.latency import largest_difference
from tessera_workloads.vitcod.masks import BlockMask, polarised
from torch import Tensor


def some_mask(tokens: int, parts: int, columns: int, heads: int = 2) -> BlockMask:
    generator = torch.Generator().manual_seed(0)
    return polarised(heads, tokens, parts=parts, columns=columns, sparsity=0.7, generator=generator)


def some_tensors(mask: BlockMask) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (3, 2, mask.blocks.shape[0], mask.tokens, 8)
    query, key, value = torch.randn(shape, generator=generator)
    return query, key, value


def by_definition(query: Tensor, key: Tensor, value: Tensor, kept: Tensor) -> Tensor:
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    found: Tensor = scores.masked_fill(~kept, -torch.inf).softmax(-1) @ value
    return found


def masked_core(mask: BlockMask) -> MaskedCore:
    heads, parts, _ = mask.blocks.shape
    core = MaskedCore(heads, tokens=mask.tokens, parts=parts, columns=mask.columns.shape[1])
    core.load_state_dict({"blocks": mask.blocks, "columns": mask.columns})
    return core


@pytest.mark.parametrize(("tokens", "parts", "columns"), [(26, 25, 0), (33, 8, 3), (32, 8, 2)])
def test_masked_and_gathered_cores_equal_the_definition(tokens: int, parts: int, columns: int) -> None:
    mask = some_mask(tokens, parts, columns)
    tensors = some_tensors(mask)
    expected = by_definition(*tensors, mask.expand())
    for core in (masked_core(mask), GatherCore(mask)):
        assert largest_difference(core(*tensors), expected) <= 1e-6


def test_a_masked_core_prunes_nothing_until_it_gets_a_mask() -> None:
    mask = some_mask(33, 8, 3)
    tensors = some_tensors(mask)
    fresh = MaskedCore(2, tokens=33, parts=8, columns=3)
    assert largest_difference(fresh(*tensors), DenseCore()(*tensors)) <= 1e-6


def test_the_gather_core_has_a_gradient() -> None:
    mask = some_mask(33, 8, 3)
    gradients = []
    for core in (GatherCore(mask), masked_core(mask)):
        query, key, value = (tensor.requires_grad_() for tensor in some_tensors(mask))
        core(query, key, value).square().sum().backward()
        gradients.append([query.grad, key.grad, value.grad])
    for gathered, reference in zip(*gradients, strict=True):
        assert largest_difference(gathered, reference) <= 1e-5


def test_what_is_executed_is_what_is_counted() -> None:
    # One head, 4 patches in blocks of 2, no class token: the first block sees both, the second itself.
    blocks = torch.tensor([[[True, True], [False, True]]])
    core = GatherCore(BlockMask(blocks, torch.zeros((1, 0), dtype=torch.long), tokens=4))
    assert core.flops_share == (2 * 4 + 2 * 2) / 16
    # 12 entries; 4 + 2 keys, 4 queries and the order of 4 results are indices.
    expected = 4 * (4 * 4 * 8 + 2 * 12) + 8 * (6 + 4 + 4)
    assert core.bytes_share(8) == expected / bytes_moved(heads=1, tokens=4, head_width=8, entries=16)


def test_bytes_of_a_dense_core_by_hand() -> None:
    # Q, K, V and the result: 4 * 2 heads * 3 tokens * 5 numbers; scores 2 * 18; four bytes each.
    assert bytes_moved(heads=2, tokens=3, head_width=5, entries=18) == 4 * (120 + 36)


def test_padding_is_less_than_half_of_a_list() -> None:
    assert [padded_length(length) for length in (1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 50)] == [
        *(1, 2, 3, 4, 6, 6, 8, 12, 12, 16, 64),
    ]
    assert all(length <= padded_length(length) < 1.5 * length for length in range(1, 5000))
