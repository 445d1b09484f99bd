"""A local cluster: the control plane, plus one real node (as root) or simulated nodes (KWOK).

`up` converges: it makes what is missing and leaves the rest, so the same call starts a cluster, repairs one
whose processes died, and does nothing to a healthy one. `down` works from the journal alone.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tessera.local.build import CONTROL_PLANE_PROGRAMS, NODE_PROGRAMS, ensure_binaries, find_go
from tessera.local.control_plane import ControlPlane, Endpoints
from tessera.local.errors import LocalClusterError
from tessera.local.host import can_have_node, ensure_node_tools
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
    log: Path | None
    """None: it is a container, and Docker has its log."""


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


@dataclass(frozen=True)
class WantedNodes:
    """Which nodes a cluster is made of."""

    real: bool
    simulated: int


def choose_nodes(requested: int | None, *, known: WantedNodes | None, can_have_node: bool) -> WantedNodes:
    """The nodes of a cluster, from the simulated ones that are asked for and those it was made with.

    >>> choose_nodes(None, known=None, can_have_node=True)
    WantedNodes(real=True, simulated=0)
    """
    if known is not None:
        return WantedNodes(known.real, known.simulated if requested is None else requested)
    if requested is not None:
        return WantedNodes(real=False, simulated=requested)
    return WantedNodes(real=can_have_node, simulated=0 if can_have_node else DEFAULT_KWOK_NODES)


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
            kwok_nodes: how many simulated nodes to have; beside the real one, if the cluster has that. None
                means what the cluster had before; in a new one a real node as root, and three simulated ones
                otherwise.

        Raises:
            LocalClusterError: with the reason and the remedy; what was made stays, for `logs` and `down`.
        """
        find_go()  # Said before anything is made.
        identity = self.state.create(self.control_plane.journal)
        with self.state.exclusively(progress=self.progress):
            wanted = self._wanted_nodes(kwok_nodes)
            if wanted.real:
                self._up_with_real_node(identity)
            else:
                self.control_plane.up()
            if wanted.simulated:
                KwokNodes(self.control_plane, identity=identity).up(wanted.simulated)
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

    def _wanted_nodes(self, kwok_nodes: int | None) -> WantedNodes:
        """What to have, from the request and what the cluster was made with; remembered for the next `up`."""
        record = self.state.directory / "nodes.json"
        known = WantedNodes(**json.loads(record.read_text())) if record.exists() else None
        wanted = choose_nodes(kwok_nodes, known=known, can_have_node=can_have_node())
        if known is None and kwok_nodes is None and not wanted.real:
            self.progress.say(
                f"not root (with CAP_SYS_ADMIN and CAP_NET_ADMIN): {wanted.simulated} simulated (KWOK) nodes "
                "instead of a real one"
            )
        unfinished = record.with_name(f".nodes.{os.getpid()}")
        unfinished.write_text(json.dumps(asdict(wanted)))
        unfinished.rename(record)
        return wanted

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
