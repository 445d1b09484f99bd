"""The language's exact probabilities against sums over all texts, its texts and masks, and T5's spelling."""

import pytest
import torch
from tessera_workloads.errors import InvalidRequest
from tessera_workloads.mlm.data import COMPLETION, LONGEST_SPAN, Examination, Language, Texts, draw_spans
from tessera_workloads.mlm.spans import Signs, hide, runs, spell, target_width
from tessera_workloads.protocol import Shard
from training_step import some_step

SIGNS = Signs(words=16)


def flags(text: str) -> torch.Tensor:
    return torch.tensor([[letter == "x" for letter in text]])


def test_the_chain_starts_at_rest() -> None:
    language = Language.draw(words=7, sharpness=1.5, seed=3)
    start = language.log_start.exp()
    assert start.sum().item() == pytest.approx(1)
    assert torch.allclose(start @ language.log_next.exp(), start, atol=1e-12)


def test_texts_have_the_language_s_frequencies() -> None:
    language = Language.draw(words=4, sharpness=1.0, seed=0)
    texts = language.sample(torch.rand(4000, 12, generator=torch.Generator().manual_seed(0)))
    counts = torch.zeros(4, 4)
    counts.index_put_((texts[:, :-1].flatten(), texts[:, 1:].flatten()), torch.ones(44000), accumulate=True)
    assert torch.allclose(counts / counts.sum(1, keepdim=True), language.log_next.exp().float(), atol=0.02)
    assert torch.allclose(texts[:, 0].bincount() / 4000, language.log_start.exp().float(), atol=0.03)


def test_texts_depend_on_the_step_the_seed_and_the_client() -> None:
    language = Language.draw(words=16, sharpness=1.5, seed=0)
    texts = Texts(language, length=24, spans=3, seed=0)
    first, again, later = (texts.batch(4, some_step(step)) for step in (5, 5, 6))
    client = Texts(language, length=24, spans=3, seed=0, client=2)
    assert torch.equal(first["words"], again["words"])
    assert torch.equal(first["masked"], again["masked"])
    assert not torch.equal(first["words"], later["words"])
    assert not torch.equal(first["words"], client.batch(4, some_step(5))["words"])
    assert len({texts.content_hash(), client.content_hash(), Language.draw(16, 1.5, 1).content_hash()}) == 3


def test_clients_may_speak_dialects() -> None:
    language = Language.draw(words=16, sharpness=1.5, seed=0)
    assert language.dialect(Shard(index=1, count=4)) is language
    one, other = (language.dialect(Shard(index, 4, "dirichlet:0.5")).log_start for index in (0, 1))
    assert (one.exp() - other.exp()).abs().sum() > 0.2
    with pytest.raises(InvalidRequest, match="labels:2"):
        language.dialect(Shard(0, 4, "labels:2"))


def test_masks_are_runs_of_bounded_length() -> None:
    masked = draw_spans(2000, length=40, spans=3, step=some_step())
    assert masked.any(dim=1).all()
    assert masked.sum(dim=1).max() <= 3 * LONGEST_SPAN
    assert set(runs(masked).tolist()) == {1, 2, 3}
    assert masked[:, -COMPLETION:].all(dim=1).any(), "whole completions are trained"


def test_a_text_is_spelled_as_t5_does() -> None:
    words = torch.tensor([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]])
    masked = torch.cat([flags(".xx..x"), flags("x.....")])
    assert target_width(masked) == 6
    assert hide(words, masked, SIGNS)[0].tolist() == [1, 17, 17, 4, 5, 17]
    spelled = spell(words, masked, SIGNS, width=7)
    assert spelled.inputs.tolist() == [[1, 17, 4, 5, 18, 16], [17, 2, 3, 4, 5, 6]]
    assert spelled.targets.tolist() == [[17, 2, 3, 18, 6, 19, 16], [17, 1, 18, 16, 16, 16, 16]]
    assert spelled.ends.tolist() == [5, 2]
    assert spelled.places[0][masked[0]].tolist() == [1, 2, 4]


def test_alternatives_are_other_words_and_questions_differ_in_their_end_only() -> None:
    language = Language.draw(words=16, sharpness=1.5, seed=0)
    examination = Examination(language, length=24, seed=0, probe_count=300, question_count=50)
    probes, questions = examination.probes, examination.questions
    assert (probes.words.gather(1, probes.at[:, None])[:, 0] != probes.left).all()
    assert (probes.words.gather(1, probes.at[:, None] + 1)[:, 0] != probes.right).all()
    assert questions.texts.shape == (50, 4, 24)
    assert (questions.texts[:, :, :-COMPLETION] == questions.texts[:, :1, :-COMPLETION]).all()
    assert set(questions.true.tolist()) == {0, 1, 2, 3}
    assert examination.content_hash() != Examination(language, 24, 1, 300, 50).content_hash()
