"""A user's own text, in the words of the language: its blanks are filled from the left, each with the
likeliest word given all that is visible and what was filled before.

The words have no meaning, so they are named by syllables: `ba be bi bo bu da …`.
"""

import difflib
from dataclasses import dataclass

import torch
from torch import Tensor

from tessera_workloads.errors import InvalidRequest
from tessera_workloads.mlm.consistency import T5, Encoder
from tessera_workloads.mlm.spans import runs

BLANK = "_"
_SYLLABLES = tuple(consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou")


@dataclass(frozen=True)
class Line:
    """A line of the text: `words` (1, L), 0 where `masked` (1, L) says that there is a blank."""

    words: Tensor
    masked: Tensor


@dataclass(frozen=True)
class Filled:
    """One blank: its place in the line, the word and its probability."""

    place: int
    word: int
    probability: float


def names(words: int) -> list[str]:
    """The names of a language's words, of one syllable or, where there are many, of two."""
    first = ("",) if words <= len(_SYLLABLES) else _SYLLABLES
    return [begin + end for begin in first for end in _SYLLABLES][:words]


def read_lines(text: str, *, words: int, spans: int) -> list[Line]:
    """The lines of a text that are not empty.

    Raises:
        InvalidRequest: when there is none, a word is not of the language, or too many blanks are apart.
    """
    known = {name: index for index, name in enumerate(names(words))}
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        found = line.split()
        if not found:
            continue
        for word in found:
            if word != BLANK and word not in known:
                near = difflib.get_close_matches(word, known, n=1, cutoff=0)
                raise InvalidRequest(
                    f"line {number} has the word {word!r}, which is not one of this language's {words} "
                    f"(nearest: {near[0]}); they begin with {' '.join(list(known)[:8])}; {BLANK} is a blank"
                )
        masked = torch.tensor([[word == BLANK for word in found]])
        if int(runs(masked).max()) > spans:
            raise InvalidRequest(
                f"line {number} has more than {spans} blanks apart: cut it in two, or train with more spans"
            )
        lines.append(Line(words=torch.tensor([[known.get(word, 0) for word in found]]), masked=masked))
    if not lines:
        raise InvalidRequest(f"the text is empty: write words of the language, and {BLANK} for each blank")
    return lines


def fill(scorer: Encoder | T5, line: Line, device: torch.device) -> tuple[list[int], list[Filled]]:
    """The words of the line with its blanks filled, and what was filled in."""
    words, open_places = line.words.clone().to(device), line.masked.clone().to(device)
    filled = []
    for place in line.masked[0].nonzero()[:, 0].tolist():
        log_probs = scorer.distribution(words, open_places, torch.tensor([place], device=device))[0]
        best = int(log_probs.argmax())
        filled.append(Filled(place=place, word=best, probability=float(log_probs[best].exp())))
        words[0, place] = best
        if isinstance(scorer, Encoder):
            open_places[0, place] = False
    return words[0].tolist(), filled
