"""A language whose joint distribution is known, texts and masks drawn from it, and questions to ask a model.

Words follow each other as a Markov chain of order one in its stationary state. So the probability of any word
or pair of words, given all other words of its text, is known exactly, and with it the true log-odds that a
masked model should have. The chain is drawn from the seed; every run learns a language of its own, and its
test texts are other texts of the same language.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

from tessera_workloads.errors import InvalidRequest
from tessera_workloads.protocol import Batch, Shard, Step
from tessera_workloads.randomness import derive_seed, generator_at

COMPLETION = 3
"""Words that a question leaves open at the end of its text (the paper takes fewer than 5)."""

LONGEST_SPAN = 2 * COMPLETION
"""Masked words in a row while training, so that a completion and as many words before it are in its range."""

CANDIDATES = 4
"""Answers to choose from, one of them true."""

_CPU = torch.device("cpu")
_STEPS_TO_REST = 1024
_LEAST_SHARE = 1e-4


@dataclass(frozen=True)
class Language:
    """A Markov chain over V words: logarithms of its start (V,) and of its transitions (V, V), float64."""

    log_start: Tensor
    log_next: Tensor

    @classmethod
    def draw(cls, words: int, sharpness: float, seed: int) -> Self:
        """Transitions as a softmax over normal log-weights of the given standard deviation."""
        generator = generator_at(_CPU, seed, "mlm", "language")
        return cls.at_rest(sharpness * torch.randn(words, words, generator=generator, dtype=torch.float64))

    @classmethod
    def at_rest(cls, log_weights: Tensor) -> Self:
        """The chain with these log-weights (V, V) of its transitions, started in its stationary state."""
        log_next = log_weights.log_softmax(dim=1)
        start = torch.linalg.matrix_power(log_next.exp(), _STEPS_TO_REST)[0]
        return cls(log_start=(start / start.sum()).log(), log_next=log_next)

    def dialect(self, shard: Shard) -> "Language":
        """A client's own language: `dirichlet:a` reweights its words by their shares of a draw.

        Raises:
            InvalidRequest: for a scheme that a text has no use for.
        """
        if shard.scheme == "iid":
            return self
        kind, _, concentration = shard.scheme.partition(":")
        if kind != "dirichlet":
            raise InvalidRequest(
                f"texts have no labels, so they cannot be shared out as {shard.scheme!r}: use iid or "
                "dirichlet:a"
            )
        random = np.random.default_rng(derive_seed(0, "mlm", "dialect", shard.scheme, shard.index))
        share = random.dirichlet([float(concentration)] * len(self.log_start))
        return Language.at_rest(self.log_next + torch.from_numpy(np.log(share + _LEAST_SHARE)))

    def sample(self, uniform: Tensor) -> Tensor:
        """Texts (B, L) from uniform numbers (B, L) in [0, 1), word by word by the inverse distribution."""
        start, following = (
            log.exp().cumsum(-1).float().to(uniform.device) for log in (self.log_start, self.log_next)
        )
        last = len(self.log_start) - 1
        words = [torch.searchsorted(start, uniform[:, 0].contiguous(), right=True).clamp_(max=last)]
        for place in range(1, uniform.shape[1]):
            chosen = torch.searchsorted(
                following[words[-1]], uniform[:, place, None].contiguous(), right=True
            )
            words.append(chosen[:, 0].clamp_(max=last))
        return torch.stack(words, dim=1)

    def before(self, words: Tensor, at: Tensor) -> Tensor:
        """(B, V): log P(word at `at` | the word before it)."""
        previous = self.log_next[words.gather(1, (at - 1).clamp(min=0)[:, None])[:, 0]]
        return torch.where(at[:, None] > 0, previous, self.log_start)

    def after(self, words: Tensor, at: Tensor) -> Tensor:
        """(B, V): log P(the word after `at` | word at `at`); 0 where the text ends."""
        last = words.shape[1] - 1
        following = self.log_next.T[words.gather(1, (at + 1).clamp(max=last)[:, None])[:, 0]]
        return torch.where(at[:, None] < last, following, 0.0)

    def content_hash(self) -> str:
        """SHA-256 over the transitions, rounded so that it does not depend on their last bits."""
        return hashlib.sha256((self.log_next * 1e9).round().long().numpy().tobytes()).hexdigest()


def draw_spans(size: int, *, length: int, spans: int, step: Step) -> Tensor:
    """(size, length) places to mask: 1 to `spans` runs of 1 to LONGEST_SPAN words; they may touch."""
    shape, device = (size, spans), step.device

    def whole(low: int, high: int, shape: tuple[int, int]) -> Tensor:
        return torch.randint(low, high, shape, generator=step.generator, device=device)

    starts = whole(0, length, shape)
    uniform = torch.rand(shape, generator=step.generator, device=device)
    lengths = ((LONGEST_SPAN + 1.0) ** uniform).long()  # log-uniform: 36 % are single words
    used = torch.arange(spans, device=device) < whole(1, spans + 1, (size, 1))
    place = torch.arange(length, device=device)[:, None, None]
    inside = (place >= starts) & (place < starts + lengths) & used
    return inside.any(dim=2).T


@dataclass(frozen=True)
class Texts:
    """Endless training texts with the places to mask: `words` (B, L) and `masked` (B, L)."""

    language: Language
    length: int
    spans: int
    seed: int
    client: int = 0

    def batch(self, size: int, step: Step) -> Batch:
        """Fresh texts for every step, and others for every client."""
        generator = generator_at(step.device, step.generator.initial_seed(), "texts", self.client)
        uniform = torch.rand((size, self.length), generator=generator, device=step.device)
        masked = draw_spans(size, length=self.length, spans=self.spans, step=step)
        return {"words": self.language.sample(uniform), "masked": masked}

    def content_hash(self) -> str:
        """Hash of the language and the client; the texts follow from them and from the steps' generators."""
        return hashlib.sha256(f"{self.language.content_hash()}/{self.client}".encode()).hexdigest()


@dataclass(frozen=True)
class Probes:
    """Pairs of neighbouring words in texts of their own, each word with a likely alternative.

    `words` (N, L); `at` (N,) is the place of the left word; `left` and `right` (N,) are the alternatives.
    """

    words: Tensor
    at: Tensor
    left: Tensor
    right: Tensor

    def part(self, begin: int, end: int, device: torch.device) -> "Probes":
        """Some of them, on a device."""
        return Probes(*(one[begin:end].to(device) for one in (self.words, self.at, self.left, self.right)))


@dataclass(frozen=True)
class Questions:
    """Texts (N, CANDIDATES, L) that differ in their last COMPLETION words; `true` (N,) is the one that was
    written.
    """

    texts: Tensor
    true: Tensor


@dataclass(frozen=True)
class Examination:
    """The test split: probes for the consistency, questions for the ensemble. Seen by no training step."""

    language: Language
    length: int
    seed: int
    probe_count: int
    question_count: int

    @cached_property
    def probes(self) -> Probes:
        """The alternatives are drawn from the true conditionals, as the paper's come from a strong model."""
        generator = generator_at(_CPU, self.seed, "mlm", "probes")
        count = self.probe_count
        words = self.language.sample(torch.rand((count, self.length), generator=generator))
        at = torch.randint(0, self.length - 1, (count,), generator=generator)

        def alternative(place: Tensor) -> Tensor:
            likely = (self.language.before(words, place) + self.language.after(words, place)).softmax(dim=1)
            likely.scatter_(1, words.gather(1, place[:, None]), 0.0)
            return likely.multinomial(1, generator=generator)[:, 0]

        return Probes(words=words, at=at, left=alternative(at), right=alternative(at + 1))

    @cached_property
    def questions(self) -> Questions:
        """Wrong answers are likely texts too, but they end other texts."""
        generator = generator_at(_CPU, self.seed, "mlm", "questions")
        count = self.question_count
        written = self.language.sample(torch.rand((count * CANDIDATES, self.length), generator=generator))
        written = written.view(count, CANDIDATES, self.length)
        true = torch.randint(0, CANDIDATES, (count,), generator=generator)
        begun = written[torch.arange(count), true][:, None, :-COMPLETION].expand(-1, CANDIDATES, -1)
        return Questions(texts=torch.cat([begun, written[:, :, -COMPLETION:]], dim=2), true=true)

    def content_hash(self) -> str:
        """Hash over the texts of the probes and of the questions."""
        digest = hashlib.sha256(self.probes.words.numpy().tobytes())
        digest.update(self.questions.texts.numpy().tobytes())
        return digest.hexdigest()
