"""What is missing on a machine is named, with the way to get it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tessera.local.debian_packages import ensure_commands
from tessera.local.errors import MissingToolError
from tessera.local.kind import FEATURE_GATES, KindCluster, kind_configuration, require_tools
from tessera.local.prepare import programs_for
from tessera.local.progress import Progress


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_a_present_command_needs_no_package() -> None:
    ensure_commands({"sh": "no-such-package"}, progress=Progress.silent())


def test_a_missing_command_names_its_package(bare_machine: Path) -> None:
    with pytest.raises(MissingToolError, match="lacks one-package two-package: install them"):
        ensure_commands(
            {"tessera-two": "two-package", "tessera-one": "one-package"}, progress=Progress.silent()
        )


def test_kind_names_everything_that_is_missing_at_once(bare_machine: Path) -> None:
    with pytest.raises(MissingToolError, match=r"the command docker .* and the command kind .*modules"):
        require_tools()


def test_kind_tells_a_missing_daemon_from_a_missing_command(bare_machine: Path) -> None:
    docker = bare_machine / "docker"
    docker.write_text("#!/bin/sh\nexit 1\n")
    docker.chmod(0o755)
    with pytest.raises(MissingToolError, match="a running Docker daemon"):
        require_tools()


def test_a_kind_cluster_that_was_not_made_here_is_not_removed(bare_machine: Path) -> None:
    assert KindCluster("demo", state_dir=bare_machine, progress=Progress.silent()).down() is False


def test_the_kind_node_sees_the_libraries_read_only_at_the_same_path() -> None:
    configuration = kind_configuration(worker_environments=Path("/c/worker-env"), output=Path("/s/output"))
    assert configuration["featureGates"] == FEATURE_GATES
    assert configuration["nodes"] == [
        {
            "role": "control-plane",
            "extraMounts": [
                {"hostPath": "/c/worker-env", "containerPath": "/c/worker-env", "readOnly": True},
                {"hostPath": "/s/output", "containerPath": "/s/output"},
            ],
        }
    ]


def test_only_root_prepares_a_real_node() -> None:
    assert "kubelet" in programs_for("e2e", as_root=True)
    assert "kubelet" not in programs_for("e2e", as_root=False)
    assert "kwok" in programs_for("e2e", as_root=False)
    assert "kwok" in programs_for("integration", as_root=True)
    assert "kubelet" not in programs_for("integration", as_root=True)
