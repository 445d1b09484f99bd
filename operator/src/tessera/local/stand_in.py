"""Tessera's processes beside KWOK: each runs here, in the name of the pod that KWOK only pretends to run.

A simulated node runs no containers, so the chart's pods exist but do nothing. For each of them a process is
started on this machine with a token that the API server has bound to that very pod. To the API server it is
the pod: RBAC, the Lease's holder and the admission policy that compares the two work exactly as on a real
cluster. The agent has no pod at all on such nodes; `tessera fleet`, with an account of its own, publishes
their GPUs.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from pathlib import Path

import yaml

from tessera.local.cluster import LocalCluster
from tessera.local.ports import free_ports
from tessera.local.processes import main_process, start
from tessera.local.progress import Progress
from tessera.local.readiness import wait_ready

TOKEN_LIFETIME = "24h"
START_TIMEOUT_SECONDS = 60.0
FLEET = "tessera-fleet"
REPLICATED = ("operator", "scheduler")


def run_beside_kwok(
    cluster: LocalCluster, *, namespace: str, gpu_model: str, gpus: int, progress: Progress
) -> None:
    """Starts one process per pod of operator and scheduler, and the fleet; those that live are left alone.

    Raises:
        LocalClusterError: a token was refused, or a process was not healthy in a minute.
    """
    for component in REPLICATED:
        selector = f"app.kubernetes.io/component={component}"
        listed = cluster.control_plane.kubectl("-n", namespace, "get", "pods", "-l", selector, "-o", "json")
        for pod in json.loads(listed)["items"]:
            identity = pod["metadata"]["name"]
            bound = ["--bound-object-kind=Pod", f"--bound-object-name={identity}"]
            arguments = [component, f"--lease-namespace={namespace}", f"--identity={identity}"]
            if component == "operator":
                arguments.append("--worker-image=tessera/worker:simulated")
            account = f"tessera-{component}"
            _run(
                cluster,
                identity,
                arguments,
                account=account,
                bound=bound,
                namespace=namespace,
                progress=progress,
            )
    fleet = ["fleet", f"--simulate={gpu_model}", f"--simulate-count={gpus}"]
    fleet.append(f"--state-dir={cluster.state.directory / 'fleet'}")
    _run(cluster, FLEET, fleet, account=FLEET, bound=[], namespace=namespace, progress=progress)


def _run(
    cluster: LocalCluster,
    role: str,
    arguments: list[str],
    *,
    account: str,
    bound: list[str],
    namespace: str,
    progress: Progress,
) -> None:
    identity = cluster.state.identity()
    assert identity is not None
    if main_process(role, identity=identity) is not None:
        return
    create = ["-n", namespace, "create", "token", account, f"--duration={TOKEN_LIFETIME}", *bound]
    token = cluster.control_plane.kubectl(*create).strip()
    kubeconfig = _write_kubeconfig(cluster, role, token)
    (port,) = free_ports(1)
    log = cluster.state.logs / f"{role}.log"
    with progress.step(f"starting {role} on this machine"):
        start(
            role,
            [
                sys.executable,
                "-P",
                "-c",
                "from tessera.cli.main import main; main()",
                *arguments,
                f"--port={port}",
                f"--kubeconfig={kubeconfig}",
            ],
            identity=identity,
            journal=cluster.control_plane.journal,
            log=log,
        )
        wait_ready(
            role,
            lambda: _is_healthy(port),
            alive=lambda: main_process(role, identity=identity) is not None,
            log=log,
            timeout_seconds=START_TIMEOUT_SECONDS,
        )


def _is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _write_kubeconfig(cluster: LocalCluster, role: str, token: str) -> Path:
    """The administrator's kubeconfig with the user replaced by the token; readable by its owner only."""
    content = yaml.safe_load(cluster.kubeconfig.read_text())
    content["users"] = [{"name": content["users"][0]["name"], "user": {"token": token}}]
    path = cluster.state.pki / f"{role}.kubeconfig"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        yaml.safe_dump(content, file, sort_keys=False)
    return path
