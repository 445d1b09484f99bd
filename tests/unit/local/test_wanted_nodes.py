"""Which nodes `up` makes: what is asked for, what the cluster had, and what the user may do."""

from __future__ import annotations

import pytest
from tessera.local.cluster import DEFAULT_KWOK_NODES, WantedNodes, choose_nodes

REAL = WantedNodes(real=True, simulated=0)
THREE = WantedNodes(real=False, simulated=3)


@pytest.mark.parametrize(
    ("requested", "known", "is_root", "expected"),
    [
        pytest.param(None, None, True, REAL, id="root gets a real node"),
        pytest.param(
            None, None, False, WantedNodes(False, DEFAULT_KWOK_NODES), id="others get simulated ones"
        ),
        pytest.param(5, None, True, WantedNodes(False, 5), id="simulated nodes on request, also for root"),
        pytest.param(None, THREE, True, THREE, id="a repair keeps simulated nodes"),
        pytest.param(5, THREE, False, WantedNodes(False, 5), id="more simulated nodes later"),
        pytest.param(None, REAL, True, REAL, id="a repair keeps the real node"),
        pytest.param(5, REAL, True, WantedNodes(True, 5), id="simulated nodes beside the real one"),
        pytest.param(None, WantedNodes(True, 5), True, WantedNodes(True, 5), id="both are kept"),
    ],
)
def test_nodes(
    requested: int | None, known: WantedNodes | None, is_root: bool, expected: WantedNodes
) -> None:
    assert choose_nodes(requested, known=known, can_have_node=is_root) == expected
