"""The chart on a real API server: it installs, upgrades its CRDs, and keeps what users made.

And its pods are as safe as docs/security.md says.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from eventually import eventually
from integration.chart.conftest import EVERYTHING_ON
from integration.chart.installation import CHART, Accounts, Helm, install, wait_for_policies
from integration.chart.objects import NODES, Object, allocation_of, claim, lease
from tessera.api import names
from tessera.kube.client import KubeClient
from tessera.kube.errors import Forbidden, NotFound
from tessera.kube.resources import (
    CUSTOM_RESOURCE_DEFINITIONS,
    DAEMON_SETS,
    DEPLOYMENTS,
    LEASES,
    MIG_PARTITIONS,
    NAMESPACES,
    PODS,
    RESOURCE_CLAIMS,
    SERVICE_ACCOUNTS,
    VALIDATING_ADMISSION_POLICIES,
)
from tessera.local.control_plane import ControlPlane

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
SYSTEM = names.SYSTEM_NAMESPACE
CRD = "migpartitions.tessera.dev"


def upgrade(helm: Helm, chart: Path) -> None:
    helm.run("upgrade", "tessera", str(chart), "--namespace", SYSTEM, values=EVERYTHING_ON)


async def test_both_replicas_of_each_process_and_an_agent_per_node_are_wanted(
    chart_admin: KubeClient,
) -> None:
    for name in ("tessera-operator", "tessera-scheduler"):
        assert (await chart_admin.get(DEPLOYMENTS, name, SYSTEM))["spec"]["replicas"] == 2

    async def scheduled() -> bool:
        agents = await chart_admin.get(DAEMON_SETS, "tessera-agent", SYSTEM)
        return bool(agents.get("status", {}).get("desiredNumberScheduled") == 2)

    await eventually("an agent per labelled node", scheduled)


async def test_every_object_has_only_fields_that_the_api_server_knows(
    installed: Helm, chart_cluster: ControlPlane
) -> None:
    objects = [item for item in installed.template(EVERYTHING_ON) if item["kind"] != "PodMonitor"]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    chart_cluster.kubectl(
        "apply",
        "--server-side",
        "--force-conflicts",
        "--dry-run=server",
        "--validate=strict",
        "-f",
        "-",
        input_text=text,
    )


async def test_no_policy_has_an_expression_that_the_api_server_doubts(chart_admin: KubeClient) -> None:
    """The API server type-checks expressions of validating policies and says in status what it found."""

    async def checked() -> list[Object] | None:
        policies = (await chart_admin.list(VALIDATING_ADMISSION_POLICIES)).items
        ours = [policy for policy in policies if policy["metadata"]["name"].endswith(".tessera.dev")]
        return ours if ours and all("typeChecking" in policy.get("status", {}) for policy in ours) else None

    policies = await eventually("the type check", checked)
    warnings = {
        policy["metadata"]["name"]: policy["status"]["typeChecking"].get("expressionWarnings")
        for policy in policies
    }
    assert {name: found for name, found in warnings.items() if found} == {}


async def test_an_upgrade_brings_a_changed_crd_and_leaves_the_objects_alone(
    cluster_helm: Helm, chart_admin: KubeClient, tmp_path: Path
) -> None:
    example = {"apiVersion": names.API_VERSION, "kind": "MIGPartition", "metadata": {"name": "kept"}}
    spec = {"nodeSelector": {"matchLabels": {"zone": "a"}}, "mode": "dynamic"}
    before = await chart_admin.create(MIG_PARTITIONS, example | {"spec": spec})
    newer = tmp_path / "tessera"
    shutil.copytree(CHART, newer)
    crd_file = newer / "templates" / "crds" / f"{CRD}.yaml"
    text = crd_file.read_text()
    marker = "          spec:\n            type: object\n"
    assert marker in text
    crd_file.write_text(
        text.replace(marker, marker + "            x-kubernetes-preserve-unknown-fields: true\n", 1)
    )
    try:
        upgrade(cluster_helm, newer)
        schema = await _spec_schema(chart_admin)
        assert schema["x-kubernetes-preserve-unknown-fields"] is True
        after = await chart_admin.get(MIG_PARTITIONS, "kept")
        assert (after["metadata"]["uid"], after["spec"]) == (before["metadata"]["uid"], before["spec"])
    finally:
        upgrade(cluster_helm, CHART)
        await chart_admin.delete(MIG_PARTITIONS, "kept")
    assert "x-kubernetes-preserve-unknown-fields" not in await _spec_schema(chart_admin)


async def _spec_schema(admin: KubeClient) -> dict[str, Any]:
    crd = await admin.get(CUSTOM_RESOURCE_DEFINITIONS, CRD)
    schema: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return schema


async def test_uninstalling_keeps_the_crds_and_the_objects_and_a_new_install_takes_them_over(
    cluster_helm: Helm,
    chart_cluster: ControlPlane,
    chart_admin: KubeClient,
    accounts: Accounts,
    chart_namespace: str,
) -> None:
    example = {"apiVersion": names.API_VERSION, "kind": "MIGPartition", "metadata": {"name": "survivor"}}
    await chart_admin.create(MIG_PARTITIONS, example | {"spec": {"nodeSelector": {}}})
    await chart_admin.apply(LEASES, lease("holder-before"))
    cluster_helm.run("uninstall", "tessera", "--namespace", SYSTEM)
    try:
        with pytest.raises(NotFound):
            await chart_admin.get(DEPLOYMENTS, "tessera-operator", SYSTEM)
        with pytest.raises(NotFound):
            await chart_admin.get(VALIDATING_ADMISSION_POLICIES, "single-allocator.tessera.dev")
        assert (await chart_admin.get(MIG_PARTITIONS, "survivor"))["metadata"]["name"] == "survivor"
    finally:
        install(cluster_helm, values=EVERYTHING_ON)
        await asyncio.to_thread(wait_for_policies, chart_cluster)
    await chart_admin.delete(MIG_PARTITIONS, "survivor")
    await _the_lease_is_followed(chart_admin, accounts, chart_namespace)


async def _the_lease_is_followed(admin: KubeClient, accounts: Accounts, namespace: str) -> None:
    """The API server sees a hand-over: it would not, had the policy with the Lease been gone meanwhile."""
    leader = (await accounts.pods_of("scheduler"))[0]["metadata"]["name"]
    scheduler = await accounts.client(names.SCHEDULER_SERVICE_ACCOUNT, pod_name=leader)
    await admin.create(RESOURCE_CLAIMS, claim("one"), namespace=namespace)
    await admin.apply(LEASES, lease(leader))
    body = {"status": {"allocation": allocation_of(NODES[0])}}

    async def allocated() -> bool:
        try:
            await scheduler.patch(
                RESOURCE_CLAIMS, "one", namespace=namespace, body=body, subresource="status"
            )
        except Forbidden as not_yet:
            assert "does not hold the lease" in str(not_yet)
            return False
        return True

    await eventually("the new holder to be let through", allocated)


@pytest.fixture
async def restricted_namespace(chart_admin: KubeClient, chart_namespace: str) -> str:
    """A namespace that takes only pods of the restricted Pod Security Standard, with our accounts in it."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    await chart_admin.patch(NAMESPACES, chart_namespace, body={"metadata": {"labels": labels}})
    for account in (
        names.OPERATOR_SERVICE_ACCOUNT,
        names.SCHEDULER_SERVICE_ACCOUNT,
        names.AGENT_SERVICE_ACCOUNT,
    ):
        await chart_admin.create(SERVICE_ACCOUNTS, {"metadata": {"name": account}}, namespace=chart_namespace)
    return chart_namespace


def pod_of(workload: Object, namespace: str) -> Object:
    template = workload["spec"]["template"]
    return {"metadata": {"name": "probe", "namespace": namespace}, "spec": template["spec"]}


@pytest.mark.parametrize("name", ["tessera-operator", "tessera-scheduler"])
async def test_operator_and_scheduler_are_let_into_a_restricted_namespace(
    installed: Helm, chart_admin: KubeClient, restricted_namespace: str, name: str
) -> None:
    rendered = {(item["kind"], item["metadata"]["name"]): item for item in installed.template()}
    probe = pod_of(rendered["Deployment", name], restricted_namespace)
    await chart_admin.create(PODS, probe, dry_run=True, strict=True)
    # The namespace does refuse what is not restricted.
    del probe["spec"]["containers"][0]["securityContext"]["capabilities"]
    with pytest.raises(Forbidden, match="violates PodSecurity"):
        await chart_admin.create(PODS, probe, dry_run=True)


async def test_what_the_agent_asks_beyond_the_restricted_standard_is_host_directories_and_root(
    installed: Helm, chart_admin: KubeClient, restricted_namespace: str
) -> None:
    """With the simulator: a new privilege in the DaemonSet must show here, and in docs/security.md."""
    rendered = {
        item["kind"]: item for item in installed.template({"agent": {"simulator": {"enabled": True}}})
    }
    with pytest.raises(Forbidden) as refusal:
        await chart_admin.create(PODS, pod_of(rendered["DaemonSet"], restricted_namespace), dry_run=True)
    violations = str(refusal.value).split('"restricted:latest": ')[1]
    for reason in ("restricted volume types", "runAsNonRoot != true", "runAsUser=0"):
        assert reason in violations
    for privilege in (
        "privileged",
        "hostPID",
        "host namespaces",
        "capabilities",
        "allowPrivilegeEscalation",
        "seccomp",
    ):
        assert privilege not in violations


async def test_notes_name_the_next_commands(cluster_helm: Helm, installed: Helm) -> None:
    notes = cluster_helm.run("get", "notes", "tessera", "--namespace", SYSTEM).stdout
    for command in ("kubectl label node", "kubectl get gpunodes", "kubectl apply -f examples/quickstart/"):
        assert command in notes
