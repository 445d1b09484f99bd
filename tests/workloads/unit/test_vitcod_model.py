"""ViTCoD's model, phases and data against the formulas."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Literal

import pytest
import torch
from tessera_workloads.digits import load_digits_split
from tessera_workloads.errors import InvalidParameter, NotOffered
from tessera_workloads.protocol import Artefacts, Phase, Shard
from tessera_workloads.stepping import initialise
from tessera_workloads.vitcod.data import Pictures, move
from tessera_workloads.vitcod.evaluation import coder_flops_share
from tessera_workloads.vitcod.latency import largest_difference
from tessera_workloads.vitcod.masks import BlockMask
from tessera_workloads.vitcod.model import (
    ARMS,
    CODED,
    CONTINUED,
    DENSE,
    RANDOM,
    SPARSE,
    Arms,
    HeadCoder,
    average_attention,
    head_grams,
    principal_heads,
    set_coders,
)
from tessera_workloads.vitcod.parameters import VitcodParameters
from tessera_workloads.vitcod.phases import phases
from tessera_workloads.vitcod.workload import Vitcod
from training_step import some_step

SMALL = VitcodParameters(width=16, heads=4, layers=2, image=16, batch=4)


def initialised(p: VitcodParameters = SMALL) -> Arms:
    workload = Vitcod()
    model = workload.build_model(p, {})
    initialise(workload, model, seed=0)
    return model


def test_the_coder_mixes_heads_and_nothing_else() -> None:
    coder = HeadCoder(3)
    mixed = torch.randn((2, 3, 5, 7), generator=torch.Generator().manual_seed(0))
    expected = coder.decode.weight @ coder.encode.weight @ mixed[1, :, 4, 6]
    assert largest_difference(coder(mixed)[1, :, 4, 6], expected) <= 1e-6
    assert coder.encode.weight.shape == (2, 3), "half of the heads, rounded up"


def test_principal_heads_hold_the_most_that_half_of_the_heads_can() -> None:
    samples = torch.randn((1000, 4), generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [3, 0.1, 2, 0.2]
    )
    directions = principal_heads(samples.T @ samples)
    assert largest_difference(directions @ directions.T, torch.eye(2)) <= 1e-5
    lost = (samples - samples @ directions.T @ directions).square().sum()
    assert lost < 1.01 * samples[:, [1, 3]].square().sum()


def test_coders_start_as_the_projection_that_moves_queries_and_keys_least() -> None:
    model = initialised()
    images = torch.rand((8, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    grams = head_grams(model.arm(CODED), [images[:5], images[5:]])
    assert grams[0].shape == (2, 4, 4)
    set_coders(model.arm(CODED), principal_heads(grams[0]), principal_heads(grams[1]))
    best = model.arm(CODED)(images).distance
    set_coders(model.arm(CODED), torch.eye(4)[:2].expand(2, -1, -1), torch.eye(4)[:2].expand(2, -1, -1))
    assert 0 < best < model.arm(CODED)(images).distance
    assert model.arm(DENSE)(images).distance == 0


def test_average_attention_is_the_mean_over_all_pictures_of_rows_that_sum_to_one() -> None:
    model = initialised()
    images = torch.rand((6, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    whole = average_attention(model.arm(DENSE), [images])
    in_parts = average_attention(model.arm(DENSE), [images[:2], images[2:]])
    assert largest_difference(in_parts, whole) <= 1e-6
    assert largest_difference(whole.sum(-1), torch.ones(2, 4, 17)) <= 1e-6


def test_the_loss_is_entropy_plus_weighted_distance() -> None:
    p, workload, model = SMALL, Vitcod(), initialised()
    batch = workload.example_batch(p, 4, "train", some_step())
    for name in ARMS:
        loss = workload.loss(p, model, batch, some_step(phase=name))
        expected = loss.parts["entropy"] + 1e-4 * loss.parts["distance"]
        assert loss.total.item() == pytest.approx(expected.item())
        assert (loss.parts["distance"] > 0) == (name in (CODED, SPARSE, RANDOM))


def test_every_arm_starts_where_the_one_before_it_stopped() -> None:
    p, workload, model = SMALL, Vitcod(), initialised()
    image = workload.example_batch(p, 4, "infer", some_step())["image"]
    plan = {phase.name: phase for phase in workload.phases(p)}
    workload.apply_artefacts(model, DENSE, workload.example_artefacts(p, plan[DENSE]))
    assert torch.equal(model.arm(CONTINUED)(image).logits, model.arm(DENSE)(image).logits)
    coded = model.arm(CODED)
    assert torch.equal(coded.classify.weight, model.arm(DENSE).classify.weight)
    workload.apply_artefacts(model, CODED, workload.example_artefacts(p, plan[CODED]))
    assert torch.equal(model.arm(SPARSE).classify.weight, coded.classify.weight)
    assert not torch.equal(model.arm(SPARSE)(image).logits, coded(image).logits), "it is masked now"


@pytest.mark.parametrize("form", ["gather", "masked"])
def test_every_served_form_answers_as_the_trained_arm(form: Literal["gather", "masked"]) -> None:
    p = dataclasses.replace(SMALL, block=4, global_columns=1, sparsity=0.3, serving=form)
    workload, model = Vitcod(), initialised(p)
    left: Mapping[str, Artefacts] = {
        phase.name: workload.example_artefacts(p, phase) for phase in workload.phases(p)
    }
    for phase, artefacts in left.items():
        workload.apply_artefacts(model, phase, artefacts)
    serving = workload.build_serving(p, left)
    serving.load_state_dict({name: model.state_dict()[name] for name in serving.state_dict()}, strict=True)
    batch = workload.example_batch(p, 3, "infer", some_step())
    expected = model.arm(SPARSE)(batch["image"]).logits
    assert largest_difference(workload.infer_batch(serving, batch), expected) <= 1e-5


def test_what_the_phases_leave_is_what_the_examples_look_like() -> None:
    p, workload, model = SMALL, Vitcod(), initialised()
    train, _ = load_digits_split(0)
    data = Pictures(train.part(slice(40)), p.image)
    for phase in workload.phases(p):
        left = workload.compute_artefacts(p, phase, model, data, some_step(phase=phase.name))
        example = workload.example_artefacts(p, phase)
        assert {name: (t.shape, t.dtype) for name, t in left.tensors.items()} == {
            name: (t.shape, t.dtype) for name, t in example.tensors.items()
        }
        json.dumps(left.facts)
        workload.apply_artefacts(model, phase.name, left)


def test_the_baseline_trains_on_for_the_steps_and_rates_of_coder_and_mask_together() -> None:
    plan: dict[str, Phase] = {phase.name: phase for phase in phases(SMALL)}
    assert list(plan) == [DENSE, CONTINUED, CODED, SPARSE, RANDOM]
    coded, sparse = plan[CODED], plan[SPARSE]
    assert plan[CONTINUED].steps == coded.steps + sparse.steps
    assert [plan[CONTINUED].lr_at(step) for step in range(plan[CONTINUED].steps)] == [
        *(coded.lr_at(step) for step in range(coded.steps)),
        *(sparse.lr_at(step) for step in range(sparse.steps)),
    ]
    assert all(phase.updates[0].trains == (f"{name}.*",) for name, phase in plan.items())


def test_the_rate_rises_for_a_twentieth_of_the_steps() -> None:
    dense = phases(VitcodParameters(dense_steps=100))[0]
    assert max(range(100), key=dense.lr_at) == 4


def test_a_picture_that_is_not_moved_is_the_digit_and_batches_depend_on_the_step_alone() -> None:
    train, _ = load_digits_split(0)
    same = move(train.images[:3], 8, torch.zeros((3, 4)))
    assert largest_difference(same, train.images[:3]) <= 1e-6
    data = Pictures(train, 28)
    first, again, other = (data.batch(5, some_step(step)) for step in (1, 1, 2))
    assert torch.equal(first["image"], again["image"])
    assert not torch.equal(first["image"], other["image"])
    assert first["image"].shape == (5, 1, 28, 28)


def test_a_client_with_fewer_digits_than_a_batch_sees_some_of_them_again() -> None:
    train, _ = load_digits_split(0)
    batch = Pictures(train.part(slice(3)), 8).batch(5, some_step())
    assert batch["image"].shape == (5, 1, 8, 8)
    assert set(batch["label"].tolist()) <= set(train.labels[:3].tolist())


def test_clients_share_out_the_digits() -> None:
    train, _ = load_digits_split(0)
    parts = [Pictures(train, 28).shard(Shard(index, 7)) for index in range(7)]
    assert torch.equal(torch.cat([part.digits.labels for part in parts]), train.labels)
    with pytest.raises(NotOffered, match="iid"):
        parts[0].shard(Shard(0, 2, "labels:2"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"patch": "5"}, "does not divide image"),
        ({"heads": "5"}, "does not divide width"),
        ({"block": "3"}, "does not cut"),
        ({"block": "49"}, "does not cut"),
        ({"global_columns": "49"}, "fewer"),
        ({"serving": "flex", "global_columns": "2"}, "one block"),
    ],
)
def test_parameters_that_do_not_fit_together_are_refused(settings: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidParameter, match=said):
        VitcodParameters.parse(settings)


def test_the_coders_operations_by_hand() -> None:
    # 2 coders, H=4 to 2 and back, 50 tokens: 2 * (2 * 2 * 4 * 2) N d against 4 * 4 * 50 N d.
    assert coder_flops_share(4, 50) == 64 / 800


@pytest.mark.parametrize("size", ["ci", "slice"])
def test_example_masks_prune_what_is_asked_for(size: str) -> None:
    p, workload = VitcodParameters.parse({}, size=size), Vitcod()
    after_coder = workload.phases(p)[2]
    left = workload.example_artefacts(p, after_coder).tensors
    mask = BlockMask(left["sparse.blocks"], left["sparse.columns"], p.tokens)
    assert mask.blocks.shape[:2] == (p.layers, p.heads)
    assert mask.sparsity() == pytest.approx(p.sparsity, abs=0.01)
