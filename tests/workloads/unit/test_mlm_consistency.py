"""The measures against their definitions: zero for a joint distribution, and the paper's eight solutions."""

from itertools import product

import numpy as np
import pytest
import torch
from tessera_workloads.mlm import completion, evaluation
from tessera_workloads.mlm.consistency import T5, Encoder, Exact, against_truth, measure, scorer_of
from tessera_workloads.mlm.data import Examination, Language, Probes, Questions
from tessera_workloads.mlm.model import MlmModel
from tessera_workloads.mlm.parameters import MlmParameters
from tessera_workloads.mlm.spans import Signs
from tessera_workloads.mlm.workload import Mlm
from tessera_workloads.stepping import initialise
from torch import Tensor, nn

CPU = torch.device("cpu")
TINY = MlmParameters(d_model=16, d_ff=32, layers=1, heads=2, d_kv=8)


def tiny_model() -> MlmModel:
    model = MlmModel(TINY)
    initialise(Mlm(), model, seed=0)
    return model.requires_grad_(False)


def some_examination() -> Examination:
    return Examination(Language.draw(16, 1.5, 0), length=24, seed=0, probe_count=200, question_count=40)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_exact_answers_equal_sums_over_all_texts(at: int) -> None:
    language = Language.draw(words=3, sharpness=1.5, seed=1)
    texts = torch.tensor(list(product(range(3), repeat=4)))
    log_probs = language.log_start[texts[:, 0]] + language.log_next[texts[:, :-1], texts[:, 1:]].sum(dim=1)
    assert log_probs.exp().sum().item() == pytest.approx(1)

    def by_summation(hidden: list[int]) -> Tensor:
        open_places = [place for place in range(4) if place not in hidden]
        same = (texts[:, None, open_places] == texts[None, :, open_places]).all(dim=2)
        return log_probs - (same * log_probs.exp()).sum(dim=1).log()

    places = torch.full((len(texts),), at)
    exact = Exact(language)
    assert torch.allclose(exact.conditional(texts, places), by_summation([at]), atol=1e-12)
    for path in exact.joints(texts, places):
        assert torch.allclose(path, by_summation([at, at + 1]), atol=1e-12)


def test_an_exact_table_has_no_inconsistency() -> None:
    assert evaluation.largest_exact_inconsistency(some_examination()) < 1e-5
    truth = measure(Exact(some_examination().language), some_examination().probes, device=CPU)
    judged = against_truth(truth, truth["conditional"])
    assert all(judged[f"sign_{name}"].all() for name in ("joint", "conditional", "average"))
    assert judged["mse_average"].max() < 1e-20


class Table:
    """Eight free conditionals of the pairs (a, b) in {0, 1} x {0, 1}, and a joint that is not theirs."""

    def __init__(self) -> None:
        self.table = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(0))
        self.joint = torch.randn(2, 2, generator=torch.Generator().manual_seed(1))

    def conditional(self, words: Tensor, at: Tensor) -> Tensor:
        return self.table[at, words[:, 0], words[:, 1]]

    def joints(self, words: Tensor, at: Tensor) -> Tensor:
        return self.joint[words[:, 0], words[:, 1]][None]


def test_the_rectangle_is_the_distance_of_each_of_the_eight_from_what_the_others_say() -> None:
    table = Table()
    one = torch.tensor([1])
    probes = Probes(words=torch.tensor([[0, 0]]), at=torch.tensor([0]), left=one, right=one)
    columns = measure(table, probes, device=CPU)
    left = {(a, b): float(table.table[0, a, b]) for a in (0, 1) for b in (0, 1)}  # log P(a | b)
    right = {(a, b): float(table.table[1, a, b]) for a in (0, 1) for b in (0, 1)}  # log P(b | a)
    one_side = [right[0, 0], left[0, 1], right[1, 1], left[1, 0]]
    other_side = [right[0, 1], left[1, 1], right[1, 0], left[0, 0]]
    for side, opposite in ((one_side, other_side), (other_side, one_side)):
        for given in range(4):
            solved = sum(opposite) - sum(value for index, value in enumerate(side) if index != given)
            assert columns["rectangle"].item() == pytest.approx(abs(solved - side[given]), abs=1e-6)
    by_joint = float(table.joint[0, 0] - table.joint[1, 0])
    by_conditional = left[0, 0] - left[1, 0]
    assert columns["gap"].item() == pytest.approx(abs(by_joint - by_conditional), abs=1e-6)
    assert columns["disagreement"].item() == float(by_joint * by_conditional < 0)
    assert "path" not in columns, "one path cannot disagree with itself"


def test_the_average_is_judged_beside_its_parts() -> None:
    columns = {"joint": np.array([3.0, -1.0]), "conditional": np.array([-1.0, 2.0])}
    judged = against_truth(columns, np.array([1.0, -1.0]))
    assert judged["sign_joint"].tolist() == [1, 1]
    assert judged["sign_conditional"].tolist() == [0, 0]
    assert judged["sign_average"].tolist() == [1, 0]
    assert judged["mse_average"].tolist() == [0, 2.25]


def test_an_encoder_s_answers_are_normalised_over_the_words() -> None:
    scorer = scorer_of(tiny_model(), "encoder", Signs(TINY.words))
    assert isinstance(scorer, Encoder)
    texts = torch.arange(16)[:, None] * torch.ones(1, 24, dtype=torch.long)
    texts[:, :5] = texts[0, :5]
    texts[:, 6:] = texts[0, 6:]  # sixteen texts that differ at place 5 alone
    total = scorer.conditional(texts, torch.full((16,), 5)).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-6)


def test_t5_scores_a_span_word_by_word_with_the_sentinel_that_ends_it() -> None:
    model, signs = tiny_model(), Signs(TINY.words)
    scorer = scorer_of(model, "t5", signs)
    assert isinstance(scorer, T5)
    words = torch.randint(0, 16, (2, 24), generator=torch.Generator().manual_seed(0))
    at = torch.tensor([4, 7])
    for row in range(2):
        place, text = int(at[row]), words[row].tolist()
        inputs = torch.tensor([[*text[:place], 17, *text[place + 2 :]]])
        target = torch.tensor([[17, text[place], text[place + 1], 18]])
        log_probs = model.forms["t5"](inputs, target).log_softmax(dim=2)[0]
        expected = sum(float(log_probs[step, token]) for step, token in enumerate(target[0].tolist()))
        assert scorer.joints(words, at)[0, row].item() == pytest.approx(expected, abs=1e-4)


def test_intervals_are_bootstrapped_around_a_median_or_a_mean() -> None:
    random = np.random.default_rng(0)
    skewed = np.concatenate([np.ones(300), np.full(100, 100.0)])
    found = evaluation.summarise({"gap": skewed, "rectangle": random.normal(5, 1, 400)})
    assert found["gap"] == found["gap_low"] == found["gap_high"] == 1.0
    assert found["rectangle"] == pytest.approx(5, abs=0.2)
    # 1.96 standard errors of a mean over 400 on both sides
    assert found["rectangle_high"] - found["rectangle_low"] == pytest.approx(2 * 1.96 / 20, rel=0.15)


def test_a_question_is_asked_in_ten_ways() -> None:
    hidden = {
        name: "".join("x" if flag else "." for flag in places.tolist())
        for name, places in completion.ways(24).items()
    }
    assert len(hidden) == 10
    assert next(iter(hidden)) == completion.BASELINE
    assert hidden["baseline"] == "." * 21 + "xxx"
    assert hidden["offset 2"] == "." * 19 + "xxxxx"
    assert hidden["gap 5, 2 spans"] == "." * 5 + "xxx" + "." * 5 + "xxx" + "." * 5 + "xxx"


def test_a_completion_s_score_is_the_mean_over_its_own_words() -> None:
    model, signs = tiny_model(), Signs(TINY.words)
    scorer = T5(model.forms["t5"], signs)
    questions = some_examination().questions
    some = Questions(questions.texts[:2], questions.true[:2])
    scores = completion.score(scorer, some, device=CPU)
    text = some.texts[1, 3].tolist()
    target = torch.tensor([[17, *text[-4:], 18]])
    log_probs = model.forms["t5"](torch.tensor([[*text[:-4], 17]]), target).log_softmax(dim=2)[0]
    expected = sum(float(log_probs[step, text[step - 5]]) for step in (2, 3, 4)) / 3
    assert scores["offset 1"][1, 3].item() == pytest.approx(expected, abs=1e-5)


def test_the_ensemble_believes_the_surest_way() -> None:
    scores = {"baseline": torch.tensor([[-1.0, -2.0]]), "offset 1": torch.tensor([[-5.0, -1.5]])}
    chosen = completion.choose(scores)
    assert {name: choice.item() for name, choice in chosen.items()} == {
        "baseline": 0,
        "offset 1": 1,
        "ensemble": 0,
        "mean": 1,
    }


def test_nobody_answers_better_than_the_likelihood_ratio() -> None:
    examination = Examination(
        Language.draw(16, 1.5, 0), length=24, seed=0, probe_count=10, question_count=4000
    )
    chosen = completion.choose_exactly(examination.language, examination.questions)
    right = {name: (choice == examination.questions.true).double().mean() for name, choice in chosen.items()}
    assert right["best possible"] > right["exact likelihood"] > 1.5 / 4


class Untrained(nn.Module):
    """Says the same for every word."""

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.zeros(*tokens.shape, 32)


def test_what_knows_nothing_is_consistent() -> None:
    found = evaluation.summarise(evaluation.examine(Encoder(Untrained(), Signs(16)), some_examination(), CPU))
    assert found["gap"] == found["rectangle"] == found["path"] == found["sign_average"] == 0
