"""What the end-to-end tests do as a user would: kubectl, a training job, waiting, and killing processes.

Two things are not a user's. What is only looked at comes over a kept connection, because tests look hundreds
of times and each kubectl costs a tenth of a second of processor time. And from the host, every container's
processes can be found and ended behind the kubelet's back.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from scheduler_objects import exactly
from tessera.kube.client import KubeClient
from tessera.kube.errors import NotFound
from tessera.kube.resources import GPU_NODES, PODS, Resource

Object = dict[str, Any]
SYSTEM = "tessera-system"


def wait_for(what: str, probe: Callable[[], Any], *, seconds: float = 60, every: float = 0.5) -> Any:
    """Polls until `probe` returns something true; fails with `what` and the last value after the limit."""
    deadline = time.monotonic() + seconds
    last: Any = None
    while time.monotonic() < deadline:
        last = probe()
        if last:
            return last
        time.sleep(every)
    pytest.fail(f"gave up after {seconds:.0f} s waiting for {what}; last seen: {str(last)[:2000]}")


class Reader:
    """The administrator's client for tests that are not asynchronous. Close it."""

    def __init__(self, kubeconfig: Path) -> None:
        self._runner = asyncio.Runner()
        self._client = self._runner.run(KubeClient.connect(kubeconfig, user_agent="tessera-tests"))

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()

    def get(self, resource: Resource, name: str, namespace: str) -> Object | None:
        try:
            return self._runner.run(self._client.get(resource, name, namespace))
        except NotFound:
            return None

    def items(self, resource: Resource, namespace: str, selector: str) -> list[Object]:
        return self._runner.run(self._client.list(resource, namespace, label_selector=selector)).items


@dataclass
class Kubectl:
    """One namespace: kubectl as a user runs it, and what is there."""

    binary: Path
    kubeconfig: Path
    reader: Reader
    namespace: str = "default"

    def run(
        self, *args: str, stdin: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(self.binary), "--kubeconfig", str(self.kubeconfig), "-n", self.namespace, *args],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if check and done.returncode != 0:
            pytest.fail(f"kubectl {' '.join(args)}: {done.stderr}\n{stdin or ''}")
        return done

    def apply(self, *objects: Object) -> None:
        body = "\n---\n".join(json.dumps(o) for o in objects)
        self.run("apply", "-f", "-", stdin=body)

    def get(self, resource: Resource, name: str) -> Object | None:
        return self.reader.get(resource, name, self.namespace)

    def items(self, resource: Resource, selector: str = "") -> list[Object]:
        return self.reader.items(resource, self.namespace, selector)

    def in_namespace(self, namespace: str) -> Kubectl:
        return replace(self, namespace=namespace)


def condition(obj: Object | None, type_: str) -> Object:
    """The condition of that type, or an empty dict."""
    for one in ((obj or {}).get("status") or {}).get("conditions") or []:
        if one["type"] == type_:
            return dict(one)
    return {}


def training_job(name: str, *, profile: str = "1g.10gb", **spec: Any) -> Object:
    """A NoiSER job that passes the gates soon: at four times the usual rate 200 steps are enough."""
    parameters = spec.pop("parameters", {"steps": 200, "hidden": 16, "learning_rate": 8e-4})
    workload = {"name": spec.pop("workload", "noiser"), "size": "ci", "parameters": parameters}
    return {
        "apiVersion": "tessera.dev/v1alpha1",
        "kind": "HeterogeneousTrainingJob",
        "metadata": {"name": name},
        "spec": {
            "workload": workload,
            "seed": 0,
            "resources": {"slice": {"profile": profile}, "cpu": "200m", "hostMemory": "2Gi"},
            **spec,
        },
    }


def pids_of_pod(uid: str) -> list[int]:
    """Host pids of the processes in the containers of a pod, the pause process left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            cgroups = (entry / "cgroup").read_text()
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if uid in cgroups.replace("_", "-") and b"pause" not in command and b"containerd-shim" not in command:
            found.append(int(entry.name))
    return found


def kill_pod_processes(pod: Object, sig: signal.Signals = signal.SIGKILL) -> list[int]:
    """Sends a signal to every process of a pod's containers, from the host; the kubelet is not told."""
    pids = pids_of_pod(pod["metadata"]["uid"])
    assert pids, f"no host process found for pod {pod['metadata']['name']}"
    for pid in pids:
        os.kill(pid, sig)
    return pids


def claimed_pod(name: str, *, profile: str, image: str, sleeps_seconds: int = 0) -> list[Object]:
    """A pod of no job of ours: any user's, with an ordinary claim; it prints its slice, sleeps and ends."""
    program = (
        "import os, time; print(os.environ['TESSERA_SLICE_PROFILE'], os.environ['CUDA_VISIBLE_DEVICES']); "
        f"time.sleep({sleeps_seconds})"
    )
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["python3.11", "-c", program],
        "resources": {"claims": [{"name": "slice"}]},
    }
    return [
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaimTemplate",
            "metadata": {"name": name},
            "spec": {"spec": {"devices": {"requests": [exactly(profile)]}}},
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "containers": [container],
                "resourceClaims": [{"name": "slice", "resourceClaimTemplateName": name}],
            },
        },
    ]


def in_use(kubectl: Kubectl) -> list[str]:
    """The devices on all nodes that claims hold, as the agents report them."""
    nodes = kubectl.items(GPU_NODES)
    instances = [i for n in nodes for g in n["status"].get("gpus", []) for i in g.get("instances", [])]
    return [i["device"] for i in instances if i["state"] == "InUse"]


def hold_slices(kubectl: Kubectl, profiles: Mapping[str, str], *, image: str) -> None:
    """Pods by name, each on a slice of its profile until it is deleted."""
    for name, profile in profiles.items():
        kubectl.apply(*claimed_pod(name, profile=profile, image=image, sleeps_seconds=3600))

    def runs(name: str) -> bool:
        return ((kubectl.get(PODS, name) or {}).get("status") or {}).get("phase") == "Running"

    for name in profiles:
        wait_for(f"{name} to run", partial(runs, name))


def serves_a_claimed_pod(kubectl: Kubectl, *, profile: str, image: str) -> None:
    """The whole path for a pod of no job of ours: placed, bound, cut, injected, run."""
    name = f"plain-{uuid.uuid4().hex[:6]}"
    kubectl.apply(*claimed_pod(name, profile=profile, image=image))

    def ended() -> bool:
        return ((kubectl.get(PODS, name) or {}).get("status") or {}).get("phase") == "Succeeded"

    wait_for(f"pod {name} on a {profile} slice to succeed", ended, seconds=90)
    said = kubectl.run("logs", name).stdout.split()
    assert said[0] == profile
    assert said[1].startswith("MIG-")
