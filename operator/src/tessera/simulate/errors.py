"""The error of a simulation that was asked for something that cannot be."""

from __future__ import annotations

from tessera.api.errors import TesseraError


class BadSimulationInput(TesseraError):
    """An option or a file of a simulation is wrong; the text names it and says what would be right."""
