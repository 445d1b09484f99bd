"""T5's structure by its published parameter counts, what it may look at, and the loss under torch's
transforms.
"""

import math

import pytest
import torch
from tessera_workloads.errors import InvalidParameter, InvalidRequest
from tessera_workloads.mlm import filling
from tessera_workloads.mlm.consistency import Encoder
from tessera_workloads.mlm.model import MlmModel, distance_bucket, mean_log_loss
from tessera_workloads.mlm.parameters import MlmParameters
from tessera_workloads.mlm.spans import Signs, spell
from tessera_workloads.mlm.workload import Mlm
from tessera_workloads.protocol import Artefacts
from tessera_workloads.stepping import initialise
from torch import Tensor, nn
from training_step import some_step

TINY = MlmParameters(d_model=16, d_ff=32, layers=1, heads=2, d_kv=8, batch=4)
CPU = torch.device("cpu")


def tiny_model() -> MlmModel:
    model = MlmModel(TINY)
    initialise(Mlm(), model, seed=0)
    return model


@pytest.mark.parametrize(("size", "count"), [("slice", 60_506_624), ("full", 2_851_598_336)])
def test_the_published_sizes_of_t5_come_out(size: str, count: int) -> None:
    with torch.device("meta"):
        model = Mlm().build_model(MlmParameters.parse({}, size=size), {})
    assert sum(tensor.numel() for tensor in model.parameters()) == count


def test_near_distances_have_a_bucket_of_their_own_and_far_ones_share() -> None:
    both = distance_bucket(torch.tensor([0, -1, -7, -8, -127, -500, 1, 500]), two_sided=True).tolist()
    assert both == [0, 1, 7, 8, 15, 15, 17, 31]
    back = distance_bucket(torch.tensor([3, 0, -15, -16, -127, -500]), two_sided=False).tolist()
    assert back == [0, 0, 15, 16, 31, 31]


def test_the_decoder_never_looks_ahead_and_filling_up_changes_nothing() -> None:
    model = tiny_model().forms["t5"]
    words = torch.randint(0, 16, (1, 24), generator=torch.Generator().manual_seed(1))
    masked = torch.zeros(1, 24, dtype=torch.bool)
    masked[0, 3:6] = True
    narrow, wide = (spell(words, masked, Signs(16), width=width) for width in (5, 9))
    with torch.no_grad():
        short = model(narrow.inputs[:, :22], narrow.targets)
        long = model(wide.inputs, wide.targets)
        assert torch.allclose(short, long[:, :5], atol=1e-5)
        changed = narrow.targets.clone()
        changed[0, 3] = (changed[0, 3] + 1) % 16
        assert torch.equal(model(narrow.inputs, changed)[:, :4], model(narrow.inputs, narrow.targets)[:, :4])


def test_the_loss_is_a_mean_over_counted_places_and_then_over_texts() -> None:
    logits = torch.zeros(2, 3, 4)
    logits[0, 0, 1] = math.log(3)  # probabilities 1/6, 1/2, 1/6, 1/6
    counted = torch.tensor([[True, True, False], [False, False, True]])
    loss = mean_log_loss(logits, torch.ones(2, 3, dtype=torch.long), counted)
    assert loss.item() == pytest.approx(((math.log(2) + math.log(4)) / 2 + math.log(4)) / 2)


@pytest.mark.parametrize("phase", ["encoder", "t5"])
def test_an_example_looks_like_a_batch_and_both_have_a_loss(phase: str) -> None:
    workload, model = Mlm(), tiny_model()
    batch = workload.training_data(TINY, seed=0).batch(4, some_step(phase=phase))
    example = workload.example_batch(TINY, 4, "train", some_step(phase=phase))
    assert {name: (one.shape, one.dtype) for name, one in example.items()} == {
        name: (one.shape, one.dtype) for name, one in batch.items()
    }
    for seen in (batch, example):
        # An untrained model is about as good as guessing among 32 tokens.
        assert workload.loss(TINY, model, seen, some_step(phase=phase)).total.item() == pytest.approx(
            math.log(32), abs=1.5
        )


def test_each_form_is_measured_early_and_then_trained_on() -> None:
    workload = Mlm()
    phases = workload.phases(MlmParameters(steps=100, early_steps=40))
    assert [(phase.name, phase.steps) for phase in phases] == [
        ("encoder-early", 40),
        ("encoder", 60),
        ("t5-early", 40),
        ("t5", 60),
    ]
    assert phases[1].updates[0].trains == ("forms.encoder.*",)
    assert [phase.name for phase in workload.phases(MlmParameters(form="t5", early_steps=0))] == ["t5"]
    early, late = (MlmParameters(steps=1000, early_steps=300) for _ in range(2))
    first, second = workload.phases(early)[:2]
    assert first.lr_at(0) == pytest.approx(late.learning_rate / 50)
    assert first.lr_at(299) == pytest.approx(second.lr_at(60), rel=0.2)
    assert second.lr_at(699) == pytest.approx(0.1 * late.learning_rate, rel=0.01)


def test_what_was_measured_early_stays_with_the_model() -> None:
    model = Mlm().apply_artefacts(MlmModel(TINY), "t5-early", Artefacts(facts={"gap": 0.25}))
    assert isinstance(model, MlmModel)
    assert model.early == {"t5": {"gap": 0.25}}


def test_settings_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="need 53"):
        MlmParameters(words=48)
    with pytest.raises(InvalidParameter, match="must be less than steps=100"):
        MlmParameters(steps=100)


class Knowing(nn.Module):
    """An encoder that is sure of word 3 wherever it is asked."""

    def forward(self, tokens: Tensor) -> Tensor:
        logits = torch.zeros(*tokens.shape, 32)
        logits[..., 3] = 30.0
        return logits


def test_blanks_of_a_text_are_filled() -> None:
    (line,) = filling.read_lines("\nba _ bu _\n", words=16, spans=3)
    words, filled = filling.fill(Encoder(Knowing(), Signs(16)), line, CPU)
    assert [filling.names(16)[word] for word in words] == ["ba", "bo", "bu", "bo"]
    assert [one.place for one in filled] == [1, 3]
    assert filled[0].probability == pytest.approx(1)


def test_a_large_language_has_longer_names() -> None:
    assert len(set(filling.names(4096))) == 4096
    assert {len(name) for name in filling.names(71)} == {4}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the text is empty"),
        ("ba xu", "line 1 has the word 'xu'"),
        ("_ ba _ ba _ ba _", "more than 3 blanks apart"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        filling.read_lines(text, words=16, spans=3)
