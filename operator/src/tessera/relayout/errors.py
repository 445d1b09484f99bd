"""The errors of a layout that cannot be had, each with its remedy."""

from __future__ import annotations

from tessera.api.errors import TesseraError


class BadLayout(TesseraError):
    """What was asked cannot be read, or names a GPU or profile that does not exist."""


class ImpossibleLayout(TesseraError):
    """The instances that were asked do not fit on the GPU together."""


class LayoutBlocked(TesseraError):
    """An instance that has to go may not be destroyed: a process runs in it, or it could not be restored."""


class LayoutNotApplied(TesseraError):
    """A step failed or was interrupted; `why` names it and the remedy says which layout there is now."""


class JournalInTheWay(TesseraError):
    """A journal of an interrupted change cannot be read, written or settled."""
