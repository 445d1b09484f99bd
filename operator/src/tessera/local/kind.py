"""The other provider of local clusters: kind, where Docker and kind are on the machine.

kind brings its own node image, so nothing is built from source and no root is needed; the price is Docker.
The cluster has the methods of `LocalCluster`. Its state directory is made, with a mark in it, before kind
is asked to make anything: only a cluster that has such a mark is ever changed or deleted.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import yaml

from tessera.local import worker_environment
from tessera.local.cluster import ClusterStatus, ProcessStatus
from tessera.local.errors import LocalClusterError, MissingToolError, NotOursError
from tessera.local.images import Image, docker_daemon_runs
from tessera.local.progress import Progress
from tessera.local.state import ClusterState, default_state_directory
from tessera.local.storage import make_output
from tessera.local.versions import KIND_NODE_IMAGE, KIND_VERSION

NODE_IMAGE_VARIABLE = "TESSERA_KIND_NODE_IMAGE"
"""Names another node image, for another release of kind; it must hold Kubernetes 1.36 or later."""

FEATURE_GATES = {"DRAPartitionableDevices": True, "DRADeviceTaints": True}
"""What placements with shared counters and the taint on them need; both are on by default since 1.36."""

# On by default in containerd 2; stated, because without it slices are prepared and never reach a container.
CONTAINERD_PATCH = """\
[plugins."io.containerd.cri.v1.runtime"]
  enable_cdi = true
  cdi_spec_dirs = ["/etc/cdi", "/var/run/cdi"]
"""


def kind_configuration(*, worker_environments: Path, output: Path) -> dict[str, object]:
    """kind's `Cluster`: one node that sees the workers' libraries read-only and the output directory.

    Args:
        worker_environments: this machine's directory of libraries, mounted at the same path, so that the
            chart's `worker.localEnvironmentPath` means the same inside the node.
        output: where pods may leave results on this machine, mounted likewise.
    """
    libraries, results = str(worker_environments), str(output)
    mounts = [
        {"hostPath": libraries, "containerPath": libraries, "readOnly": True},
        {"hostPath": results, "containerPath": results},
    ]
    return {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "featureGates": FEATURE_GATES,
        "containerdConfigPatches": [CONTAINERD_PATCH],
        "nodes": [{"role": "control-plane", "extraMounts": mounts}],
    }


class KindCluster:
    """The kind cluster called `tessera-<name>`.

    Args:
        name: several clusters may run side by side under different names.
        state_dir: the directory that holds one directory per cluster.
        progress: told about every step.
    """

    def __init__(self, name: str, *, state_dir: Path | None = None, progress: Progress | None = None) -> None:
        root = (state_dir or default_state_directory()).absolute() / "kind"
        self.directory = ClusterState.of(name, state_dir=root).directory
        self.name = name
        self.kind_name = f"tessera-{name}"
        self.progress = progress or Progress()

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.directory / "kubeconfig"

    @property
    def output(self) -> Path:
        """A directory of this machine that the node sees at the same path."""
        return self.directory / "output"

    @property
    def _mark(self) -> Path:
        return self.directory / "kind-cluster.json"

    def up(self) -> None:
        """Makes the cluster and waits for its node, or does nothing when it is there.

        Raises:
            MissingToolError: no Docker daemon, or no kind; the message names what is missing.
            NotOursError: a kind cluster of that name exists that this did not make.
            LocalClusterError: kind failed; the message quotes it.
        """
        require_tools()
        exists = self.kind_name in self._clusters()
        if exists and not self._mark.exists():
            raise NotOursError(
                f"a kind cluster {self.kind_name} exists that `tessera local` did not make: "
                "take another --name"
            )
        if exists:
            self._run("export", "kubeconfig", "--kubeconfig", str(self.kubeconfig))
            self.progress.say(f"cluster {self.name} is there: export KUBECONFIG={self.kubeconfig}")
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        make_output(self.output)
        libraries = worker_environment.cache_directory()
        libraries.mkdir(parents=True, exist_ok=True)
        self._mark.write_text(json.dumps({"kind": self.kind_name}))
        configuration = self.directory / "kind.yaml"
        configuration.write_text(
            yaml.safe_dump(kind_configuration(worker_environments=libraries, output=self.output))
        )
        image = os.environ.get(NODE_IMAGE_VARIABLE, KIND_NODE_IMAGE)
        with self.progress.step(f"kind create cluster {self.kind_name} ({image.partition('@')[0]})"):
            options = ["--image", image, "--config", str(configuration), "--wait", "180s"]
            self._run("create", "cluster", *options, "--kubeconfig", str(self.kubeconfig))
        self.progress.say(f"cluster {self.name} is ready: export KUBECONFIG={self.kubeconfig}")

    def down(self) -> bool:
        """Deletes the cluster and its directory; False when there was none that we made."""
        if not self._mark.exists():
            return False
        require_tools()
        with self.progress.step(f"kind delete cluster {self.kind_name}"):
            self._run("delete", "cluster", "--kubeconfig", str(self.kubeconfig))
        shutil.rmtree(self.directory)
        return True

    def status(self) -> ClusterStatus | None:
        """What runs; None when there is no such cluster of ours. A process is a node container here."""
        if not self._mark.exists():
            return None
        require_tools()
        nodes = self._run("get", "nodes").split() if self.kind_name in self._clusters() else []
        return ClusterStatus(
            name=self.name,
            directory=self.directory,
            server=self._server(),
            kubeconfig=self.kubeconfig,
            output=self.output,
            mode="kind",
            processes=tuple(self._node_status(node) for node in nodes),
        )

    def import_image(self, image: Image) -> None:
        """Loads an archive into the node.

        Raises:
            LocalClusterError: kind failed; the message quotes it.
        """
        with self.progress.step(f"loading image {image.name} into the node"):
            self._run("load", "image-archive", str(image.archive))

    def _clusters(self) -> list[str]:
        return _checked(["kind", "get", "clusters"]).split()

    def _run(self, *arguments: str) -> str:
        return _checked(["kind", *arguments, "--name", self.kind_name])

    def _server(self) -> str | None:
        if not self.kubeconfig.exists():
            return None
        server: str = yaml.safe_load(self.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
        return server

    def _node_status(self, node: str) -> ProcessStatus:
        """A stopped container has process id 0."""
        pid = int(_checked(["docker", "inspect", "--format", "{{.State.Pid}}", node]))
        return ProcessStatus(node, pid or None, None, log=None)


def require_tools() -> None:
    """Refuses, naming everything that is missing at once.

    Raises:
        MissingToolError: Docker, its daemon, or kind is not there.
    """
    missing = []
    if shutil.which("docker") is None:
        missing.append("the command docker (https://docs.docker.com/engine/install)")
    elif not docker_daemon_runs():
        missing.append("a running Docker daemon that this user may use (`docker info` fails)")
    if shutil.which("kind") is None:
        missing.append(f"the command kind (https://kind.sigs.k8s.io, v{KIND_VERSION} or later)")
    if missing:
        raise MissingToolError(
            f"the provider kind lacks {' and '.join(missing)}; "
            "the provider modules (`--provider modules`) needs neither"
        )


def _checked(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LocalClusterError(f"`{' '.join(command[:3])}` failed; it says:\n{done.stderr.strip()[-2000:]}")
    return done.stdout.strip()
