"""One simulated node, and an agent on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from simulation.agent_looks import Looks, looking
from simulation.agent_node import AgentNode
from simulation.agent_serving import Serving


@pytest.fixture
def node(tmp_path: Path) -> AgentNode:
    """One GPU, MIG on."""
    return AgentNode.new(tmp_path / "node")


@pytest.fixture
def agent(node: AgentNode) -> Iterator[Looks]:
    """Its agent; no look was made yet."""
    with looking(node) as found:
        yield found


@pytest.fixture
def gpu(node: AgentNode) -> Iterator[Serving]:
    """The same for tests of fixed layouts, which restart it."""
    serving = Serving(node)
    yield serving
    serving.end()
