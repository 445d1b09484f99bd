"""One real node: containerd and kubelet, as root, in a corner of this machine of their own.

Everything that a node usually takes for itself (mounts, fixed paths, control groups, an address, firewall
chains) it gets as its own copy here, so several nodes of several clusters run side by side with the machine
undisturbed.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from tessera.local import containerd, kubelet
from tessera.local.build import NODE_PROGRAMS, ensure_binaries
from tessera.local.cgroups import ensure_cgroup
from tessera.local.control_plane import ControlPlane
from tessera.local.errors import LocalClusterError
from tessera.local.host import find_tool, run
from tessera.local.mount_namespace import ensure_namespace
from tessera.local.network import ClusterNetwork
from tessera.local.pause_image import PAUSE_IMAGE, busybox_image
from tessera.local.processes import main_process, start
from tessera.local.readiness import wait_ready
from tessera.local.state import Identity

START_TIMEOUT_SECONDS = 60.0


class Node:
    """The real node of a cluster whose control plane runs already."""

    def __init__(self, control_plane: ControlPlane, *, network: ClusterNetwork, identity: Identity) -> None:
        self.name = f"{identity.name}-node"
        self._control_plane = control_plane
        self._state = control_plane.state
        self._journal = control_plane.journal
        self._network = network
        self._identity = identity
        self._children: list[subprocess.Popen[bytes]] = []

    def up(self) -> None:
        """Starts containerd and kubelet where they do not run, and waits for the node to be Ready.

        Raises:
            ProcessFailedError: one of them ended or was not ready in a minute; quotes its log.
            LocalClusterError: the machine refused a mount or a control group.
        """
        progress = self._control_plane.progress
        binaries = ensure_binaries(NODE_PROGRAMS, progress=progress)
        cgroup_root = ensure_cgroup(identity=self._identity, journal=self._journal)
        inside = ensure_namespace(self._state, identity=self._identity, journal=self._journal)
        with progress.step("starting containerd"):
            configuration = containerd.write_configuration(
                self._state, network=self._network, binaries=binaries, runc=find_tool("runc")
            )
            self._ensure(
                "containerd",
                [*inside, str(binaries / "containerd"), "--config", str(configuration)],
                # It looks for its shim on PATH.
                environment={
                    "PATH": f"{binaries}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
                },
            )
            self._wait("containerd", self._containerd_answers)
            self._import_pause_image()
        with progress.step("starting kubelet"):
            self._ensure("kubelet", [*inside, *self._kubelet_command(binaries, cgroup_root)])
            self._wait("kubelet", self._is_ready)

    def import_images(self, archive: Path | bytes) -> None:
        """Puts the images of an OCI archive into the node; their names must be full ones.

        Raises:
            LocalClusterError: containerd refused it.
        """
        content = archive if isinstance(archive, bytes) else None
        source = "-" if isinstance(archive, bytes) else str(archive)
        self._ctr("images", "import", source, input_bytes=content)

    def images(self) -> list[str]:
        """Names of the images in the node."""
        return self._ctr("images", "list", "--quiet").split()

    def _ctr(self, *arguments: str, input_bytes: bytes | None = None, timeout_seconds: float = 600) -> str:
        program = ensure_binaries(NODE_PROGRAMS, progress=self._control_plane.progress) / "ctr"
        socket = containerd.host_socket(self._state)
        command: list[str | Path] = [program, "--address", socket, "--namespace", "k8s.io", *arguments]
        return run(command, input_bytes=input_bytes, timeout_seconds=timeout_seconds)

    def _import_pause_image(self) -> None:
        if PAUSE_IMAGE not in self.images():
            self.import_images(
                busybox_image(
                    name=PAUSE_IMAGE,
                    busybox=find_tool("busybox"),
                    command=["/bin/busybox", "sleep", "2147483647"],
                )
            )

    def _kubelet_command(self, binaries: Path, cgroup_root: str) -> list[str]:
        pki = self._state.pki
        client = self._control_plane.issue_client(
            "kubelet", common_name=f"system:node:{self.name}", organizations=("system:nodes",)
        )
        kubeconfig = pki / "kubelet.kubeconfig"
        self._control_plane.write_client_kubeconfig(kubeconfig, client=client, user=self.name)
        serving = self._control_plane.issue_server(
            "kubelet-server", common_name=f"system:node:{self.name}", names=(self._network.address, self.name)
        )
        configuration = self._state.directory / "node" / "kubelet.yaml"
        kubelet.write_configuration(
            configuration,
            kubelet.kubelet_configuration(
                address=self._network.address,
                cgroup_root=cgroup_root,
                client_ca=pki / "ca.crt",
                certificate=serving.certificate,
                key=serving.key,
            ),
        )
        return [
            str(binaries / "kubelet"),
            f"--config={configuration}",
            f"--kubeconfig={kubeconfig}",
            "--root-dir=/var/lib/kubelet",
            f"--hostname-override={self.name}",
            f"--node-ip={self._network.address}",
            f"--node-labels=tessera.dev/local-cluster={self._identity.name}",
        ]

    def _ensure(self, role: str, command: list[str], *, environment: dict[str, str] | None = None) -> None:
        if main_process(role, identity=self._identity) is None:
            self._children.append(
                start(
                    role,
                    command,
                    identity=self._identity,
                    journal=self._journal,
                    log=self._log(role),
                    environment=environment,
                )
            )

    def _log(self, role: str) -> Path:
        return self._state.logs / f"{role}.log"

    def _wait(self, role: str, ready: Callable[[], bool]) -> None:
        wait_ready(
            role,
            ready,
            alive=lambda: main_process(role, identity=self._identity) is not None,
            log=self._log(role),
            timeout_seconds=START_TIMEOUT_SECONDS,
        )

    def _containerd_answers(self) -> bool:
        try:
            plugins = self._ctr("plugins", "list", timeout_seconds=5)
        except LocalClusterError:
            return False
        return any(line.split()[:2] == ["io.containerd.grpc.v1", "cri"] for line in plugins.splitlines())

    def _is_ready(self) -> bool:
        answer = self._control_plane.fetch(f"/api/v1/nodes/{self.name}")
        conditions = json.loads(answer)["status"].get("conditions", []) if answer else []
        return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
