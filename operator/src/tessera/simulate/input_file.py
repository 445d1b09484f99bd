"""Reads the text files that a simulation is given."""

from __future__ import annotations

from pathlib import Path

from tessera.simulate.errors import BadSimulationInput


def text_of(path: Path, *, kind: str) -> str:
    """The text of a file. Raises BadSimulationInput, which calls it a `kind`, when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadSimulationInput(f"{kind} {path} cannot be read", str(error)) from error
