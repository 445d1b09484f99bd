"""Who is told how far a simulation is; the command line shows it as a bar."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told what runs now, and how many steps of it (events, or whole runs) have been done since."""

    def begins(self, what: str) -> None: ...

    def advanced(self, steps: int) -> None: ...
