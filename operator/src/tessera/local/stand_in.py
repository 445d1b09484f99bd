"""Tessera's processes beside KWOK: each runs here, in the name of the pod that KWOK only pretends to run.

A simulated node runs no containers, so the chart's pods exist but do nothing. For each of them a process is
started on this machine with a token that the API server has bound to that very pod. To the API server it is
the pod: RBAC, the Lease's holder and the admission policy that compares the two work exactly as on a real
cluster. The agent has no pod at all on such nodes; `tessera fleet`, with an account of its own, publishes
their GPUs.

A process that has died is started again by the next `up`, and so is one whose pod is no longer there: the
token has ended with the pod.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from tessera.local.cluster import LocalCluster
from tessera.local.ports import free_ports
from tessera.local.processes import find, kill_all, main_process, start
from tessera.local.progress import Progress
from tessera.local.readiness import answers_ok, wait_ready
from tessera.local.state import Identity

# Nothing renews a token here; it ends with its pod, or with the cluster.
TOKEN_LIFETIME = "8760h"
START_TIMEOUT_SECONDS = 60.0
FLEET = "tessera-fleet"
REPLICATED = ("operator", "scheduler")
WORKER_IMAGE = "tessera/worker:simulated"


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """A process to have.

    Attributes:
        role: its name among the cluster's processes, such as `tessera-scheduler-0`.
        account: the service account in whose name it speaks.
        pod: the pod that it stands for; None for the fleet, which has none.
        arguments: what `tessera` is called with; port and kubeconfig are added.
    """

    role: str
    account: str
    pod: str | None
    arguments: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RunningStandIn:
    """A process that runs; `pod` as above."""

    role: str
    pid: int
    pod: str | None
    port: int

    @property
    def metrics_url(self) -> str:
        """Where it serves its metrics, on this machine."""
        return f"http://127.0.0.1:{self.port}/metrics"


def run_beside_kwok(
    cluster: LocalCluster, *, namespace: str, gpu_model: str, gpus: int, progress: Progress
) -> None:
    """Starts one process per pod of operator and scheduler, and the fleet; those that live are left alone.

    Raises:
        LocalClusterError: a token was refused, or a process was not healthy in a minute.
    """
    identity = cluster.state.identity()
    assert identity is not None, "a cluster whose pods are listed has an identity"
    wanted = [
        stand_in
        for component in REPLICATED
        for stand_in in replicas(
            component, pods=_pods(cluster, component, namespace=namespace), namespace=namespace
        )
    ]
    wanted.append(_fleet(cluster, gpu_model=gpu_model, gpus=gpus))
    running = {process.role: process for process in running_stand_ins(cluster)}
    missing = [s for s in wanted if s.role not in running or running[s.role].pod != s.pod]
    if not missing:
        return
    with progress.step(f"starting {', '.join(s.role for s in missing)} on this machine"):
        # The ports are drawn together: a port is free until its process listens, so two draws may be equal.
        ports = dict(zip(missing, free_ports(len(missing)), strict=True))
        for stand_in, port in ports.items():
            _end(stand_in.role, identity=identity)
            _start(cluster, stand_in, identity=identity, namespace=namespace, port=port)
        for stand_in, port in ports.items():
            _wait_until_healthy(cluster, stand_in.role, identity=identity, port=port)


def running_stand_ins(cluster: LocalCluster) -> list[RunningStandIn]:
    """The stand-ins that live, whoever started them, as their command lines tell."""
    identity = cluster.state.identity()
    if identity is None:
        return []
    found = []
    for process in find(identity=identity):
        if process.role == FLEET or process.role.startswith(tuple(f"tessera-{c}-" for c in REPLICATED)):
            try:
                line = Path("/proc", str(process.pid), "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue  # It has ended since it was found.
            options = dict(
                part.split("=", 1) for part in line.split("\0") if part.startswith("--") and "=" in part
            )
            if "--port" in options:
                found.append(
                    RunningStandIn(
                        role=process.role,
                        pid=process.pid,
                        pod=options.get("--identity"),
                        port=int(options["--port"]),
                    )
                )
    return found


def replicas(component: str, *, pods: Iterable[str], namespace: str) -> list[StandIn]:
    """One stand-in per pod, numbered in the order of their names.

    >>> [(s.role, s.pod) for s in replicas("scheduler", pods=["b", "a"], namespace="tessera-system")]
    [('tessera-scheduler-0', 'a'), ('tessera-scheduler-1', 'b')]
    """
    image = [f"--worker-image={WORKER_IMAGE}"] if component == "operator" else []
    return [
        StandIn(
            role=f"tessera-{component}-{number}",
            account=f"tessera-{component}",
            pod=pod,
            arguments=(component, f"--lease-namespace={namespace}", f"--identity={pod}", *image),
        )
        for number, pod in enumerate(sorted(pods))
    ]


def _fleet(cluster: LocalCluster, *, gpu_model: str, gpus: int) -> StandIn:
    state = cluster.state.directory / "fleet"
    arguments = ("fleet", f"--simulate={gpu_model}", f"--simulate-count={gpus}", f"--state-dir={state}")
    return StandIn(role=FLEET, account=FLEET, pod=None, arguments=arguments)


def _pods(cluster: LocalCluster, component: str, *, namespace: str) -> list[str]:
    """The names of the component's pods that stay."""
    selector = f"app.kubernetes.io/component={component}"
    listed = cluster.control_plane.kubectl("-n", namespace, "get", "pods", "-l", selector, "-o", "json")
    metadata = [pod["metadata"] for pod in json.loads(listed)["items"]]
    return [each["name"] for each in metadata if not each.get("deletionTimestamp")]


def _start(
    cluster: LocalCluster, stand_in: StandIn, *, identity: Identity, namespace: str, port: int
) -> None:
    create = ["-n", namespace, "create", "token", stand_in.account, f"--duration={TOKEN_LIFETIME}"]
    if stand_in.pod is not None:
        create += ["--bound-object-kind=Pod", f"--bound-object-name={stand_in.pod}"]
    token = cluster.control_plane.kubectl(*create).strip()
    kubeconfig = _write_kubeconfig(cluster, stand_in.role, token)
    # The loader of kubeconfigs unpacks certificates into files; `down` kills, so they lie in the cluster.
    temporary = cluster.state.directory / "tmp"
    temporary.mkdir(mode=0o700, exist_ok=True)
    program = [sys.executable, "-P", "-c", "from tessera.cli.main import main; main()"]
    start(
        stand_in.role,
        [*program, *stand_in.arguments, f"--port={port}", f"--kubeconfig={kubeconfig}"],
        identity=identity,
        journal=cluster.control_plane.journal,
        log=cluster.state.logs / f"{stand_in.role}.log",
        environment={"TMPDIR": str(temporary)},
    )


def _end(role: str, *, identity: Identity) -> None:
    """Ends a process that stands for a pod which is gone, if there is one."""
    kill_all(lambda: find(identity=identity, role=role), identity=identity)


def _wait_until_healthy(cluster: LocalCluster, role: str, *, identity: Identity, port: int) -> None:
    wait_ready(
        role,
        lambda: answers_ok("127.0.0.1", port, "/healthz", tls=None),
        alive=lambda: main_process(role, identity=identity) is not None,
        log=cluster.state.logs / f"{role}.log",
        timeout_seconds=START_TIMEOUT_SECONDS,
    )


def _write_kubeconfig(cluster: LocalCluster, role: str, token: str) -> Path:
    """The administrator's kubeconfig with the user replaced by the token; readable by its owner only."""
    content = yaml.safe_load(cluster.kubeconfig.read_text())
    content["users"] = [{"name": content["users"][0]["name"], "user": {"token": token}}]
    path = cluster.state.pki / f"{role}.kubeconfig"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        yaml.safe_dump(content, file, sort_keys=False)
    return path
