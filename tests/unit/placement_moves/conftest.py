"""Two kinds of GPU of the shipped profile table: 8 slices (H100) and 4 slices (A30)."""

from __future__ import annotations

import pytest
from tessera.boards import geometry_for
from tessera.placement.geometry import Geometry


@pytest.fixture(scope="session")
def h100() -> Geometry:
    return geometry_for("H100-80GB")


@pytest.fixture(scope="session")
def a30() -> Geometry:
    return geometry_for("A30-24GB")
