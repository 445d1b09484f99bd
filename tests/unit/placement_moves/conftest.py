"""The geometries of `small_clusters`."""

from __future__ import annotations

import pytest
from tessera.placement.geometry import Geometry
from unit.placement_moves.small_clusters import A30, H100, geometry


@pytest.fixture(scope="session")
def h100() -> Geometry:
    return geometry(H100, model="H100-80GB", slices=8, compute=7)


@pytest.fixture(scope="session")
def a30() -> Geometry:
    return geometry(A30, model="A30-24GB", slices=4, compute=4)
