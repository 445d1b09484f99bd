"""Simulated nodes on a real control plane: Jobs complete, and an evicted Job pod counts as failed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from invariants import InvariantChecker
from tessera.local.cluster import LocalCluster
from tessera.local.kwok import DURATION_ANNOTATION
from tessera.local.progress import Progress

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def cluster(cluster_directory: Path) -> Iterator[LocalCluster]:
    running = LocalCluster(
        f"kwok-nodes-{os.getpid()}", state_dir=cluster_directory, progress=Progress.silent()
    )
    try:
        running.up(kwok_nodes=2)
        with InvariantChecker(running.kubeconfig):
            yield running
    finally:
        running.down()


def submit_job(cluster: LocalCluster, name: str, *, runs_for: str, **spec: object) -> None:
    template = {
        "metadata": {"annotations": {DURATION_ANNOTATION: runs_for}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "work", "image": "none"}]},
    }
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"template": template, **spec},
    }
    cluster.control_plane.kubectl("apply", "-f", "-", input_text=json.dumps(job))


def wait(cluster: LocalCluster, condition: str, what: str) -> None:
    cluster.control_plane.kubectl("wait", f"--for={condition}", "--timeout=60s", what)


def test_a_job_completes(cluster: LocalCluster) -> None:
    submit_job(cluster, "short", runs_for="100ms")
    wait(cluster, "condition=Complete", "job/short")


def test_an_evicted_pod_of_a_job_is_counted_as_failed(cluster: LocalCluster) -> None:
    """The Job controller sees the pod's end only if it becomes Failed before it goes."""
    submit_job(cluster, "long", runs_for="1h", backoffLimit=0)
    wait(cluster, "jsonpath={.status.ready}=1", "job/long")
    cluster.control_plane.kubectl("delete", "pod", "-l", "job-name=long", "--wait=false")
    wait(cluster, "condition=Failed", "job/long")


def test_a_node_without_the_annotation_is_left_alone(cluster: LocalCluster) -> None:
    """Such as the node of a real kubelet."""
    stranger = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "stranger"}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "visitor"},
        "spec": {"nodeName": "stranger", "containers": [{"name": "work", "image": "none"}]},
    }
    kubectl = cluster.control_plane.kubectl
    kubectl("create", "-f", "-", input_text="\n".join(map(json.dumps, [stranger, pod])))
    submit_job(cluster, "later", runs_for="100ms")
    wait(cluster, "condition=Complete", "job/later")  # By now KWOK would have acted on the pod, too.
    assert kubectl("get", "pod", "visitor", "-o", "jsonpath={.status.phase}") == "Pending"
    assert "NotReady" in kubectl("get", "node", "stranger") or "Unknown" in kubectl("get", "node", "stranger")


def test_more_nodes_can_be_had_later(cluster: LocalCluster) -> None:
    cluster.up(kwok_nodes=3)
    nodes = cluster.control_plane.kubectl("get", "nodes", "-l", "type=kwok", "-o", "name").split()
    assert len(nodes) == 3
    cluster.up()
    assert cluster.control_plane.kubectl("get", "nodes", "-l", "type=kwok", "-o", "name").split() == nodes
