"""The agent has the privileges that docs/security.md tells one by one, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from integration.chart.installation import CHART, Helm
from integration.chart.objects import Object

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
PAGE = (CHART.parents[1] / "docs" / "security.md").read_text()
SIMULATOR: Object = {"simulator": {"enabled": True}}
DEVICE_NODES: Object = {"cdiMode": "device-nodes"}
UNPRIVILEGED: Object = {"privileged": False}
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())["agent"]


@pytest.fixture(scope="module")
def helm(helm_program: Path) -> Helm:
    """helm without a cluster."""
    return Helm(helm_program)


def table(heading: str) -> list[list[str]]:
    """The cells of the page's table whose first heading is that."""
    (body,) = re.findall(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in body.splitlines()]


def pod(helm: Helm, agent: Object) -> Object:
    (found,) = [item for item in helm.template({"agent": agent}) if item["kind"] == "DaemonSet"]
    spec: Object = found["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize(
    ("agent", "when"),
    [
        ({}, {"always"}),
        (DEVICE_NODES, {"always", "device-nodes"}),
        ({**SIMULATOR, **DEVICE_NODES}, {"always"}),
    ],
)
def test_it_sees_the_host_directories_of_the_page(helm: Helm, agent: Object, when: set[str]) -> None:
    spec = pod(helm, agent)
    writable = {mount["name"]: not mount.get("readOnly") for mount in spec["containers"][0]["volumeMounts"]}
    seen = {
        (volume["hostPath"]["path"], "write" if writable[volume["name"]] else "read")
        for volume in spec["volumes"]
        if "hostPath" in volume
    }
    told = {
        (re.sub(r"<(\w+)>", lambda name: str(DEFAULTS[name[1]]), path.strip("`")), access)
        for path, needed, access, *_ in table("directory of the host")
        if needed in when
    }
    assert seen == told


def test_its_role_has_the_rights_of_the_page(helm: Helm) -> None:
    (role,) = [
        item
        for item in helm.template({})
        if item["kind"] == "ClusterRole" and item["metadata"]["name"] == "tessera-agent"
    ]
    rights = {
        (resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]
    }
    told = {
        (resource.strip("`"), verb)
        for resource, verbs, *_ in table("right in the cluster")
        for verb in verbs.split(", ")
    }
    assert rights == told


@pytest.mark.parametrize(
    ("agent", "privileged", "capabilities", "host_pids"),
    [
        ({}, True, None, True),
        (DEVICE_NODES, True, None, True),
        (UNPRIVILEGED, False, {"drop": ["ALL"], "add": ["SYS_ADMIN"]}, True),
        (SIMULATOR, False, {"drop": ["ALL"]}, False),
        ({**SIMULATOR, "privileged": True}, False, {"drop": ["ALL"]}, False),
    ],
)
def test_only_an_agent_of_real_gpus_has_power_over_the_host(
    helm: Helm, agent: Object, privileged: bool, capabilities: Object | None, host_pids: bool
) -> None:
    spec = pod(helm, agent)
    (container,) = spec["containers"]
    context = container["securityContext"]
    assert (context["privileged"], context.get("capabilities")) == (privileged, capabilities)
    assert context["readOnlyRootFilesystem"] is True
    assert spec.get("hostPID", False) is host_pids
    assert not spec.get("hostNetwork") and not spec.get("hostIPC")
    given = {variable["name"] for variable in container["env"] if variable["name"].startswith("NVIDIA_")}
    assert bool(given) is host_pids


@pytest.mark.parametrize("agent", [{}, {**SIMULATOR, **DEVICE_NODES}])
def test_device_nodes_are_for_real_gpus_that_ask_for_them(helm: Helm, agent: Object) -> None:
    assert not any("cdi-mode" in flag for flag in pod(helm, agent)["containers"][0]["args"])


def test_with_device_nodes_it_is_told_where_the_host_is(helm: Helm) -> None:
    (container,) = pod(helm, DEVICE_NODES)["containers"]
    assert {"--cdi-mode=device-nodes", "--host-root=/host"} <= set(container["args"])
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/host/proc/devices", "/host/proc/driver/nvidia"} <= mounted
