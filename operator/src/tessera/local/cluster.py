"""A local cluster: the control plane, plus one real node (as root) or simulated nodes (KWOK).

`up` converges: it makes what is missing and leaves the rest, so the same call starts a cluster, repairs one
whose processes died, and does nothing to a healthy one. `down` works from the journal alone.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tessera.local.build import CONTROL_PLANE_PROGRAMS, NODE_PROGRAMS, ensure_binaries
from tessera.local.control_plane import ControlPlane, Endpoints
from tessera.local.errors import LocalClusterError
from tessera.local.host import ensure_node_tools
from tessera.local.journal import Kind
from tessera.local.kwok import KwokNodes
from tessera.local.network import ClusterNetwork, ensure_bridge, ensure_rules
from tessera.local.node import Node
from tessera.local.processes import main_process
from tessera.local.progress import Progress
from tessera.local.state import ClusterState, Identity
from tessera.local.storage import ensure_storage
from tessera.local.teardown import tear_down

DEFAULT_KWOK_NODES = 3


@dataclass(frozen=True)
class ProcessStatus:
    """One process that the cluster should have."""

    role: str
    pid: int | None
    uptime_seconds: float | None
    log: Path


@dataclass(frozen=True)
class ClusterStatus:
    """What `tessera local status` shows."""

    name: str
    directory: Path
    server: str | None
    kubeconfig: Path
    output: Path
    mode: str
    processes: tuple[ProcessStatus, ...]

    @property
    def running(self) -> bool:
        """Whether every process that was ever started lives."""
        return bool(self.processes) and all(process.pid is not None for process in self.processes)


class LocalCluster:
    """The cluster called `name`.

    Args:
        name: several clusters may run side by side under different names.
        state_dir: the directory that holds one directory per cluster.
        progress: told about every step.
    """

    def __init__(self, name: str, *, state_dir: Path | None = None, progress: Progress | None = None) -> None:
        self.state = ClusterState.of(name, state_dir=state_dir)
        self.progress = progress or Progress()
        self.control_plane = ControlPlane(self.state, progress=self.progress)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.state.kubeconfig

    def up(self, *, kwok_nodes: int | None = None) -> None:
        """Brings the cluster to a Ready node.

        Args:
            kwok_nodes: how many simulated nodes to have instead of a real one. None means a real node as
                root, and three simulated ones otherwise.

        Raises:
            LocalClusterError: with the reason and the remedy; what was made stays, for `logs` and `down`.
        """
        if kwok_nodes is None and os.geteuid() != 0:
            self.progress.say(f"not root: {DEFAULT_KWOK_NODES} simulated (KWOK) nodes instead of a real one")
            kwok_nodes = DEFAULT_KWOK_NODES
        identity = self.state.create(self.control_plane.journal)
        with self._exclusively():
            if kwok_nodes is None:
                self._up_with_real_node(identity)
            else:
                self.control_plane.up()
                KwokNodes(self.control_plane, identity=identity).up(kwok_nodes)
            ensure_storage(self.control_plane)
            # Until the controller manager has made it, every pod is refused.
            self.control_plane.kubectl("wait", "--for=create", "--timeout=30s", "serviceaccount/default")
        self.progress.say(f"cluster {self.state.name} is ready: export KUBECONFIG={self.kubeconfig}")

    def down(self) -> bool:
        """Removes every trace of the cluster; False when there was none."""
        return tear_down(self.state, progress=self.progress)

    def node(self) -> Node:
        """The real node.

        Raises:
            LocalClusterError: the cluster does not run, or has simulated nodes.
        """
        identity, endpoints = self.state.identity(), self.control_plane.endpoints()
        if identity is None or endpoints is None or self._mode(identity) != "node":
            raise LocalClusterError(
                f"cluster {self.state.name} has no real node: "
                f"run `tessera local up --name {self.state.name}` as root"
            )
        network = ClusterNetwork.of_address(endpoints.address)
        return Node(self.control_plane, network=network, identity=identity)

    def status(self) -> ClusterStatus | None:
        """What runs; None when there is no such cluster."""
        identity = self.state.identity()
        if identity is None:
            return None
        endpoints = self.control_plane.endpoints()
        roles = dict.fromkeys(
            entry.name for entry in self.state.journal.entries() if entry.kind is Kind.PROCESS
        )
        return ClusterStatus(
            name=self.state.name,
            directory=self.state.directory,
            server=endpoints.server if endpoints else None,
            kubeconfig=self.kubeconfig,
            output=self.state.output,
            mode=self._mode(identity),
            processes=tuple(self._process_status(role, identity) for role in roles),
        )

    def _up_with_real_node(self, identity: Identity) -> None:
        ensure_node_tools(progress=self.progress)
        # Before anything is made: a compile error should not leave half a cluster.
        ensure_binaries([*CONTROL_PLANE_PROGRAMS, *NODE_PROGRAMS], progress=self.progress)
        known = self.control_plane.endpoints()
        wanted = ClusterNetwork.of_address(known.address) if known else None
        journal = self.control_plane.journal
        network = ensure_bridge(identity=identity, journal=journal, wanted=wanted)
        self.control_plane.up(endpoints=Endpoints(network.address, network.service_cidr))
        endpoints = self.control_plane.endpoints()
        assert endpoints is not None
        port = endpoints.ports["kube-apiserver"]
        ensure_rules(network, server_port=port, identity=identity, journal=journal)
        Node(self.control_plane, network=network, identity=identity).up()

    def _mode(self, identity: Identity) -> str:
        kinds = {entry.kind for entry in self.state.journal.entries()}
        return "node" if Kind.BRIDGE in kinds else "kwok"

    def _process_status(self, role: str, identity: Identity) -> ProcessStatus:
        process = main_process(role, identity=identity)
        uptime = None
        if process is not None:
            boot_seconds = time.clock_gettime(time.CLOCK_BOOTTIME)
            uptime = boot_seconds - process.started_ticks / os.sysconf("SC_CLK_TCK")
        return ProcessStatus(role, process.pid if process else None, uptime, self.state.logs / f"{role}.log")

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """Keeps a second `up` of the same cluster waiting; the kernel drops the lock when the holder dies."""
        descriptor = os.open(self.state.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with self.progress.step("waiting for another `up` of this cluster"):
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
