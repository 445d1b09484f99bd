"""Pools of the shipped profile table."""

from __future__ import annotations

import pytest
from tessera.gpu.profiles import model
from tessera.packing.boards import Pool


@pytest.fixture(scope="session")
def h100() -> Pool:
    return Pool(model("H100-80GB"))


@pytest.fixture(scope="session")
def a30() -> Pool:
    return Pool(model("A30-24GB"))


@pytest.fixture(scope="session")
def rtx() -> Pool:
    return Pool(model("RTXPRO6000-96GB"))
