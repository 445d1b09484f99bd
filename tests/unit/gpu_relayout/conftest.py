"""A node of simulated GPUs whose layout is to change."""

from __future__ import annotations

from pathlib import Path

import pytest
from relayout_bench import Bench, old_node


@pytest.fixture
def node(tmp_path: Path) -> Bench:
    """Two H100 with the old layout."""
    return old_node(tmp_path / "node")
