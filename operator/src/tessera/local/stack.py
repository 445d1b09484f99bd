"""Tessera itself on a local cluster: images, chart, and a node with simulated GPUs.

The demo and the end-to-end tests both start here, so what the tests prove is what a newcomer sees. With a
real node everything runs as it would anywhere: images in containerd, processes in pods. Without root the
nodes are KWOK's, which run no containers; then the control plane's processes run on this machine instead,
each with the identity of the pod that stands for it (`stand_in.py`), so that RBAC and the admission policies
hold there too.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tessera.api import names
from tessera.local.build import ensure_binaries
from tessera.local.cluster import LocalCluster
from tessera.local.host import run
from tessera.local.images import (
    Image,
    build_operator_image,
    build_worker_image_thin,
    checkout_directory,
)
from tessera.local.mount_namespace import node_directory
from tessera.local.processes import find, kill_all
from tessera.local.progress import Progress
from tessera.local.stand_in import run_beside_kwok
from tessera.local.worker_environment import build_worker_environment

RELEASE = "tessera"
HELM_TIMEOUT = "180s"


@dataclass(frozen=True)
class StackSettings:
    """Which cluster, and which GPUs are simulated in it.

    Attributes:
        name: the local cluster's name.
        state_dir: the directory that holds clusters; None is the user's own.
        gpu_model: a row key of the MIG profile table.
        gpus: simulated GPUs per node.
        kwok_nodes: None means a real node as root, and simulated nodes otherwise.
    """

    name: str
    state_dir: Path | None = None
    namespace: str = names.SYSTEM_NAMESPACE
    gpu_model: str = "H100-80GB"
    gpus: int = 2
    kwok_nodes: int | None = None


@dataclass
class Stack:
    """A running Tessera on a local cluster."""

    settings: StackSettings
    cluster: LocalCluster
    real_node: bool
    worker_image: str = ""
    progress: Progress = field(default_factory=Progress)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.cluster.kubeconfig

    @property
    def kubectl(self) -> Path:
        """The kubectl of the cluster's version."""
        return ensure_binaries(["kubectl"], progress=Progress.silent()) / "kubectl"

    @property
    def output_directory(self) -> Path:
        """Where the volume of storage class `tessera-local` lies on this machine."""
        return self.cluster.state.output

    @property
    def agent_state_directory(self) -> Path:
        """The agent's checkpoint and the simulator's state, as this machine sees them."""
        return node_directory(self.cluster.state, "tessera")

    def restart_kubelet(self) -> None:
        """Ends the kubelet and starts it again; pods are not touched."""
        identity = self.cluster.state.identity()
        assert identity is not None
        kill_all(lambda: find(identity=identity, role="kubelet"), identity=identity)
        self.cluster.node().up()


def bring_up(settings: StackSettings, *, progress: Progress | None = None) -> Stack:
    """Cluster, images, chart: everything up to a published GPU. Converges when called again.

    Raises:
        LocalClusterError: with the reason and the remedy.
    """
    progress = progress or Progress()
    cluster = LocalCluster(settings.name, state_dir=settings.state_dir, progress=progress)
    cluster.up(kwok_nodes=settings.kwok_nodes)
    status = cluster.status()
    stack = Stack(settings, cluster, real_node=bool(status and status.mode == "node"), progress=progress)
    values = _values_for_a_node(stack) if stack.real_node else _values_for_kwok(stack)
    _label_nodes(stack)
    _install_chart(stack, values)
    if not stack.real_node:
        run_beside_kwok(
            cluster,
            namespace=settings.namespace,
            gpu_model=settings.gpu_model,
            gpus=settings.gpus,
            progress=progress,
        )
    _wait_for_gpus(stack)
    return stack


def take_down(settings: StackSettings, *, progress: Progress | None = None) -> bool:
    """Removes the cluster with everything in it; False when there was none."""
    return LocalCluster(settings.name, state_dir=settings.state_dir, progress=progress).down()


def _values_for_a_node(stack: Stack) -> dict[str, Any]:
    """Builds and imports the images; both builds wait for the network more than for the processor."""
    with ThreadPoolExecutor() as pool:
        environment = pool.submit(build_worker_environment, progress=stack.progress)
        operator = build_operator_image(progress=stack.progress)
        worker = build_worker_image_thin(progress=stack.progress)
        worker_environment = environment.result()
    _import(stack, [operator, worker])
    stack.worker_image = worker.name
    repository, _, tag = operator.name.rpartition(":")
    return _common_values(stack) | {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
        "worker": {"image": worker.name, "localEnvironmentPath": str(worker_environment)},
    }


def _values_for_kwok(stack: Stack) -> dict[str, Any]:
    prefix = f"{stack.settings.name}-kwok-"
    return _common_values(stack) | {"fleet": {"enabled": True, "nodeNamePrefix": prefix}}


def _common_values(stack: Stack) -> dict[str, Any]:
    settings = stack.settings
    simulator = {"enabled": True, "model": settings.gpu_model, "count": settings.gpus}
    return {"agent": {"simulator": simulator}}


def _import(stack: Stack, images: list[Image]) -> None:
    node = stack.cluster.node()
    present = set(node.images())
    for image in images:
        if image.name not in present:
            with stack.progress.step(f"loading image {image.name} into the node"):
                node.import_images(image.archive)


def _label_nodes(stack: Stack) -> None:
    """Marks where GPUs are: the real node, or all simulated ones. Beside a real node those have none."""
    label = names.GPU_NODE_LABEL if stack.real_node else names.SIMULATED_GPUS_LABEL
    which = "type!=kwok" if stack.real_node else "type=kwok"
    stack.cluster.control_plane.kubectl("label", "nodes", "-l", which, "--overwrite", f"{label}=true")


def _install_chart(stack: Stack, values: dict[str, Any]) -> None:
    helm = ensure_binaries(["helm"], progress=stack.progress) / "helm"
    file = stack.cluster.state.directory / "values.json"
    file.write_text(json.dumps(values, indent=2))
    chart = checkout_directory() / "charts" / "tessera"
    with stack.progress.step("helm upgrade --install tessera"):
        run(
            [
                helm,
                "--kubeconfig",
                stack.kubeconfig,
                "upgrade",
                "--install",
                RELEASE,
                chart,
                "--namespace",
                stack.settings.namespace,
                "--create-namespace",
                "--values",
                file,
                "--wait",
                "--timeout",
                HELM_TIMEOUT,
            ],
            timeout_seconds=240,
        )


def _wait_for_gpus(stack: Stack) -> None:
    """Until every GPU node has published its placements."""
    with stack.progress.step("waiting for the GPUs to be published"):
        stack.cluster.control_plane.kubectl("wait", "--for=create", "--timeout=60s", "gpunodes", "--all")
        stack.cluster.control_plane.kubectl(
            "wait", "--for=condition=Ready", "--timeout=60s", "gpunodes", "--all"
        )
