"""Which keys a query keeps: ViTCoD's choice against rows worked out by hand, and what every mask promises."""

import pytest
import torch
from tessera_workloads.vitcod.masks import BlockMask, polarised, prune, random_like


def attention_maps(*, layers: int = 2, heads: int = 4, tokens: int = 50) -> torch.Tensor:
    scores = 2 * torch.randn((layers, heads, tokens, tokens), generator=torch.Generator().manual_seed(0))
    return scores.softmax(-1)


def test_a_mask_of_blocks_expands_to_tokens_with_the_class_token_open_in_both_directions() -> None:
    mask = BlockMask(torch.eye(2, dtype=torch.bool)[None], torch.tensor([[4]]), tokens=5)
    expected = torch.tensor(
        [[1, 1, 1, 1, 1], [1, 1, 1, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 1, 1], [1, 0, 0, 1, 1]]
    ).bool()
    assert (mask.block, mask.class_tokens) == (2, 1)
    assert torch.equal(mask.expand()[0], expected)
    assert mask.sparsity() == pytest.approx(6 / 25)
    # Columns 0 and 4 are used by all five queries, 1 and 2 by three, 3 by three: all above a quarter.
    assert mask.polarised_share() == 1


def test_a_row_keeps_its_largest_entries_until_they_hold_the_asked_part_of_its_mass() -> None:
    # Query 1 of 3 patches: class .1, own .2, then .6 and .1. Kept anyway: .3; with .6 it is .9.
    row = torch.tensor([0.1, 0.2, 0.6, 0.1])
    uniform = torch.full((4,), 0.25)
    attention = torch.stack(
        [uniform, row, torch.tensor([0.1, 0.1, 0.8, 0.0]), torch.tensor([0.1, 0.0, 0.1, 0.8])]
    )
    # 16 entries, of which 7 with the class token and 3 with themselves are kept: one more leaves 5 out.
    mask, part = prune(attention[None], block=1, columns=0, sparsity=5 / 16)
    assert torch.equal(
        mask.expand()[0].int(), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 1, 0], [1, 0, 0, 1]])
    )
    assert 0.3 < part <= 0.9 + 1e-6


@pytest.mark.parametrize(("block", "columns"), [(1, 0), (7, 2)])
def test_pruning_reaches_its_sparsity_and_leaves_no_row_empty(block: int, columns: int) -> None:
    sparsity = 0.9 if block == 1 else 0.7
    mask, _ = prune(attention_maps(), block=block, columns=columns, sparsity=sparsity)
    kept = mask.expand()
    assert sparsity <= mask.sparsity() < sparsity + 0.01
    assert kept[..., 0, :].all()
    assert kept[..., :, 0].all()
    assert kept.diagonal(dim1=-2, dim2=-1).all()
    everywhere = kept.gather(-1, mask.columns[..., None, :].expand(-1, -1, 50, -1))
    assert everywhere.all()


def test_global_columns_are_the_patches_that_get_most_attention() -> None:
    attention = attention_maps()
    attention[..., 17] += 1
    mask, _ = prune(attention, block=7, columns=1, sparsity=0.7)
    assert (mask.columns == 17).all()


def test_the_random_mask_has_the_same_number_of_keys_in_every_row_and_keeps_the_diagonal() -> None:
    mask, _ = prune(attention_maps(), block=1, columns=0, sparsity=0.9)
    control = random_like(mask, torch.Generator().manual_seed(0))
    assert torch.equal(control.blocks.sum(-1), mask.blocks.sum(-1))
    assert control.blocks.diagonal(dim1=-2, dim2=-1).all()
    assert not torch.equal(control.blocks, mask.blocks)
    assert control.sparsity() == mask.sparsity()


@pytest.mark.parametrize(
    ("tokens", "parts", "columns"), [(1024, 32, 16), (256, 16, 4), (50, 49, 0), (257, 32, 4), (4097, 32, 63)]
)
def test_the_synthetic_mask_keeps_a_tenth(tokens: int, parts: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(0)
    mask = polarised(1, tokens, parts=parts, columns=columns, sparsity=0.9, generator=generator)
    assert mask.sparsity() == pytest.approx(0.9, abs=0.01)
    assert mask.expand().diagonal(dim1=-2, dim2=-1).all()
    assert mask.columns.shape == (1, columns)
    assert tokens - parts * mask.block == mask.class_tokens
