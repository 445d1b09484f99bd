"""What the agent says when it cannot start, and what it says about itself when it does."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
from tessera.agent.checkpoint import CheckpointFile, UnreadableCheckpoint
from tessera.agent.fleet import FleetSettings
from tessera.agent.main import AgentSettings, run, run_fleet
from tessera.api.errors import TesseraError
from tessera.metrics.registry import REGISTRY


def test_a_state_directory_that_cannot_be_used_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnreadableCheckpoint, match=r"Not a directory\. Make it readable .*--state-dir"):
        CheckpointFile(tmp_path / "file" / "checkpoint.json").load()


async def test_agent_and_fleet_say_their_version(tmp_path: Path) -> None:
    nowhere = tmp_path / "kubeconfig"
    settings = AgentSettings(
        node_name="node-a", kubelet_dir=tmp_path, cdi_dir=tmp_path, state_dir=tmp_path, kubeconfig=nowhere
    )
    with pytest.raises(TesseraError):
        await run(settings)
    with pytest.raises(TesseraError):
        await run_fleet(FleetSettings(state_dir=tmp_path), port=0, kubeconfig=nowhere)
    for process in ("agent", "fleet"):
        labels = {"process": process, "version": version("tessera")}
        assert REGISTRY.get_sample_value("tessera_build_info", labels) == 1
