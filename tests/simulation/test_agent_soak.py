"""A short run of what `make soak-agent` does at length."""

from __future__ import annotations

from pathlib import Path

from simulation.agent_soak import soak


async def test_random_changes_under_random_faults_lose_nothing(tmp_path: Path) -> None:
    run = await soak(tmp_path / "node", seed=2, changes=12)
    assert run.wrong == []
    assert run.tally["changes"] == 12
    assert run.tally["kills"] > 0
    assert run.tally["reused"] > 0
    assert run.tally["layouts Applied"] > 0
    assert run.tally["layouts Blocked"] > 0
