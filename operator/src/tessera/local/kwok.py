"""Simulated nodes: KWOK answers for kubelets that do not exist.

The node and pod life cycles are the *stages* that the pinned KWOK module ships, with two changes. A Job's pod
runs for as long as its annotation says (a second by default), and an evicted one becomes Failed before it
goes, as on a real node; KWOK's own stages drop it at once, and the Job controller then never counts it. KWOK
acts only on nodes with its annotation, so it can stand beside a real kubelet.
"""

from __future__ import annotations

import json
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from tessera.local.build import ensure_binaries, module_directory
from tessera.local.control_plane import ControlPlane
from tessera.local.processes import main_process, start
from tessera.local.readiness import wait_ready
from tessera.local.state import Identity

ROLE = "kwok"
NODE_ANNOTATION = "kwok.x-k8s.io/node"
DURATION_ANNOTATION = "kwok.x-k8s.io/pod-run-duration"
START_TIMEOUT_SECONDS = 60.0
UPSTREAM_STAGES = (
    "node/fast/node-initialize",
    "node/heartbeat/node-heartbeat",
    "pod/fast/pod-ready",
    "pod/fast/pod-complete",
    "pod/fast/pod-delete",
)
Stage = dict[str, Any]


class KwokNodes:
    """The simulated nodes of a cluster whose control plane runs already."""

    def __init__(self, control_plane: ControlPlane, *, identity: Identity) -> None:
        self._control_plane = control_plane
        self._state = control_plane.state
        self._identity = identity
        self._children: list[subprocess.Popen[bytes]] = []

    def up(self, count: int) -> None:
        """Starts KWOK if it does not run and waits until `count` nodes are Ready.

        Raises:
            ProcessFailedError: KWOK ended, or the nodes were not ready in a minute.
        """
        progress = self._control_plane.progress
        binaries = ensure_binaries([ROLE], progress=progress)
        with progress.step(f"starting KWOK with {count} simulated nodes"):
            nodes = [simulated_node(f"{self._identity.name}-kwok-{number}") for number in range(count)]
            self._control_plane.kubectl(
                "apply", "--server-side", "-f", "-", input_text="\n".join(json.dumps(node) for node in nodes)
            )
            configuration = self._state.directory / "kwok.yaml"
            configuration.write_text(yaml.safe_dump_all(stages(read_upstream_stages()), sort_keys=False))
            log = self._state.logs / f"{ROLE}.log"
            if main_process(ROLE, identity=self._identity) is None:
                command = [
                    str(binaries / ROLE),
                    f"--kubeconfig={self._control_plane.kubeconfig}",
                    f"--config={configuration}",
                    "--manage-all-nodes=false",
                    f"--manage-nodes-with-annotation-selector={NODE_ANNOTATION}=fake",
                ]
                self._children.append(
                    start(
                        ROLE, command, identity=self._identity, journal=self._control_plane.journal, log=log
                    )
                )
            wait_ready(
                ROLE,
                lambda: self._ready_nodes() >= count,
                alive=lambda: main_process(ROLE, identity=self._identity) is not None,
                log=log,
                timeout_seconds=START_TIMEOUT_SECONDS,
            )

    def _ready_nodes(self) -> int:
        answer = self._control_plane.fetch("/api/v1/nodes?labelSelector=type%3Dkwok")
        nodes = json.loads(answer)["items"] if answer else []
        conditions = [condition for node in nodes for condition in node["status"].get("conditions", [])]
        return sum(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def simulated_node(name: str) -> dict[str, Any]:
    """A Node for KWOK to manage: 32 CPUs, 256 GiB, 110 pods."""
    room = {"cpu": "32", "memory": "256Gi", "pods": "110", "ephemeral-storage": "1Ti"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {NODE_ANNOTATION: "fake"},
            "labels": {"type": "kwok", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"},
        },
        "status": {"allocatable": room, "capacity": room},
    }


def read_upstream_stages() -> list[Stage]:
    """The stages in the sources of the pinned KWOK module."""
    directory = module_directory("kwok", "sigs.k8s.io/kwok") / "kustomize" / "stage"
    return [yaml.safe_load(Path(directory, f"{name}.yaml").read_text()) for name in UPSTREAM_STAGES]


def stages(upstream: list[Stage]) -> list[Stage]:
    """What the simulated nodes follow: upstream's stages, with the ends of Jobs' pods as on a real node."""
    result = []
    for stage in deepcopy(upstream):
        if stage["metadata"]["name"] == "pod-complete":
            stage["spec"]["delay"] = {
                "durationMilliseconds": 1000,
                "durationFrom": {"expressionFrom": f'.metadata.annotations["{DURATION_ANNOTATION}"]'},
            }
        if stage["metadata"]["name"] == "pod-delete":
            stage["spec"]["selector"]["matchExpressions"].append(_owned_by_job(operator="NotIn"))
        result.append(stage)
    return [*result, _job_pod_fails(), _ended_job_pod_goes()]


def _owned_by_job(*, operator: str) -> dict[str, Any]:
    return {"key": ".metadata.ownerReferences.[].kind", "operator": operator, "values": ["Job"]}


def _phase(*phases: str) -> dict[str, Any]:
    return {"key": ".status.phase", "operator": "In", "values": list(phases)}


def _job_pod_fails() -> Stage:
    selector = [_deleted(), _owned_by_job(operator="In"), _phase("Pending", "Running")]
    template = """
{{ $now := Now }}
phase: Failed
containerStatuses:
{{ range .spec.containers }}
- image: {{ .image | Quote }}
  name: {{ .name | Quote }}
  ready: false
  restartCount: 0
  started: false
  state:
    terminated:
      exitCode: 143
      reason: Error
      finishedAt: {{ $now | Quote }}
{{ end }}
"""
    return _pod_stage("job-pod-fails", selector, {"statusTemplate": template})


def _ended_job_pod_goes() -> Stage:
    selector = [_deleted(), _owned_by_job(operator="In"), _phase("Failed", "Succeeded")]
    return _pod_stage("job-pod-delete", selector, {"delete": True})


def _deleted() -> dict[str, Any]:
    return {"key": ".metadata.deletionTimestamp", "operator": "Exists"}


def _pod_stage(name: str, selector: list[dict[str, Any]], following: dict[str, Any]) -> Stage:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
            "selector": {"matchExpressions": selector},
            "next": following,
        },
    }
