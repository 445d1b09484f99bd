"""`tessera local down` leaves nothing on the machine, wherever a kill -9 has stopped `up`.

`up` is told to kill itself after a line of its journal: the line is on disk, what it announces is not
made.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_traces import REAL_NODE, directories_called, traces
from forked import in_a_fork
from tessera.local.cluster import LocalCluster
from tessera.local.errors import NotOursError
from tessera.local.journal import JOURNAL_NAME, KILL_AFTER_VARIABLE, Journal, Kind
from tessera.local.mount_namespace import OWNER_ATTRIBUTE, SHADOWED, is_ours
from tessera.local.progress import Progress
from tessera.local.state import ClusterState, existing_clusters

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

# Early ones are cheap; of the later ones, one per kind and the last.
KILL_POINTS = ["1", "2", "3", "process/kube-apiserver"]
if REAL_NODE:
    KILL_POINTS += ["firewall-rule/filter", "host-directory", "process/kubelet"]


@pytest.fixture
def cluster(cluster_directory: Path) -> Iterator[LocalCluster]:
    running = LocalCluster(f"kill-{os.getpid()}", state_dir=cluster_directory, progress=Progress.silent())
    yield running
    running.down()


@pytest.fixture
def marked_before() -> set[str]:
    """Mount targets that are there already: a demo of another home directory may run beside the tests."""
    return marked_host_directories()


def run_up(cluster: LocalCluster, *, kill_after: str) -> int:
    """`up` in a process of its own, told to kill itself; returns the exit status, negative for a signal."""

    def up() -> None:
        os.environ[KILL_AFTER_VARIABLE] = kill_after
        LocalCluster(
            cluster.state.name, state_dir=cluster.state.directory.parent, progress=Progress.silent()
        ).up()

    return in_a_fork(up)


def test_the_search_goes_on_when_the_control_group_of_another_cluster_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("going", "here/wanted"):
        (tmp_path / path).mkdir(parents=True)
    scan = os.scandir

    def scandir(path: str | Path) -> object:
        if Path(path).name == "going":
            raise FileNotFoundError(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert directories_called("wanted", below=tmp_path) == [tmp_path / "here" / "wanted"]


@pytest.mark.parametrize("point", KILL_POINTS)
def test_down_after_up_was_killed(
    cluster: LocalCluster, cluster_directory: Path, marked_before: set[str], point: str
) -> None:
    assert run_up(cluster, kill_after=point) == -signal.SIGKILL
    identity = cluster.state.identity()
    assert identity is not None
    assert cluster.down()
    assert traces(identity, cluster.state.directory) == []
    assert host_directories_of_nobody(cluster_directory, before=marked_before) == []


def test_up_killed_after_every_line_goes_on_and_down_leaves_nothing(
    cluster: LocalCluster, cluster_directory: Path, marked_before: set[str]
) -> None:
    """Each `up` gets one line further than the one before; the last one completes a working cluster."""
    kinds = []
    while True:
        done = run_up(cluster, kill_after="1")
        if done == 0:
            break
        assert done == -signal.SIGKILL
        kinds.append(cluster.state.journal.entries()[-1].kind)
        assert len(cluster.state.journal.entries()) == len(kinds), "a killed up announced more than one line"
        assert len(kinds) < 40
    expected = (
        {"cluster", "process", "bridge", "firewall-rule", "cgroup"} if REAL_NODE else {"cluster", "process"}
    )
    assert expected <= set(kinds)
    status, identity = cluster.status(), cluster.state.identity()
    assert status is not None and status.running and identity is not None
    assert "Ready" in cluster.control_plane.kubectl("get", "nodes")
    assert traces(identity, cluster.state.directory), "the checker sees nothing of a running cluster"

    assert cluster.down()
    assert traces(identity, cluster.state.directory) == []
    assert host_directories_of_nobody(cluster_directory, before=marked_before) == []


def host_directories_of_nobody(cluster_directory: Path, *, before: set[str]) -> list[str]:
    """Directories that some cluster made on this machine since then and that no other cluster will remove."""
    # An owner may come or go while we look. It announces a directory before it makes it, and its journal
    # goes after it, so one of the two looks at the journals sees it.
    claimed = announced_host_directories(cluster_directory)
    made = marked_host_directories() - before
    claimed |= announced_host_directories(cluster_directory)
    return sorted(made - claimed)


def marked_host_directories() -> set[str]:
    return {path for path in SHADOWED.values() if is_ours(Path(path))}


def announced_host_directories(cluster_directory: Path) -> set[str]:
    """Those in the journals of the clusters that there are: those of tests, and the user's own."""
    clusters = [*existing_clusters(cluster_directory), *existing_clusters()]
    entries = [entry for state in clusters for entry in state.journal.entries()]
    return {entry.name for entry in entries if entry.kind is Kind.HOST_DIRECTORY}


def test_a_host_directory_that_is_left_is_seen_also_beside_other_clusters(
    cluster_directory: Path,
    cluster: LocalCluster,
    marked_before: set[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setitem(SHADOWED, "left", str(tmp_path))
    assert str(tmp_path) not in host_directories_of_nobody(cluster_directory, before=marked_before)
    if REAL_NODE:
        os.setxattr(tmp_path, OWNER_ATTRIBUTE, b"1")
    else:  # The kernel lets only root make such a mark.
        monkeypatch.setitem(globals(), "is_ours", tmp_path.__eq__)
    assert host_directories_of_nobody(cluster_directory, before=marked_before) == [str(tmp_path)]
    cluster.state.create(cluster.state.journal)
    cluster.state.journal.announce(Kind.HOST_DIRECTORY, str(tmp_path))
    assert host_directories_of_nobody(cluster_directory, before=marked_before) == [], (
        "its owner will remove it"
    )


def test_a_teardown_that_was_killed_can_be_repeated(cluster: LocalCluster) -> None:
    """The journal is the last file to go, so that the second `down` knows as much as the first."""
    assert run_up(cluster, kill_after="process/kube-apiserver") == -signal.SIGKILL
    identity = cluster.state.identity()
    assert identity is not None
    (cluster.state.directory / "endpoints.json").unlink(missing_ok=True)
    (cluster.state.kubeconfig).unlink(missing_ok=True)
    assert cluster.down()
    assert traces(identity, cluster.state.directory) == []
    assert not cluster.down(), "nothing was left to remove"


def test_a_process_with_the_mark_of_another_cluster_survives(cluster: LocalCluster) -> None:
    """Same name, other uid: say, a cluster of another state directory."""
    stranger = subprocess.Popen(
        ["sleep", "60"],
        env={**os.environ, "TESSERA_CLUSTER": f"{cluster.state.name}:0", "TESSERA_CLUSTER_PROCESS": "etcd"},
    )
    try:
        assert run_up(cluster, kill_after="process/kube-apiserver") == -signal.SIGKILL
        assert cluster.down()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_directory_of_somebody_else_is_not_touched(cluster_directory: Path) -> None:
    state = ClusterState.of(f"foreign-{os.getpid()}", state_dir=cluster_directory)
    state.directory.mkdir()
    (state.directory / "thesis.txt").write_text("years of work")
    cluster = LocalCluster(state.name, state_dir=cluster_directory, progress=Progress.silent())
    try:
        for attempt in (cluster.up, cluster.down):
            with pytest.raises(NotOursError, match=r"thesis.txt.*was not made by `tessera local`"):
                attempt()
        assert (state.directory / "thesis.txt").read_text() == "years of work"
        assert Journal(state.directory / JOURNAL_NAME).entries() == []
    finally:
        (state.directory / "thesis.txt").unlink()
        state.directory.rmdir()
