"""Ensemble of conditionals: ask the T5 model for the same words in ten ways, and believe the surest answer.

Each way hides the completion together with other words: none (the baseline), the last K words before it (they
move into the target, before the completion), or one or two spans of three words further left. A candidate's
score is the mean log-probability of its completion's words, given the target before them; the ensemble takes
the candidate with the largest score in any of the ways (settings of the paper's notebook: K = 1, 2, 3; gap 3,
4, 5; one or two spans). The mean over the ways is reported beside it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tessera_workloads.mlm.consistency import CHUNK, T5
from tessera_workloads.mlm.data import CANDIDATES, COMPLETION, Language, Questions

BASELINE = "baseline"
ENSEMBLES = ("ensemble", "mean")
EXACT = ("exact likelihood", "best possible")
_OFFSETS = (1, 2, 3)
_MULTISPANS = ((5, 1), (5, 2), (3, 1), (3, 2), (4, 1), (4, 2))
"""Gap between spans, and how many of them."""
_SPAN = 3


def ways(length: int) -> dict[str, Tensor]:
    """The places (L,) that each way hides, by its name; the baseline is the first."""
    hidden = {BASELINE: _run(length, length - COMPLETION, length)}
    for offset in _OFFSETS:
        hidden[f"offset {offset}"] = _run(length, length - COMPLETION - offset, length)
    for gap, count in _MULTISPANS:
        masked, end = hidden[BASELINE], length - COMPLETION
        for _ in range(count):
            end -= gap
            masked = masked | _run(length, end - _SPAN, end)
            end -= _SPAN
        hidden[f"gap {gap}, {count} span{'s' * (count > 1)}"] = masked
    return hidden


def score(scorer: T5, questions: Questions, *, device: torch.device) -> dict[str, Tensor]:
    """(N, CANDIDATES) by the name of the way."""
    texts = questions.texts.flatten(0, 1)
    scores = {}
    for name, hidden in ways(texts.shape[1]).items():
        parts = []
        for at in range(0, len(texts), CHUNK):
            some = texts[at : at + CHUNK].to(device)
            log_probs, ends = scorer.target_log_probs(some, hidden.to(device).expand(len(some), -1))
            end = int(ends[0])
            parts.append(log_probs[:, end - COMPLETION : end].mean(dim=1).cpu())
        scores[name] = torch.cat(parts).view(-1, CANDIDATES)
    return scores


def choose(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The chosen candidate (N,) of every way, of the ensemble, and of the mean over the ways."""
    stacked = torch.stack(list(scores.values()))
    chosen = {name: one.argmax(dim=1) for name, one in scores.items()}
    together = (stacked.amax(dim=0), stacked.mean(dim=0))
    return chosen | {name: one.argmax(dim=1) for name, one in zip(ENSEMBLES, together, strict=True)}


def choose_exactly(language: Language, questions: Questions) -> dict[str, Tensor]:
    """What the truth would choose by the same score, and the best that anyone could (likelihood ratio)."""
    ends = questions.texts[:, :, -COMPLETION - 1 :]
    likelihood = language.log_next[ends[:, :, :-1], ends[:, :, 1:]].sum(dim=2)
    # A wrong answer begins at rest: all but its first word is as likely as in a true one.
    ratio = language.log_next[ends[:, :, 0], ends[:, :, 1]] - language.log_start[ends[:, :, 1]]
    return {name: one.argmax(dim=1) for name, one in zip(EXACT, (likelihood, ratio), strict=True)}


def _run(length: int, begin: int, end: int) -> Tensor:
    place = torch.arange(length)
    return (place >= begin) & (place < end)
