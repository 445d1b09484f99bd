"""helm, the policies and the service accounts of the chart, as the tests use them."""

from __future__ import annotations

import json
import ssl
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from eventually import eventually
from integration.chart.objects import (
    Object,
    allocation_of,
    claim,
    claim_template,
    gated_namespace,
    gpu_node,
    lease,
    marked_job,
    pod,
)
from tessera.api import names
from tessera.kube.client import KubeClient
from tessera.kube.credentials import Credentials
from tessera.kube.errors import ApiError
from tessera.kube.resources import PODS
from tessera.local.control_plane import ControlPlane
from tessera.local.errors import LocalClusterError

CHART = Path(__file__).resolve().parents[3] / "charts" / "tessera"
FLEET_SERVICE_ACCOUNT = "tessera-fleet"
ACTIVATION_SECONDS = 60.0
"""How long a policy may take to be in force after it was created; usually it is a second or two."""

T = TypeVar("T")


def wait_until(what: str, probe: Callable[[], T | None], *, seconds: float = ACTIVATION_SECONDS) -> T:
    """The first true value of `probe`; fails with `what` after the limit."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = probe()
        if value:
            return value
        time.sleep(0.2)
    pytest.fail(f"gave up after {seconds:.0f} s waiting for {what}")


@dataclass(frozen=True)
class Helm:
    """helm as an administrator runs it, against one cluster."""

    program: Path
    kubeconfig: Path | None = None

    def run(
        self, *arguments: str, values: Object | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Runs helm; `values` go in as a values file on standard input."""
        command = [str(self.program), *arguments]
        if self.kubeconfig is not None:
            command += ["--kubeconfig", str(self.kubeconfig)]
        if values is not None:
            command += ["--values", "-"]
        done = subprocess.run(
            command,
            input=yaml.safe_dump(values or {}),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        if check and done.returncode != 0:
            pytest.fail(f"helm {' '.join(arguments)}: {done.stderr}")
        return done

    def template(self, values: Object | None = None) -> list[Object]:
        """All objects that the chart renders to, in the system namespace."""
        done = self.run(
            "template", "tessera", str(CHART), "--namespace", names.SYSTEM_NAMESPACE, values=values or {}
        )
        return documents(done.stdout)


def documents(text: str) -> list[Object]:
    """What helm renders; the loader written in Python would take a third of a second for the CRDs."""
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]


def _says(probe: Callable[[], str], expected: str) -> bool:
    return expected in probe()


def install(helm: Helm, *, values: Object) -> None:
    """`helm upgrade --install` into the system namespace, without waiting: nothing becomes ready here."""
    helm.run(
        "upgrade", "--install", "tessera", str(CHART), "--namespace", names.SYSTEM_NAMESPACE,
        "--create-namespace", values=values,
    )  # fmt: skip


def wait_for_policies(cluster: ControlPlane) -> None:
    """Until every policy of the chart acts: each is asked by a write that is not kept.

    The API server starts a policy some time after it is created, each on its own; a write before that passes.
    """
    space = names.SYSTEM_NAMESPACE
    agent, scheduler, fleet = (
        f"system:serviceaccount:{space}:{account}"
        for account in (names.AGENT_SERVICE_ACCOUNT, names.SCHEDULER_SERVICE_ACCOUNT, FLEET_SERVICE_ACCOUNT)
    )
    cluster.kubectl("apply", "-f", "-", input_text=json.dumps(gated_namespace("probe")))
    cluster.kubectl("wait", "--for=create", "--timeout=20s", "-n", "probe", "serviceaccount/default")
    cluster.kubectl("apply", "-n", space, "-f", "-", input_text=json.dumps(lease("nobody")))
    for obj in (claim("probe"), claim_template("probe"), pod("probe", claim="probe")):
        cluster.kubectl("apply", "-n", "probe", "-f", "-", input_text=json.dumps(obj))

    def answer(*arguments: str, obj: Object | None = None) -> str:
        try:
            text = json.dumps(obj) if obj else None
            return cluster.kubectl(*arguments, "--dry-run=server", "-o", "json", input_text=text)
        except LocalClusterError as refused:
            return str(refused)

    def created(obj: Object, *flags: str, namespace: str = "probe") -> str:
        return answer("create", "-n", namespace, "-f", "-", *flags, obj=obj)

    a_record = {names.ROOM_ANNOTATION: "{}"}
    allocation = {"status": {"allocation": allocation_of("probe-node")}}
    probes: dict[str, tuple[Callable[[], str], str]] = {
        "claim-finalizer": (lambda: created(claim("probe-2")), names.CLAIM_FINALIZER),
        "pod-gate": (lambda: created(pod("probe-2", claim="probe")), names.PLACEMENT_GATE),
        "claim-no-bypass": (
            lambda: created(claim("probe-2", tolerate_all=True)),
            "claim-no-bypass.tessera.dev",
        ),
        "agent-own-node": (lambda: created(gpu_node("x"), f"--as={agent}"), "agent-own-node.tessera.dev"),
        "fleet-simulated-nodes": (
            lambda: created(gpu_node("x"), f"--as={fleet}"),
            "fleet-simulated-nodes.tessera.dev",
        ),
        "scheduler-pod-patch": (
            lambda: answer("label", "pod", "probe", "x=y", "-n", "probe", f"--as={scheduler}"),
            "scheduler-pod-patch.tessera.dev",
        ),
        "move-records": (
            lambda: created(claim("probe-2") | {"metadata": {"name": "probe-2", "annotations": a_record}}),
            "move-records.tessera.dev",
        ),
        "movable-job": (lambda: created(marked_job("probe")), "movable-job.tessera.dev"),
        "scheduler-placeholder": (
            lambda: created(claim("probe-2"), f"--as={scheduler}", namespace=space),
            "scheduler-placeholder.tessera.dev",
        ),
        "single-allocator": (
            lambda: answer(
                "patch", "resourceclaim", "probe", "-n", "probe", "--subresource=status", "--type=merge",
                "-p", json.dumps(allocation),
            ),
            "single-allocator.tessera.dev",
        ),
        "leading-allocator": (
            lambda: answer(
                "apply", "--server-side", "--subresource=status", "--force-conflicts", "-n", "probe",
                "-f", "-", f"--as={scheduler}", obj=claim("probe") | allocation,
            ),
            "leading-allocator.tessera.dev",
        ),
    }  # fmt: skip
    for policy, (probe, expected) in probes.items():
        wait_until(f"policy {policy} to act", partial(_says, probe, expected))


@dataclass(frozen=True)
class Accounts:
    """Clients with tokens of the chart's service accounts, bound to a pod or not."""

    admin: KubeClient
    server: str
    authority: Path
    clients: AsyncExitStack

    async def token(self, account: str, *, pod_name: str | None = None) -> str:
        """A fresh token of a service account, as the kubelet would mount it into the pod `pod_name`."""
        request: Object = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 3600},
        }
        if pod_name:
            request["spec"]["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": pod_name}
        path = f"/api/v1/namespaces/{names.SYSTEM_NAMESPACE}/serviceaccounts/{account}/token"
        token: str = (await self.admin.raw("POST", path, body=request))["status"]["token"]
        return token

    async def client(self, account: str, *, pod_name: str | None = None) -> KubeClient:
        """A client of a service account, with a token that is bound to the pod `pod_name`, or to none."""
        token = await self.token(account, pod_name=pod_name)
        credentials = Credentials(
            server=self.server,
            tls=ssl.create_default_context(cafile=str(self.authority)),
            read_authorization=lambda: f"Bearer {token}",
        )
        return await self.clients.enter_async_context(KubeClient(credentials, field_manager=account))

    async def kubeconfig(self, account: str, *, pod_name: str) -> str:
        """The kubeconfig of a process that is to run as `account` in `pod_name`."""
        token = await self.token(account, pod_name=pod_name)
        cluster = {"server": self.server, "certificate-authority": str(self.authority)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        return yaml.safe_dump(config)

    async def pods_of(self, component: str, *, bound: bool = False) -> list[Object]:
        """The chart's pods of one process, when all of them are there (and on a node, with `bound`)."""

        async def both() -> list[Object] | None:
            selector = f"app.kubernetes.io/component={component}"
            found = (await self.admin.list(PODS, names.SYSTEM_NAMESPACE, label_selector=selector)).items
            # A pod on a node without a kubelet is never seen off: those of an earlier installation stay.
            alive = [item for item in found if "deletionTimestamp" not in item["metadata"]]
            ready = [item for item in alive if not bound or item["spec"].get("nodeName")]
            return ready if len(ready) == 2 else None

        return await eventually(f"two pods of {component}", both)

    async def agent_pod(self, node: str) -> str:
        """The name of the agent's pod on `node`."""
        for item in await self.pods_of("agent", bound=True):
            if item["spec"]["nodeName"] == node:
                name: str = item["metadata"]["name"]
                return name
        pytest.fail(f"no agent's pod is on node {node}")

    async def agent(self, node: str) -> KubeClient:
        """A client with the token of the agent's pod on `node`."""
        return await self.client(names.AGENT_SERVICE_ACCOUNT, pod_name=await self.agent_pod(node))


async def refused(write: Awaitable[Any], *, message: str) -> None:
    """The API server refuses the write, and says `message`."""
    with pytest.raises(ApiError) as failure:
        await write
    assert message in str(failure.value)
