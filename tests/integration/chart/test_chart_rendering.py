"""What helm makes of the chart's values: lint, refusals, and the options one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from integration.chart.installation import CHART, Helm, documents
from integration.chart.objects import Object

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
SIMULATOR = {"agent": {"simulator": {"enabled": True}}}


@pytest.fixture(scope="module")
def helm(helm_program: Path) -> Helm:
    """helm without a cluster."""
    return Helm(helm_program)


def one(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = [item for item in objects if item["kind"] == kind and item["metadata"]["name"] == name]
    return found


def container(objects: list[Object], kind: str, name: str) -> Object:
    found: Object = one(objects, kind, name)["spec"]["template"]["spec"]["containers"][0]
    return found


def test_strict_lint_finds_nothing(helm: Helm) -> None:
    assert "0 chart(s) failed" in helm.run("lint", "--strict", str(CHART)).stdout


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"agnet": {}}, "'agnet' not allowed"),
        (
            {"agent": {"simulater": {"enabled": True}}},
            "'/agent': additional properties 'simulater' not allowed",
        ),
        ({"agent": {"kubeletDir": "var/lib/kubelet"}}, "/agent/kubeletDir"),
        ({"scheduler": {"policy": "fdg"}}, "/scheduler/policy"),
        ({"scheduler": {"takebackGraceSeconds": 0}}, "/scheduler/takebackGraceSeconds"),
        ({"scheduler": {"queueOrder": "fifo"}}, "/scheduler/queueOrder"),
        ({"image": {"digest": "latest"}}, "/image/digest"),
        ({"operator": {"replicas": "two"}}, "/operator/replicas"),
    ],
)
def test_a_wrong_value_is_refused_by_name(helm: Helm, values: Object, complaint: str) -> None:
    refused = helm.run("template", "tessera", str(CHART), values=values, check=False)
    assert refused.returncode != 0
    assert complaint in refused.stderr


def test_an_older_kubernetes_is_refused(helm: Helm) -> None:
    refused = helm.run("template", "tessera", str(CHART), "--kube-version", "1.35.4", check=False)
    assert refused.returncode != 0
    assert "requires kubeVersion: >=1.36" in refused.stderr


def test_the_processes_get_their_flags(helm: Helm) -> None:
    objects = helm.template(
        {
            "image": {"repository": "registry.example/tessera", "tag": "v9"},
            "worker": {"image": "registry.example/worker:v9", "localEnvironmentPath": "/opt/environment"},
            "scheduler": {
                "policy": "best_fit",
                "takebackGraceSeconds": 7,
                "queueOrder": "smallest-work",
                "ageLimitSeconds": 60,
            },
            "agent": {
                "kubeletDir": "/k",
                "cdiDir": "/c",
                "stateDir": "/s",
                "simulator": {"enabled": True, "count": 3},
            },
        }
    )
    operator = container(objects, "Deployment", "tessera-operator")
    assert operator["image"] == "registry.example/tessera:v9"
    assert operator["args"] == [
        "operator", "--lease-namespace=$(POD_NAMESPACE)", "--identity=$(POD_NAME)", "--port=8080",
        "--worker-image=registry.example/worker:v9", "--worker-local-environment=/opt/environment",
    ]  # fmt: skip
    assert container(objects, "Deployment", "tessera-scheduler")["args"] == [
        "scheduler", "--lease-namespace=$(POD_NAMESPACE)", "--identity=$(POD_NAME)", "--port=8080",
        "--policy=best_fit", "--takeback-grace=7", "--gang-timeout=600",
        "--queue-order=smallest-work", "--age-limit=60",
    ]  # fmt: skip
    agent = container(objects, "DaemonSet", "tessera-agent")
    assert agent["args"] == [
        "agent", "--node-name=$(NODE_NAME)", "--kubelet-dir=/k", "--cdi-dir=/c", "--state-dir=/s",
        "--port=8080", "--simulate=H100-80GB", "--simulate-count=3",
    ]  # fmt: skip


def test_mig_mode_is_left_alone_unless_asked_for(helm: Helm) -> None:
    def flags(values: Object) -> list[str]:
        found: list[str] = container(helm.template(values), "DaemonSet", "tessera-agent")["args"]
        return found

    assert "--enable-mig" not in flags({})
    assert "--enable-mig" in flags({"agent": {"enableMIG": True}})


def test_a_digest_wins_over_a_tag(helm: Helm) -> None:
    digest = "sha256:" + "0" * 64
    objects = helm.template({"image": {"repository": "tessera/operator", "tag": "v9", "digest": digest}})
    assert container(objects, "Deployment", "tessera-operator")["image"] == f"tessera/operator@{digest}"


def test_the_agent_sees_host_directories_at_their_own_paths(helm: Helm) -> None:
    spec = one(helm.template(SIMULATOR), "DaemonSet", "tessera-agent")["spec"]["template"]["spec"]
    on_host = {
        volume["name"]: volume["hostPath"]["path"] for volume in spec["volumes"] if "hostPath" in volume
    }
    inside = {
        mount["name"]: mount["mountPath"]
        for mount in spec["containers"][0]["volumeMounts"]
        if mount["name"] != "tmp"
    }
    assert inside == on_host
    assert sorted(on_host.values()) == [
        "/var/lib/kubelet/plugins/gpu.tessera.dev",
        "/var/lib/kubelet/plugins_registry",
        "/var/lib/tessera",
        "/var/run/cdi",
    ]


def test_no_role_has_a_wildcard(helm: Helm) -> None:
    for item in helm.template({"fleet": {"enabled": True}}):
        if item["kind"] in ("ClusterRole", "Role"):
            for rule in item["rules"]:
                assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]], item["metadata"][
                    "name"
                ]


def test_every_object_carries_the_common_labels(helm: Helm) -> None:
    for item in helm.template(
        {"fleet": {"enabled": True}, "podMonitor": {"enabled": True}, "deviceClass": {"create": True}}
    ):
        labels = item["metadata"].get("labels", {})
        assert labels.get("app.kubernetes.io/part-of") == "tessera", (
            f"{item['kind']} {item['metadata']['name']}"
        )


def kinds(objects: list[Object]) -> set[tuple[str, str]]:
    return {(item["kind"], item["metadata"]["name"]) for item in objects}


@pytest.mark.parametrize(
    ("values", "added"),
    [
        ({"deviceClass": {"create": True}}, {("DeviceClass", "slice.tessera.dev")}),
        ({"networkPolicy": {"enabled": True}}, {("NetworkPolicy", "tessera")}),
        ({"podMonitor": {"enabled": True}}, {("PodMonitor", "tessera")}),
        (
            {"gates": {"clusterWide": True}},
            {
                ("MutatingAdmissionPolicy", "pod-gate-template.tessera.dev"),
                ("MutatingAdmissionPolicyBinding", "pod-gate-template.tessera.dev"),
            },
        ),
    ],
)
def test_an_option_adds_just_its_objects(helm: Helm, values: Object, added: set[tuple[str, str]]) -> None:
    assert kinds(helm.template(values)) - kinds(helm.template()) == added


@pytest.mark.parametrize(
    ("values", "gone"),
    [
        ({"gates": {"namespaceLabel": ""}}, {"pod-gate.tessera.dev"}),
        ({"operator": {"podDisruptionBudget": {"enabled": False}}}, {"tessera-operator"}),
        (
            {"crds": {"install": False}},
            {"gpunodes.tessera.dev", "heterogeneoustrainingjobs.tessera.dev", "migpartitions.tessera.dev"},
        ),
    ],
)
def test_an_option_removes_just_its_objects(helm: Helm, values: Object, gone: set[str]) -> None:
    assert {name for _, name in kinds(helm.template()) - kinds(helm.template(values))} == gone


def test_crds_can_be_made_to_go_with_the_release(helm: Helm) -> None:
    def policies(values: Object) -> set[str | None]:
        crds = [item for item in helm.template(values) if item["kind"] == "CustomResourceDefinition"]
        return {item["metadata"].get("annotations", {}).get("helm.sh/resource-policy") for item in crds}

    assert policies({}) == {"keep"}
    assert policies({"crds": {"keep": False}}) == {None}


def test_policies_follow_the_release_namespace(helm: Helm) -> None:
    done = helm.run(
        "template", "tessera", str(CHART), "--namespace", "elsewhere", values={"fleet": {"enabled": True}}
    )
    policies = [item for item in documents(done.stdout) if item["kind"].endswith("AdmissionPolicy")]
    text = yaml.safe_dump(policies)
    assert "system:serviceaccount:elsewhere:tessera-scheduler" in text
    assert "tessera-system" not in text


def test_no_mutating_policy_uses_a_json_patch(helm: Helm) -> None:
    """A JSONPatch whose value is a list of typed objects panics the API server (1.36.3)."""
    for item in helm.template({"gates": {"clusterWide": True}}):
        if item["kind"] == "MutatingAdmissionPolicy":
            assert {mutation["patchType"] for mutation in item["spec"]["mutations"]} == {"ApplyConfiguration"}
