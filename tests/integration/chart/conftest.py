"""A control plane of its own with the chart installed by the real helm, and clients that speak as its
processes.

The admission policies hold for the whole cluster, so the chart gets a control plane apart from the one that
other tests share. Two fake nodes are there: the DaemonSet puts an agent's pod on each, the Deployments make
their pods, and no kubelet ever starts one. That is enough, because a policy looks at who writes: the tests
write with tokens bound to those very pods.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from fresh_namespace import fresh_namespace
from integration.chart.installation import Accounts, Helm, install, wait_for_policies
from integration.chart.objects import NODES, Object, node_status
from tessera.api import names
from tessera.kube.client import KubeClient
from tessera.local.build import ensure_binaries
from tessera.local.control_plane import ControlPlane
from tessera.local.progress import Progress
from tessera.local.state import ClusterState

EVERYTHING_ON: Object = {
    "gates": {"clusterWide": True},
    "fleet": {"enabled": True},
    "networkPolicy": {"enabled": True},
    # Nobody renews the nodes, so the controller manager finds them unreachable after a while.
    "agent": {"simulator": {"enabled": True}, "tolerations": [{"operator": "Exists"}]},
}


@pytest.fixture(scope="session")
def helm_program() -> Path:
    """The helm that the local cluster uses."""
    return ensure_binaries(["helm"], progress=Progress()) / "helm"


@pytest.fixture(scope="session")
def chart_cluster(cluster_directory: Path) -> Iterator[ControlPlane]:
    """A control plane with two nodes that are Ready, carry the GPU label, and have no kubelet."""
    state = ClusterState.of(f"chart-{os.getpid()}", state_dir=cluster_directory)
    with ControlPlane(state) as running:
        for node in NODES:
            running.kubectl("apply", "-f", "-", input_text=json.dumps(_node(node)))
            status = {"status": node_status()}
            running.kubectl(
                "patch", "node", node, "--subresource=status", "--type=merge", "-p", json.dumps(status)
            )
        yield running


def _node(name: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {names.GPU_NODE_LABEL: "true", "kubernetes.io/hostname": name}},
    }


@pytest.fixture(scope="session")
def cluster_helm(helm_program: Path, chart_cluster: ControlPlane) -> Helm:
    """helm against the chart's cluster."""
    return Helm(helm_program, chart_cluster.kubeconfig)


@pytest.fixture(scope="session")
def installed(cluster_helm: Helm, chart_cluster: ControlPlane) -> Helm:
    """The chart installed with all its options, and every policy in force."""
    install(cluster_helm, values=EVERYTHING_ON)
    wait_for_policies(chart_cluster)
    return cluster_helm


@pytest.fixture
async def chart_admin(chart_cluster: ControlPlane, installed: Helm) -> AsyncIterator[KubeClient]:
    """A client with all rights, on the cluster where the chart is installed."""
    async with await KubeClient.connect(
        kubeconfig=chart_cluster.kubeconfig, field_manager="tessera-tests"
    ) as client:
        yield client


@pytest.fixture
async def accounts(chart_cluster: ControlPlane, chart_admin: KubeClient) -> AsyncIterator[Accounts]:
    """Clients of the chart's accounts; closed after the test."""
    async with AsyncExitStack() as clients:
        yield Accounts(chart_admin, chart_admin.server, chart_cluster.state.pki / "ca.crt", clients)


@pytest.fixture
def chart_namespace(chart_cluster: ControlPlane, installed: Helm) -> Iterator[str]:
    """A fresh namespace, not labelled; deleted after the test without waiting for the end."""
    with fresh_namespace(chart_cluster) as name:
        yield name
