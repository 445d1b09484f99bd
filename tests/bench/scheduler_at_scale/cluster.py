"""The cluster of the benchmark: one control plane, KWOK nodes, simulated GPUs, and the chart's policies.

The GPUs are written as ResourceSlices with the agent's own pure function (`tessera.agent.devices`): they are
the objects that `tessera fleet` would publish, without a process that competes for the processor while the
allocators are timed. From the chart come the rights of the scheduler's account and those admission policies
that a claim meets on its way, so every allocator but kube-scheduler's own pays for them, and claims get their
finalizer without a write of anybody.

The client limits of kube-controller-manager are raised for all arms: its default is 20 requests a second,
and a claim from a template takes two (the claim, and the pod's status that names it).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from bench.scheduler_at_scale.many_requests import each
from custom_resources import install_crds
from tessera.agent.devices import Owner, slices_for
from tessera.api import names
from tessera.gpu.driver import GPU
from tessera.gpu.profiles import board, model
from tessera.kube.client import KubeClient
from tessera.kube.errors import AlreadyExists, NotFound
from tessera.kube.resources import (
    DEVICE_CLASSES,
    GPU_NODES,
    MIG_PARTITIONS,
    NODES,
    PODS,
    RESOURCE_SLICES,
    Resource,
)
from tessera.local.build import ensure_binaries
from tessera.local.control_plane import ROLES, ControlPlane, Endpoints
from tessera.local.kwok import KwokNodes
from tessera.local.ports import free_ports
from tessera.local.processes import find, kill_all, main_process, start
from tessera.local.progress import Progress
from tessera.local.readiness import answers_ok, wait_ready
from tessera.local.state import ClusterState, existing_clusters
from tessera.local.teardown import tear_down

Object = dict[str, Any]
ROOT = Path(__file__).resolve().parents[3]
GPU_MODEL = "H100-80GB"
ALLOCATOR = "allocator"
ALLOCATOR_POD = "bench-allocator"
PARTITION = "bench"
FILL_LABEL = "bench.tessera.dev/fill"
START_SECONDS = 180.0
NODES_AT_ONCE = 250
"""KWOK has a minute to make nodes ready."""
CHART_PARTS = (
    "scheduler/rbac",
    "scheduler/service-account",
    "admission/claim-finalizer",
    "admission/claim-no-bypass",
    "admission/leading-allocator",
    "admission/move-records",
    "admission/movable-job",
    "admission/scheduler-placeholder",
    "admission/scheduler-pod-patch",
)
SINGLE_ALLOCATOR = "admission/single-allocator"
"""Apart from the others, because it refuses allocations by kube-scheduler, which is one of the arms."""


class LimitedControlPlane(ControlPlane):
    """A control plane whose kube-scheduler can be given back its default client limits."""

    default_limits = False

    def _scheduler(self, binaries: Path, endpoints: Endpoints) -> list[str]:
        # Of a flag that is given twice the last one holds.
        limits = ["--kube-api-qps=50", "--kube-api-burst=100"] if self.default_limits else []
        return [*super()._scheduler(binaries, endpoints), *limits]

    def _controller_manager(self, binaries: Path, endpoints: Endpoints) -> list[str]:
        raised = ["--kube-api-qps=1000", "--kube-api-burst=1000"]
        return [*super()._controller_manager(binaries, endpoints), *raised]


class BenchCluster:
    """Use as a context manager: everything that was started is gone at its end."""

    def __init__(self, *, nodes: int, gpus: int, fill_nodes: int) -> None:
        self.nodes = nodes
        self.gpus = gpus
        self.fill_nodes = fill_nodes
        directory = Path(tempfile.gettempdir()) / f"tessera-bench-{os.getuid()}"
        directory.mkdir(mode=0o700, exist_ok=True)
        _remove_leftovers(directory)
        self.state = ClusterState.of(f"bench-{os.getpid()}", state_dir=directory)
        self.control_plane = LimitedControlPlane(self.state)
        self._allocator_kubeconfig = self.state.pki / "allocator.kubeconfig"

    def __enter__(self) -> BenchCluster:
        try:
            self._up()
        except BaseException:
            self.control_plane.down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.control_plane.down()

    @property
    def node_names(self) -> list[str]:
        """The simulated nodes; the first `fill_nodes` by name carry the label `FILL_LABEL`."""
        return [f"{self.state.name}-kwok-{number}" for number in range(self.nodes)]

    @property
    def allocator_log(self) -> Path:
        """What the allocators of all arms have said."""
        return self.state.logs / f"{ALLOCATOR}.log"

    def client(self) -> Any:
        """An administrator's client, to be awaited."""
        return KubeClient.connect(
            kubeconfig=self.control_plane.kubeconfig,
            user_agent="tessera-bench",
            field_manager="tessera-bench",
        )

    def _up(self) -> None:
        self.control_plane.up()
        install_crds(self.control_plane)
        self.control_plane.kubectl("create", "namespace", names.SYSTEM_NAMESPACE)
        self._apply_chart(CHART_PARTS)
        identity = self.state.identity()
        assert identity is not None, "a cluster that is up has an identity"
        nodes = KwokNodes(self.control_plane, identity=identity)
        for count in range(min(NODES_AT_ONCE, self.nodes), self.nodes, NODES_AT_ONCE):
            nodes.up(count)
        nodes.up(self.nodes)
        # The first in the order of names, in which the trivial allocator fills: it knows no node filters.
        filled = sorted(self.node_names)[: self.fill_nodes]
        self.control_plane.kubectl("label", "nodes", *filled, f"{FILL_LABEL}=true")
        self._write_allocator_kubeconfig()

    def _apply_chart(self, parts: Sequence[str]) -> None:
        self.control_plane.kubectl("apply", "-f", "-", input_text=_render(parts))

    def allow_one_allocator_only(self, only: bool) -> None:
        """Whether kube-scheduler is kept from allocating our devices, as the chart does it."""
        if only:
            self._apply_chart([SINGLE_ALLOCATOR])
        else:
            rendered = _render([SINGLE_ALLOCATOR])
            self.control_plane.kubectl("delete", "--ignore-not-found", "-f", "-", input_text=rendered)

    # GPUs.

    async def publish(self, client: KubeClient, *, tainted: bool) -> None:
        """Replaces all ResourceSlices: the devices with the agent's taint, or without, for kube-scheduler."""
        await delete_all(client, RESOURCE_SLICES)
        uids = {
            node["metadata"]["name"]: node["metadata"]["uid"] for node in (await client.list(NODES)).items
        }

        async def publish_node(name: str) -> None:
            for item in slices_for(Owner(name, uids[name]), simulated_gpus(name, self.gpus), generation=1):
                if not tainted:
                    for device in item["spec"].get("devices", ()):
                        del device["taints"]
                await client.create(RESOURCE_SLICES, item)

        await each(self.node_names, publish_node)

    async def set_device_class(self, client: KubeClient, *, present: bool) -> None:
        """Makes or removes the DeviceClass object, as the chart's `deviceClass.create` does."""
        await delete_all(client, DEVICE_CLASSES)
        if present:
            body = {
                "metadata": {"name": names.DEVICE_CLASS},
                "spec": {"selectors": [{"cel": {"expression": f'device.driver == "{names.DRIVER}"'}}]},
            }
            await client.create(DEVICE_CLASSES, body)

    async def write_gpu_nodes(self, client: KubeClient) -> None:
        """Tells that all GPUs belong to the partition, as the operator does."""

        async def write(name: str) -> None:
            entries = [{"uuid": gpu.uuid, "partition": PARTITION} for gpu in simulated_gpus(name, self.gpus)]
            await client.create(GPU_NODES, {"metadata": {"name": name}, "spec": {"gpus": entries}})

        await each(self.node_names, write)

    async def allow_moves(self, client: KubeClient, allowed: bool) -> None:
        """Makes or removes the MIGPartition, which has all GPUs. Its ration is the largest: with the default
        one a run of minutes would earn hardly a move.
        """
        await delete_all(client, MIG_PARTITIONS)
        if allowed:
            spec = {"mode": "dynamic", "dynamic": {"moves": {"per100Placements": 100, "perHour": 10_000}}}
            await client.create(MIG_PARTITIONS, {"metadata": {"name": PARTITION}, "spec": spec})

    # Processes.

    def pid(self, role: str) -> int | None:
        """The process of that role, None when there is none."""
        identity = self.state.identity()
        process = main_process(role, identity=identity) if identity else None
        return process.pid if process else None

    def restart_control_plane(self, *, default_limits: bool) -> None:
        """Every arm begins with fresh processes: an API server grows with all objects that it has ever seen,
        and kube-scheduler's back-offs are to be that arm's own.
        """
        for role in reversed(ROLES):
            self.end(role)
        self.control_plane.default_limits = default_limits
        self.control_plane.up()

    def end(self, role: str) -> None:
        """Ends the process of that role, if it runs."""
        identity = self.state.identity()
        assert identity is not None
        kill_all(lambda: find(identity=identity, role=role), identity=identity)

    def start_allocator(self, command: Sequence[str]) -> int:
        """Starts an allocator (its arguments after `python -P`) as the scheduler's account; returns the port
        of its metrics.
        """
        identity = self.state.identity()
        assert identity is not None
        (port,) = free_ports(1)
        temporary = self.state.directory / "tmp"
        temporary.mkdir(mode=0o700, exist_ok=True)
        log = self.allocator_log
        start(
            ALLOCATOR,
            [sys.executable, "-P", *command, f"--port={port}", f"--kubeconfig={self._allocator_kubeconfig}"],
            identity=identity,
            journal=self.control_plane.journal,
            log=log,
            environment={"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT / "tests")},
        )
        wait_ready(
            ALLOCATOR,
            lambda: answers_ok("127.0.0.1", port, "/healthz", tls=None),
            alive=lambda: self.pid(ALLOCATOR) is not None,
            log=log,
            timeout_seconds=START_SECONDS,
        )
        return port

    def _write_allocator_kubeconfig(self) -> None:
        """A token bound to a pod, as the fencing policy demands. Nobody ever schedules that pod."""
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": ALLOCATOR_POD, "namespace": names.SYSTEM_NAMESPACE},
            "spec": {
                "serviceAccountName": names.SCHEDULER_SERVICE_ACCOUNT,
                "schedulerName": "nobody",
                "containers": [{"name": "main", "image": "example.invalid/none"}],
            },
        }
        kubectl, space = self.control_plane.kubectl, ("-n", names.SYSTEM_NAMESPACE)
        kubectl("create", "-f", "-", input_text=json.dumps(pod))
        bound = (f"--bound-object-kind={PODS.kind}", f"--bound-object-name={ALLOCATOR_POD}")
        token = kubectl(*space, "create", "token", names.SCHEDULER_SERVICE_ACCOUNT, "--duration=48h", *bound)
        content = yaml.safe_load(self.control_plane.kubeconfig.read_text())
        content["users"] = [{"name": content["users"][0]["name"], "user": {"token": token.strip()}}]
        self._allocator_kubeconfig.touch(mode=0o600)
        self._allocator_kubeconfig.write_text(yaml.safe_dump(content, sort_keys=False))


def simulated_gpus(node: str, count: int) -> list[GPU]:
    """GPUs of a node; the UUIDs follow from the node's name and the index."""
    kind = board(GPU_MODEL)
    first = GPU(
        index=0,
        uuid="",
        product=kind.product,
        memory_mib=kind.memory_mib,
        architecture=kind.architecture,
        mig_current=True,
        mig_pending=True,
        model=model(GPU_MODEL),
        instances=(),
    )
    return [
        replace(first, index=index, uuid=f"GPU-{uuid.uuid5(uuid.NAMESPACE_DNS, f'{index}.{node}')}")
        for index in range(count)
    ]


async def delete_all(client: KubeClient, resource: Resource, namespace: str | None = None) -> None:
    """Deletes the objects one by one, without grace: of thousands a collection takes longer than a request
    may.
    """

    async def delete(obj: Object) -> None:
        name = obj["metadata"]["name"]
        with contextlib.suppress(NotFound):
            await client.delete(
                resource, name, namespace=namespace, propagation="Background", grace_seconds=0
            )

    await each((await client.list(resource, namespace)).items, delete)


async def ensure_namespace(client: KubeClient, name: str) -> None:
    """Makes the namespace; an existing one is taken as it is."""
    try:
        await client.raw("POST", "/api/v1/namespaces", body={"metadata": {"name": name}})
    except AlreadyExists:
        return


def _render(parts: Sequence[str]) -> str:
    helm = ensure_binaries(["helm"], progress=Progress.silent()) / "helm"
    shown = [f"--show-only=templates/{part}.yaml" for part in parts]
    chart = str(ROOT / "charts" / "tessera")
    command = [str(helm), "template", "tessera", chart, f"--namespace={names.SYSTEM_NAMESPACE}", *shown]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _remove_leftovers(directory: Path) -> None:
    """Removes what a killed run has left."""
    for state in existing_clusters(directory):
        pid = state.name.rpartition("-")[2]
        if pid.isdigit() and not Path("/proc", pid).exists():
            tear_down(state, progress=Progress())
