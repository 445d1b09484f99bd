"""Two local clusters on one machine: each works, is repaired and goes away without the other noticing.

With a real node this covers what a pod needs of it: logs, exec, the API server's service address, a volume.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from as_a_user import wait_for
from cluster_traces import REAL_NODE, traces
from tessera.local.cluster import LocalCluster
from tessera.local.errors import LocalClusterError
from tessera.local.host import find_tool
from tessera.local.pause_image import busybox_image
from tessera.local.processes import inspect, main_process
from tessera.local.progress import Progress
from tessera.local.state import Identity

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

IMAGE = "docker.io/tessera-tests/busybox:1"
KUBECTL_TIMEOUT = "--timeout=90s"


@pytest.fixture(scope="module")
def clusters(cluster_directory: Path) -> Iterator[tuple[LocalCluster, LocalCluster]]:
    """Two running clusters, started at the same moment."""
    first, second = (
        LocalCluster(f"{side}-{os.getpid()}", state_dir=cluster_directory, progress=Progress.silent())
        for side in ("left", "right")
    )
    with ThreadPoolExecutor() as pool:
        try:
            for started in [pool.submit(first.up), pool.submit(second.up)]:
                started.result()
            yield first, second
        finally:
            for stopped in [pool.submit(first.down), pool.submit(second.down)]:
                stopped.result()


def run_pod(cluster: LocalCluster) -> None:
    """A pod that says hello, writes to the local volume and stays; on a simulated node it only seems to."""
    if REAL_NODE:
        busybox = find_tool("busybox")
        command = ["/bin/busybox", "sh"]
        image = busybox_image(
            name=IMAGE, busybox=busybox, command=command, applets=["sh", "nc", "cat", "sleep"]
        )
        cluster.node().import_images(image)
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "results"},
        "spec": {
            "storageClassName": "tessera-local",
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "hello"},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "results", "persistentVolumeClaim": {"claimName": "results"}}],
            "containers": [
                {
                    "name": "hello",
                    "image": IMAGE,
                    "imagePullPolicy": "Never",
                    "command": ["sh", "-c", "echo hello; echo result > /results/file; exec sleep 3600"],
                    "volumeMounts": [{"name": "results", "mountPath": "/results"}],
                }
            ],
        },
    }
    kubectl = cluster.control_plane.kubectl
    kubectl("apply", "-f", "-", input_text="\n".join(map(json.dumps, [claim, pod])))
    kubectl("wait", "--for=condition=Ready", KUBECTL_TIMEOUT, "pod/hello")


def test_a_pod_has_logs_exec_the_api_server_and_a_volume(clusters: tuple[LocalCluster, LocalCluster]) -> None:
    for cluster in clusters:
        run_pod(cluster)
        kubectl = cluster.control_plane.kubectl
        if not REAL_NODE:
            assert "Running" in kubectl("get", "pod", "hello")
            continue
        assert kubectl("logs", "hello") == "hello\n"
        probe = "nc -w 5 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT </dev/null && echo connected"
        assert kubectl("exec", "hello", "--", "sh", "-c", probe) == "connected\n"
        assert kubectl("exec", "hello", "--", "cat", "/results/file") == "result\n"
        assert (cluster.state.output / "file").read_text() == "result\n"


def test_the_clusters_share_nothing(clusters: tuple[LocalCluster, LocalCluster]) -> None:
    first, second = (cluster.status() for cluster in clusters)
    assert first is not None and second is not None
    assert first.server != second.server
    assert first.directory != second.directory
    assert {each.pid for each in first.processes}.isdisjoint(each.pid for each in second.processes)
    if REAL_NODE:
        assert clusters[0].node().images() == clusters[1].node().images() != []
        one, other = (cluster.control_plane.endpoints() for cluster in clusters)
        assert one is not None and other is not None and one.address != other.address


def has_ended(pid: int, *, identity: Identity) -> bool:
    return inspect(pid, identity=identity) is None


def logs_or_none(cluster: LocalCluster) -> str | None:
    try:
        return cluster.control_plane.kubectl("logs", "hello")
    except LocalClusterError:
        return None


def test_up_repairs_what_was_killed_and_pods_live_on(clusters: tuple[LocalCluster, LocalCluster]) -> None:
    first, second = clusters
    identity = first.state.identity()
    assert identity is not None
    roles = (
        ("kube-controller-manager", "kubelet", "mount-namespace", "containerd")
        if REAL_NODE
        else ("etcd", "kwok")
    )
    before = [main_process(role, identity=identity) for role in roles]
    neighbours = second.status()
    for process in before:
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
    # The kernel ends a killed process in its own time; `up` would take one that is still there for alive.
    for process in before:
        assert process is not None
        wait_for(f"process {process.pid} to end", partial(has_ended, process.pid, identity=identity))
    first.up()
    status = first.status()
    assert status is not None and status.running
    after = [main_process(role, identity=identity) for role in roles]
    assert all(process is not None for process in after) and set(after).isdisjoint(before)
    if REAL_NODE:
        restarts = "jsonpath={.status.containerStatuses[0].restartCount}"
        assert first.control_plane.kubectl("get", "pod", "hello", "-o", restarts) == "0"
        # A kubelet that has just started does not know its pods yet and has no logs of them.
        wait_for("the pod's logs", lambda: logs_or_none(first) == "hello\n")
    unchanged = second.status()
    assert neighbours is not None and unchanged is not None
    assert [each.pid for each in unchanged.processes] == [each.pid for each in neighbours.processes]


def test_down_of_one_leaves_the_other_working(clusters: tuple[LocalCluster, LocalCluster]) -> None:
    first, second = clusters
    identity = first.state.identity()
    assert identity is not None
    assert first.down()
    # A pod has run there: its containers, mounts and network went with it.
    assert traces(identity, first.state.directory) == []
    status = second.status()
    assert status is not None and status.running
    assert "Running" in second.control_plane.kubectl("get", "pod", "hello")
    if REAL_NODE:
        assert second.control_plane.kubectl("exec", "hello", "--", "cat", "/results/file") == "result\n"
        # Its mounts over the machine's standard directories are still there for new pods.
        second.control_plane.kubectl("delete", "pod", "hello", "--wait")
        run_pod(second)
        assert second.control_plane.kubectl("logs", "hello") == "hello\n"
