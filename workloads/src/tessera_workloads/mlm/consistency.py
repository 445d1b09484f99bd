"""How far are a model's conditionals from any one joint distribution, and how far from the true one?

Two neighbouring words a b of a text, alternatives a' and b', and c for all its other words:

- joint against conditional: log P(ab|c) - log P(a'b|c) and log P(a|bc) - log P(a'|bc) are the same number in
  any joint distribution. Their distance is reported as a median, and how often their signs disagree. The true
  number is known here, so each of them, and their average, also has a sign accuracy and a mean squared error.
- rectangle: P(b|a) P(a|b') P(b'|a') P(a'|b) = P(b'|a) P(a'|b') P(b|a') P(a|b). The paper solves this for each
  of the eight and compares with the one given; as the constraint is a product, all eight distances are the
  same |log left side - log right side|, which is computed directly.
- path: an encoder can build P(ab|c) from the left or from the right; their distance.

In all of them a conditional occurs with both of its words and opposite signs, so a scorer may leave out what
does not depend on the words asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from tessera_workloads.mlm.data import Language, Probes
from tessera_workloads.mlm.model import MlmModel
from tessera_workloads.mlm.spans import Signs, hide, spell, target_width

Columns = Mapping[str, NDArray[np.float64]]
"""One number per probe, by the name of its measure."""

CHUNK = 250
"""Texts that a model reads at once in the evaluation."""

INCONSISTENCIES = ("gap", "disagreement", "rectangle", "path")
"""The measures that are zero for any joint distribution; `path` only where there are two."""


class Scorer(Protocol):
    """Answers about words (N, L) at places (N,); natural logarithms, up to a constant per context."""

    def conditional(self, words: Tensor, at: Tensor) -> Tensor:
        """(N,): log P(the word at `at` | all others)."""

    def joints(self, words: Tensor, at: Tensor) -> Tensor:
        """(paths, N): log P(the words at `at` and `at` + 1 | all others), one row per way to compute it."""


@dataclass(frozen=True)
class Exact:
    """The language's own conditionals."""

    language: Language

    def conditional(self, words: Tensor, at: Tensor) -> Tensor:
        """Bayes' rule over all words that could stand there."""
        scores = self.language.before(words, at) + self.language.after(words, at)
        return _pick(scores.log_softmax(dim=1), words, at)

    def joints(self, words: Tensor, at: Tensor) -> Tensor:
        """Bayes' rule over all pairs; and the chain rule from the right."""
        left, right = self.language.before(words, at), self.language.after(words, at + 1)
        # (N, V): log of the sum over the other word of the pair
        from_left = (left.exp() @ self.language.log_next.exp()).log() + right
        whole = from_left.logsumexp(dim=1)
        both = _pick(left, words, at) + self.language.log_next[_word(words, at), _word(words, at + 1)]
        direct = both + _pick(right, words, at + 1) - whole
        backwards = _pick(from_left, words, at + 1) - whole + self.conditional(words, at)
        return torch.stack([direct, backwards])


@dataclass(frozen=True)
class Encoder:
    """What the encoder says, normalised over the words of the language."""

    model: nn.Module
    signs: Signs

    def distribution(self, words: Tensor, masked: Tensor, at: Tensor) -> Tensor:
        """(N, V): log P(word at `at` | the words that are not masked)."""
        return _over_words(self.model(hide(words, masked, self.signs)), at, self.signs)

    def conditional(self, words: Tensor, at: Tensor) -> Tensor:
        """One masked place."""
        return _pick(self.distribution(words, _places(words, at), at), words, at)

    def joints(self, words: Tensor, at: Tensor) -> Tensor:
        """The chain rule from the left, and from the right."""
        both = _places(words, at) | _places(words, at + 1)
        return torch.stack(
            [
                _pick(self.distribution(words, both, first), words, first) + self.conditional(words, second)
                for first, second in ((at, at + 1), (at + 1, at))
            ]
        )


@dataclass(frozen=True)
class T5:
    """What the T5 model says: the probability of writing a span out, with the sentinel that ends it."""

    model: nn.Module
    signs: Signs

    def target_log_probs(self, words: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        """(N, T): log P(each target token | those before it), 0 behind the end; and the ends (N,)."""
        spelled = spell(words, masked, self.signs, width=target_width(masked))
        log_probs = self.model(spelled.inputs, spelled.targets).float().log_softmax(dim=2)
        each = log_probs.gather(2, spelled.targets[..., None])[..., 0].double()
        place = torch.arange(each.shape[1], device=each.device)
        return torch.where(place <= spelled.ends[:, None], each, 0.0), spelled.ends

    def distribution(self, words: Tensor, masked: Tensor, at: Tensor) -> Tensor:
        """(N, V): log P(word at `at` | the words that are not masked, and the masked ones left of it)."""
        spelled = spell(words, masked, self.signs, width=target_width(masked))
        logits = self.model(spelled.inputs, spelled.targets)
        return _over_words(logits, _word(spelled.places, at), self.signs)

    def conditional(self, words: Tensor, at: Tensor) -> Tensor:
        """A span of one word."""
        return self.target_log_probs(words, _places(words, at))[0].sum(dim=1)

    def joints(self, words: Tensor, at: Tensor) -> Tensor:
        """A span of two words; it has one path."""
        both = _places(words, at) | _places(words, at + 1)
        return self.target_log_probs(words, both)[0].sum(dim=1)[None]


def scorer_of(model: MlmModel, form: str, signs: Signs) -> Encoder | T5:
    """The scorer of one form of a model."""
    found = model.forms[form]
    return Encoder(found, signs) if form == "encoder" else T5(found, signs)


def measure(scorer: Scorer, probes: Probes, *, device: torch.device) -> Columns:
    """Every measure that needs no truth, and both log-odds (`joint`, `conditional`), per probe."""
    parts = []
    for at in range(0, len(probes.words), CHUNK):
        some = probes.part(at, at + CHUNK, device)
        parts.append(torch.stack(_measure(scorer, some)).cpu())
    joint, conditional, rectangle, path = torch.cat(parts, dim=1).numpy()
    columns = {
        "gap": np.abs(joint - conditional),
        "disagreement": (joint * conditional < 0).astype(np.float64),
        "rectangle": rectangle,
        "joint": joint,
        "conditional": conditional,
    }
    return columns if np.isnan(path).all() else columns | {"path": path}


def against_truth(columns: Columns, truth: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Sign accuracy and squared error of the joint's log-odds, the conditional's, and their average."""
    odds = {name: columns[name] for name in ("joint", "conditional")}
    odds["average"] = (odds["joint"] + odds["conditional"]) / 2
    accuracies = {f"sign_{name}": (value * truth > 0).astype(np.float64) for name, value in odds.items()}
    return accuracies | {f"mse_{name}": (value - truth) ** 2 for name, value in odds.items()}


def _measure(scorer: Scorer, probes: Probes) -> list[Tensor]:
    words, at = probes.words, probes.at
    swapped = _swap(words, at, probes.left)
    corners = (
        (1, words),
        (-1, swapped),
        (-1, _swap(words, at + 1, probes.right)),
        (1, _swap(swapped, at + 1, probes.right)),
    )
    joints = scorer.joints(words, at)
    lefts = [scorer.conditional(text, at) for _, text in corners]
    rights = [scorer.conditional(text, at + 1) for _, text in corners]
    sides = zip(corners, lefts, rights, strict=True)
    rectangle = sum((sign * (right - left) for (sign, _), left, right in sides), torch.zeros_like(lefts[0]))
    return [
        joints[0] - scorer.joints(swapped, at)[0],
        lefts[0] - lefts[1],
        rectangle.abs(),
        joints.amax(dim=0) - joints.amin(dim=0) if len(joints) > 1 else torch.full_like(joints[0], torch.nan),
    ]


def _over_words(logits: Tensor, at: Tensor, signs: Signs) -> Tensor:
    """(N, V): log-probabilities at one place of each row, over the words of the language alone."""
    place = at[:, None, None].expand(-1, 1, signs.words)
    return logits.gather(1, place)[:, 0].double().log_softmax(dim=1)


def _places(words: Tensor, at: Tensor) -> Tensor:
    return F.one_hot(at, words.shape[1]).bool()


def _word(words: Tensor, at: Tensor) -> Tensor:
    return words.gather(1, at[:, None])[:, 0]


def _pick(scores: Tensor, words: Tensor, at: Tensor) -> Tensor:
    return scores.gather(1, _word(words, at)[:, None])[:, 0]


def _swap(words: Tensor, at: Tensor, word: Tensor) -> Tensor:
    return words.scatter(1, at[:, None], word[:, None])
