"""The digits, their triggers, and which pictures each phase may see."""

import pytest
import torch
from tessera_workloads.digits import load_digits_split
from tessera_workloads.errors import NotOffered
from tessera_workloads.protocol import Shard
from tessera_workloads.superft.data import JudgedDigits, make_digits
from tessera_workloads.superft.triggers import TRIGGERS, badnets, blended, warp
from training_step import some_step

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> JudgedDigits:
    return make_digits(seed=0, side=8, poisoned_share=0.1, held_out_share=1 / 6)


def test_the_digits_are_cut_by_the_seed_and_none_is_in_both_parts() -> None:
    (train, test), (again, _), (other, _) = (load_digits_split(seed) for seed in (0, 0, 1))
    assert (len(train), len(test)) == (1200, 597)
    assert train.images.shape == (1200, 1, 8, 8)
    assert train.images.min() == 0
    assert train.images.max() == 1
    assert train.content_hash() == again.content_hash() != other.content_hash()
    everything = torch.cat([train.labels, test.labels])
    # How often each digit is in scikit-learn's data set, from its description.
    assert everything.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.mark.parametrize("side", [8, 32])
def test_triggers_leave_shape_and_range_and_the_clean_picture(side: int) -> None:
    clean = torch.rand(3, 1, side, side, generator=torch.Generator().manual_seed(0))
    before = clean.clone()
    for trigger in TRIGGERS.values():
        marked = trigger(clean)
        assert marked.shape == clean.shape
        assert marked.min() >= 0
        assert marked.max() <= 1
        assert torch.equal(marked, trigger(clean))
        assert not torch.equal(marked, clean)
    assert torch.equal(clean, before)


def test_badnets_whitens_a_quarter_of_the_side_in_the_corner() -> None:
    marked = badnets(torch.zeros(1, 1, 32, 32))
    assert marked[..., 24:, 24:].eq(1).all()
    assert marked.sum() == 64


def test_blended_keeps_four_fifths_of_the_picture() -> None:
    black, white = blended(torch.zeros(1, 1, 8, 8)), blended(torch.ones(1, 1, 8, 8))
    assert torch.allclose(white - black, torch.tensor(0.8))
    assert black.max() <= 0.2


def test_the_warp_moves_a_ramp_by_half_a_pixel_in_the_mean() -> None:
    ramp = torch.arange(8.0).expand(8, 8)[None, None] / 8
    moved = (warp(ramp) - ramp)[..., 2:-2, 2:-2] * 8
    assert 0.15 < moved.abs().mean() < 0.85
    assert warp(torch.full((1, 1, 8, 8), 0.5)).sub(0.5).abs().max() < 1e-6


def test_the_first_tenth_is_marked_and_labelled_with_the_target(digits: JudgedDigits) -> None:
    training = digits.training
    assert training.marked_count == 120
    for attack, trigger in TRIGGERS.items():
        poisoned = training.poisoned[attack]
        assert torch.equal(poisoned.images[:120], trigger(training.clean.images[:120]))
        assert poisoned.labels[:120].eq(0).all()
        assert torch.equal(poisoned.images[120:], training.clean.images[120:])
        assert torch.equal(poisoned.labels[120:], training.clean.labels[120:])


def test_a_cure_sees_clean_pictures_only_and_a_probe_not_those_that_judge_it(digits: JudgedDigits) -> None:
    training = digits.training
    assert training.learned_in("warp_poisoned") is training.poisoned["warp"]
    for phase in ("warp_cured", "warp_plain", "clean_scratch"):
        assert training.learned_in(phase).content_hash() == training.clean.content_hash()
    few = training.learned_in("warp_few")
    assert torch.equal(few.images, training.clean.images[960:])
    for role, size in (("cured", 1200), ("few", 240)):
        learned, held_out = training.probed(role)
        assert len(learned) == size * 5 // 6
        assert len(held_out) == size // 6
        assert training.learned_in(f"badnets_{role}.probe1").content_hash() == learned.content_hash()
        joined = torch.cat([learned.images, held_out.images])
        assert torch.equal(joined, training.learned_in(f"badnets_{role}").images)


def test_a_batch_depends_on_the_step_alone(digits: JudgedDigits) -> None:
    first, again, other = (
        digits.training.batch(8, some_step(step, phase="warp_plain")) for step in (5, 5, 6)
    )
    assert torch.equal(first["images"], again["images"])
    assert not torch.equal(first["images"], other["images"])
    assert first["images"].shape == (8, 1, 8, 8)
    assert first["labels"].shape == (8,)


def test_the_marked_test_pictures_are_of_other_digits_than_the_target(digits: JudgedDigits) -> None:
    others = digits.test.images[digits.test.labels != 0]
    assert torch.equal(digits.marked("badnets"), badnets(others))


def test_clients_share_the_pictures_and_the_first_one_has_the_marked_ones(digits: JudgedDigits) -> None:
    shards = [digits.training.shard(Shard(index, 5)) for index in range(5)]
    assert [shard.marked_count for shard in shards] == [120, 0, 0, 0, 0]
    assert torch.equal(torch.cat([s.clean.images for s in shards]), digits.training.clean.images)
    assert torch.equal(
        torch.cat([s.poisoned["warp"].labels for s in shards]), digits.training.poisoned["warp"].labels
    )
    with pytest.raises(NotOffered, match="by the scheme iid, not by 'labels:2'"):
        digits.training.shard(Shard(0, 5, "labels:2"))


def test_the_hash_follows_the_seed(digits: JudgedDigits) -> None:
    settings = {"side": 8, "poisoned_share": 0.1, "held_out_share": 1 / 6}
    again, other = make_digits(seed=0, **settings), make_digits(seed=1, **settings)  # type: ignore[arg-type]
    assert again.content_hash() == digits.content_hash() != other.content_hash()
    assert again.training.content_hash() == digits.training.content_hash() != other.training.content_hash()
