"""The three processes at work with the chart's accounts: nothing that they ask is refused.

They run here beside the cluster, each with the token of its pod, exactly as the chart starts them.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import yaml
from eventually import eventually
from integration.chart.installation import Accounts, Helm
from integration.chart.objects import NODES, Object, node_status
from tessera.api import names
from tessera.kube.client import KubeClient
from tessera.kube.resources import (
    GPU_NODES,
    HETEROGENEOUS_TRAINING_JOBS,
    JOBS,
    LEASES,
    MIG_PARTITIONS,
    PODS,
    RESOURCE_CLAIMS,
)
from tessera.kube.resources import (
    NODES as NODE_OBJECTS,
)
from tessera.local.ports import free_ports

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "quickstart"
TESSERA = Path(sys.executable).with_name("tessera")
NODE = NODES[0]
REFUSED = re.compile(r'api_requests_total\{code="403",resource="(\w+)",verb="(\w+)"\}')


@dataclass(frozen=True)
class Processes:
    """Operator, scheduler and agent, with the port of each."""

    ports: dict[str, int]
    logs: Path

    async def refusals(self) -> list[str]:
        """Every kind of request that the API server refused with 403, from the processes' own metrics."""
        found = []
        async with aiohttp.ClientSession() as session:
            for process, port in self.ports.items():
                async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
                    text = await answer.text()
                assert "api_requests_total{" in text
                found += [f"{process}: {verb} {resource}" for resource, verb in REFUSED.findall(text)]
        return found


@pytest.fixture
async def live_node(chart_admin: KubeClient) -> AsyncIterator[None]:
    """One node stays Ready, as if its kubelet renewed it."""

    async def renew() -> None:
        while True:
            body = {"status": node_status()}
            await chart_admin.patch(NODE_OBJECTS, NODE, body=body, subresource="status")
            await asyncio.sleep(5)

    renewal = asyncio.create_task(renew())
    yield
    renewal.cancel()
    await asyncio.gather(renewal, return_exceptions=True)


def flags_of(installed: Helm, component: str, *, pod: str) -> list[str]:
    """The arguments that the chart gives to one process, as the kubelet would fill them in for `pod`."""
    variables = {"POD_NAME": pod, "POD_NAMESPACE": names.SYSTEM_NAMESPACE, "NODE_NAME": NODE}
    for item in installed.template({"agent": {"simulator": {"enabled": True}}}):
        if item["kind"] in ("Deployment", "DaemonSet") and item["metadata"]["name"] == f"tessera-{component}":
            flags = item["spec"]["template"]["spec"]["containers"][0]["args"]
            return [re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], flag) for flag in flags]
    pytest.fail(f"the chart has no {component}")


@pytest.fixture
async def processes(
    installed: Helm,
    accounts: Accounts,
    chart_admin: KubeClient,
    live_node: None,
    tmp_path: Path,
    short_directory: Path,
) -> AsyncIterator[Processes]:
    """The processes, started with the chart's flags but for host paths and ports."""
    for lease in (names.OPERATOR_LEASE, names.SCHEDULER_LEASE):
        stale = {"metadata": {"name": lease, "namespace": names.SYSTEM_NAMESPACE}, "spec": {}}
        await chart_admin.apply(LEASES, stale)
    pods = {
        "operator": (await accounts.pods_of("operator"))[0]["metadata"]["name"],
        "scheduler": (await accounts.pods_of("scheduler"))[0]["metadata"]["name"],
        "agent": await accounts.agent_pod(NODE),
    }
    ports = dict(zip(pods, free_ports(len(pods)), strict=True))
    host = {
        "--kubelet-dir": short_directory / "k",
        "--cdi-dir": tmp_path / "c",
        "--state-dir": tmp_path / "s",
    }
    running = []
    for component, pod in pods.items():
        config = tmp_path / f"{component}.kubeconfig"
        config.write_text(await accounts.kubeconfig(f"tessera-{component}", pod_name=pod))
        flags = flags_of(installed, component, pod=pod)
        flags += [f"--port={ports[component]}", f"--kubeconfig={config}"]
        if component == "agent":
            flags += [f"{flag}={path}" for flag, path in host.items()]
        with (tmp_path / f"{component}.log").open("wb") as log:
            running.append(await asyncio.create_subprocess_exec(str(TESSERA), *flags, stdout=log, stderr=log))
    yield Processes(ports, tmp_path)
    for process in running:
        if process.returncode is None:
            process.terminate()
    await asyncio.gather(*(process.wait() for process in running))


def example(file: str, namespace: str) -> Object:
    """One object of the quickstart, in `namespace`, without the volume that no provisioner makes here."""
    obj: Object = yaml.safe_load((EXAMPLES / file).read_text())
    if obj["metadata"].pop("namespace", None):
        obj["metadata"]["namespace"] = namespace
    obj["spec"].pop("output", None)
    return obj


async def test_a_training_job_gets_its_slice_and_its_node_without_one_refused_request(
    processes: Processes, chart_admin: KubeClient, chart_namespace: str
) -> None:
    partition, job = (
        example("00-partition.yaml", chart_namespace),
        example("20-train-2g.yaml", chart_namespace),
    )
    await chart_admin.create(MIG_PARTITIONS, partition)
    try:
        await chart_admin.create(HETEROGENEOUS_TRAINING_JOBS, job)

        async def bound() -> Object | None:
            pods = (await chart_admin.list(PODS, chart_namespace)).items
            return pods[0] if pods and pods[0]["spec"].get("nodeName") else None

        pod = await eventually("kube-scheduler to bind the job's pod", bound, seconds=120)
        assert pod["spec"]["nodeName"] == NODE
        assert "schedulingGates" not in pod["spec"]
        (claim,) = (await chart_admin.list(RESOURCE_CLAIMS, chart_namespace)).items
        (result,) = claim["status"]["allocation"]["devices"]["results"]
        assert (result["driver"], result["pool"]) == (names.DRIVER, NODE)
        assert names.CLAIM_FINALIZER in claim["metadata"]["finalizers"]

        # Suspending is a patch of the Job, deleting leaves the rest to the garbage collector.
        await chart_admin.patch(
            HETEROGENEOUS_TRAINING_JOBS,
            job["metadata"]["name"],
            namespace=chart_namespace,
            body={"spec": {"suspend": True}},
        )

        async def suspended() -> bool:
            found = await chart_admin.get(JOBS, job["metadata"]["name"], chart_namespace)
            return bool(found["spec"].get("suspend"))

        await eventually("the operator to suspend the Job", suspended)
        assert (await chart_admin.get(GPU_NODES, NODE))["status"]["gpus"]
        assert await processes.refusals() == []
    finally:
        await chart_admin.delete(MIG_PARTITIONS, partition["metadata"]["name"])
