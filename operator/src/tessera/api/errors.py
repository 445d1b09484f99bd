"""The error that a user reads.

Whatever goes wrong on a user's path ends in one sentence of what happened, one of why, and one of what to
do. The class keeps the three apart so that a command line can print them on lines of their own, a condition
can join them, and a test can ask for each.
"""

from __future__ import annotations

from collections.abc import Iterable


class TesseraError(Exception):
    """Something failed, for a reason that we know, with a remedy that we know.

    `what` names the object and the failure, `why` the reason, `remedy` what the reader should do next.
    """

    def __init__(self, what: str, why: str = "", remedy: str = "") -> None:
        self.what = what
        self.why = why
        self.remedy = remedy
        super().__init__(what, why, remedy)

    def __str__(self) -> str:
        text = f"{self.what}: {self.why}" if self.why else self.what
        return f"{text}. {self.remedy}" if self.remedy else text


def did_you_mean(name: str, known: Iterable[str], *, most: int = 1) -> str:
    """For a remedy: `Did you mean X?` with the nearest names, at most so many; empty when none is near."""
    import difflib  # Here, because every command imports this module and few have to guess.

    near = difflib.get_close_matches(name, known, n=most, cutoff=0.5)
    return f"Did you mean {' or '.join(near)}?" if near else ""
