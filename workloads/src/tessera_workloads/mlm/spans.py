"""Texts with masked places, in the two spellings that models read.

An encoder's text keeps its length: every masked word is replaced by one mask sign. T5's text shrinks: every
run of masked words becomes one sentinel, and the target lists each sentinel with the words that it stands
for, and a last sentinel at the end (Raffel et al., "Exploring the Limits of Transfer Learning", section
3.1.4). All of it is index arithmetic on fixed shapes, so it can be traced.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Signs:
    """Token numbers: the words from 0; then the start sign, which also fills up; then the sentinels."""

    words: int

    @property
    def start(self) -> int:
        """Begins every target and fills what is left of a row."""
        return self.words

    @property
    def mask(self) -> int:
        """The first sentinel; the encoder's only mask sign."""
        return self.words + 1


@dataclass(frozen=True)
class Spelled:
    """T5's spelling: `inputs` (B, L) and `targets` (B, T), filled up with the start sign.

    `places` (B, L): where in its target a masked word stands; `ends` (B,): where the last sentinel stands.
    """

    inputs: Tensor
    targets: Tensor
    places: Tensor
    ends: Tensor


def hide(words: Tensor, masked: Tensor, signs: Signs) -> Tensor:
    """The encoder's input (B, L)."""
    return torch.where(masked, signs.mask, words)


def spell(words: Tensor, masked: Tensor, signs: Signs, *, width: int) -> Spelled:
    """T5's input and target; `width` is at least the number of masked words and runs of a row, plus 1."""
    begins = _begins(masked)
    run = begins.cumsum(dim=1)
    sentinel = signs.words + run
    kept = ~masked | begins
    inputs = _pack(torch.where(masked, sentinel, words), kept.cumsum(dim=1) - 1, kept, signs, words.shape[1])
    places = masked.cumsum(dim=1) - 1 + run
    ends = masked.sum(dim=1) + run[:, -1]
    targets = _pack(
        torch.cat([sentinel, words, signs.mask + run[:, -1:]], dim=1),
        torch.cat([places - 1, places, ends[:, None]], dim=1),
        torch.cat([begins, masked, torch.ones_like(begins[:, :1])], dim=1),
        signs,
        width,
    )
    return Spelled(inputs=inputs, targets=targets, places=places, ends=ends)


def target_width(masked: Tensor) -> int:
    """The width that the longest row of these masks needs; reads values, so it is for evaluation only."""
    return int((masked.sum(dim=1) + runs(masked)).max()) + 1


def runs(masked: Tensor) -> Tensor:
    """(B,): how many runs of masked places each row has."""
    return _begins(masked).sum(dim=1)


def _begins(masked: Tensor) -> Tensor:
    """The first place of every run."""
    return masked & ~F.pad(masked, (1, 0))[:, :-1]


def _pack(tokens: Tensor, places: Tensor, used: Tensor, signs: Signs, width: int) -> Tensor:
    """Put the used tokens at their places in a row of start signs; the rest lands in a column that is cut."""
    row = torch.full((tokens.shape[0], width + 1), signs.start, dtype=tokens.dtype, device=tokens.device)
    return row.scatter(1, torch.where(used, places, width), tokens)[:, :width]
