"""Fixtures shared by all tests: a real control plane of this test session's own, and a namespace per test.

The control plane starts on the first test that asks for it, listens on ports of its own, and is gone when the
session ends; what a killed session left is removed by the next one. Tests run in several processes
(pytest-xdist), each with a control plane of its own; what takes long to make is made in one of them only.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from custom_resources import install_crds
from fresh_namespace import fresh_namespace
from tessera.kube.client import KubeClient
from tessera.local.control_plane import ControlPlane
from tessera.local.locks import exclusive
from tessera.local.progress import Progress
from tessera.local.state import ClusterState, existing_clusters
from tessera.local.teardown import tear_down
from xdist.scheduler.loadfile import LoadFileScheduling

LONGEST_FIRST = (
    "integration/chart",
    "tests/integration/test_scheduler_leadership.py",
    "tests/integration/test_agent_process.py",
    "tests/integration/test_scheduler_moves.py",
    "tests/integration/test_local_kwok_nodes.py",
    "tests/integration/test_controllers_process.py",
)
"""What takes longest begins first: begun last, it would leave the other processes nothing to do meanwhile."""


class ByCluster(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """Which tests share a process: those of one file, and all files of a folder below a level, because what
    its conftest makes (a chart's control plane, a node with images) is too expensive to be made twice.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        level, _, folder = path.partition("tests/")[2].rpartition("/")[0].partition("/")
        return f"{level}/{folder}" if folder else path

    def _assign_work_unit(self, node: object) -> None:
        longest = min(self.workqueue, key=lambda unit: [unit != long for long in LONGEST_FIRST])
        self.workqueue.move_to_end(longest, last=False)
        super()._assign_work_unit(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByCluster | None:
    """Ours for `--dist loadfile`. xdist's own way, marks and `--dist loadgroup`, does nothing with
    pytest 9.2 (pytest-xdist#1386).
    """
    return ByCluster(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A directory for unix sockets, whose paths are limited to 107 bytes; pytest's own are too long."""
    with tempfile.TemporaryDirectory(prefix="t-") as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def cluster_directory() -> Path:
    """The state directory of clusters that tests make; short, because unix socket paths are limited to
    107 bytes. It lies as a user's does below XDG_STATE_HOME, so a command finds its clusters too.
    """
    directory = Path(tempfile.gettempdir()) / f"t-{os.getuid()}" / "tessera" / "clusters"
    directory.mkdir(parents=True, exist_ok=True)
    with exclusive(directory / "lock", waiting_for="another test process", progress=Progress.silent()):
        for state in existing_clusters(directory):
            pid = state.name.rpartition("-")[2]
            if pid.isdigit() and not Path("/proc", pid).exists():
                tear_down(state, progress=Progress())
    return directory


@pytest.fixture(scope="session")
def control_plane(cluster_directory: Path) -> Iterator[ControlPlane]:
    """etcd, API server, controller manager and scheduler, with the CRDs of `crds/`; no node."""
    state = ClusterState.of(f"pytest-{os.getpid()}", state_dir=cluster_directory)
    with ControlPlane(state) as running:
        install_crds(running)
        yield running


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A fresh namespace with its default service account; deleted after the test without waiting."""
    with fresh_namespace(control_plane) as name:
        yield name


@pytest.fixture
async def admin(control_plane: ControlPlane) -> AsyncIterator[KubeClient]:
    """A connected client with all rights."""
    async with await KubeClient.connect(
        kubeconfig=control_plane.kubeconfig, user_agent="tessera-tests", field_manager="tessera-tests"
    ) as client:
        yield client
