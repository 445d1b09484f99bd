"""What can be wrong with a packing question, in words that a user can act on."""

from __future__ import annotations

from tessera.api.errors import TesseraError


class BadPackingInput(TesseraError):
    """An option or a file of `tessera pack` is wrong; the text names it and says what would be right."""


class NotEnoughGpus(TesseraError):
    """The limits on GPUs are too low for what was asked; the remedy says how many would do."""


class NoSolver(TesseraError):
    """The solver is not installed: it is an optional part of the distribution."""


class NoPlanInTime(TesseraError):
    """The time limit ended the search before it had any plan."""


class WrongPlan(AssertionError):
    """A plan failed the independent check: a defect of this program, never of its input."""
