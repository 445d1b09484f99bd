"""The Job and the claim template of a training job."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from tessera.api.heterogeneous_training_job import HeterogeneousTrainingJobSpec
from tessera.controllers.worker_pod import (
    WorkerSettings,
    claim_template,
    parse_quantity,
    training_job,
    worker_arguments,
)

OWNER: dict[str, Any] = {
    "apiVersion": "tessera.dev/v1alpha1",
    "kind": "HeterogeneousTrainingJob",
    "metadata": {"name": "train", "namespace": "default", "uid": "u"},
}


def spec(**fields: Any) -> HeterogeneousTrainingJobSpec:
    return HeterogeneousTrainingJobSpec.model_validate(
        {"workload": {"name": "noiser"}, "resources": {"slice": {"profile": "2g.20gb"}}, **fields}
    )


def pod_spec(settings: WorkerSettings | None = None, **fields: Any) -> dict[str, Any]:
    job = training_job(OWNER, spec(**fields), settings or WorkerSettings(image="w:1"))
    found: dict[str, Any] = job["spec"]["template"]["spec"]
    return found


def test_parameters_become_arguments_in_one_order() -> None:
    parameters = {"steps": 50, "rate": 1e-05, "name": "a b", "flag": True, "ratio": 0.5}
    made = worker_arguments(
        "train",
        spec(
            workload={"name": "noiser", "parameters": parameters, "size": "ci"},
            seed=7,
            checkpoint={"everySteps": 20},
        ),
    )
    assert made == [
        "train",
        "noiser",
        *("--set", "flag=true", "--set", "name=a b", "--set", "rate=1e-05"),
        *("--set", "ratio=0.5", "--set", "steps=50"),
        *("--seed", "7", "--size", "ci", "--checkpoint-every", "20", "--out", "/output/train"),
    ]


def test_a_dollar_in_a_parameter_is_not_expanded_by_the_kubelet() -> None:
    made = worker_arguments("train", spec(workload={"name": "noiser", "parameters": {"x": "$(HOME)"}}))
    assert "x=$$(HOME)" in made


@pytest.mark.parametrize("profile", ["2g.20gb", "gpu"])
def test_the_claim_asks_for_one_device_of_the_profile(profile: str) -> None:
    asked = spec(resources={"slice": {"profile": profile}})
    (request,) = claim_template(OWNER, asked)["spec"]["spec"]["devices"]["requests"]
    assert request["exactly"]["deviceClassName"] == "slice.tessera.dev"
    assert request["exactly"]["selectors"] == [
        {"cel": {"expression": f'device.attributes["gpu.tessera.dev"].profile == "{profile}"'}}
    ]


def test_disturbances_do_not_count_and_useless_retries_end_the_job() -> None:
    job = training_job(OWNER, spec(), WorkerSettings(image="w:1"))["spec"]
    assert (job["completionMode"], job["completions"], job["podReplacementPolicy"]) == (
        "Indexed",
        1,
        "Failed",
    )
    rules = job["podFailurePolicy"]["rules"]
    assert rules[0] == {
        "action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }
    by_code = {rule["onExitCodes"]["values"][0]: rule["action"] for rule in rules[1:]}
    assert by_code == {143: "Ignore", 2: "FailJob", 3: "FailJob", 42: "FailJob"}


def test_the_pod_has_no_more_rights_than_the_restricted_standard() -> None:
    pod = pod_spec()
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert all("hostPath" not in volume for volume in pod["volumes"])


def test_a_worker_is_not_process_1_which_drops_a_sigterm_before_it_has_a_handler() -> None:
    assert pod_spec()["shareProcessNamespace"] is True


@pytest.mark.parametrize(
    ("cpu", "threads", "limits"),
    [
        (2, "2", {"cpu": "2", "memory": "4Gi"}),
        ("500m", "1", {"memory": "4Gi"}),
        ("2500m", "3", {"memory": "4Gi"}),
        ("2000m", "2", {"cpu": "2000m", "memory": "4Gi"}),
    ],
)
def test_threads_follow_the_cpu_request(cpu: object, threads: str, limits: dict[str, str]) -> None:
    (container,) = pod_spec(resources={"slice": {"profile": "2g.20gb"}, "cpu": cpu})["containers"]
    assert {"name": "OMP_NUM_THREADS", "value": threads} in container["env"]
    assert container["resources"]["limits"] == limits
    assert container["resources"]["claims"] == [{"name": "slice"}]


def test_output_goes_to_the_named_claim_or_into_the_pod() -> None:
    by_name = {v["name"]: v for v in pod_spec(output={"persistentVolumeClaim": "out"})["volumes"]}
    assert by_name["output"]["persistentVolumeClaim"] == {"claimName": "out"}
    assert {v["name"]: v for v in pod_spec()["volumes"]}["output"] == {"name": "output", "emptyDir": {}}


def test_a_local_cluster_mounts_the_libraries_read_only() -> None:
    pod = pod_spec(WorkerSettings(image="w:1", local_environment_path="/srv/env"))
    volume = next(v for v in pod["volumes"] if v["name"] == "local-environment")
    mount = next(m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "local-environment")
    assert volume["hostPath"] == {"path": "/srv/env", "type": "Directory"}
    assert (mount["mountPath"], mount["readOnly"]) == ("/opt/tessera-worker", True)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (2, 2),
        ("2", 2),
        ("500m", Decimal("0.5")),
        ("4Gi", 4 * 2**30),
        ("1e3", 1000),
        ("1.5G", 1_500_000_000),
        ("2E", 2 * 10**18),
        ("1Ei", 2**60),
    ],
)
def test_quantities_are_read_as_kubernetes_writes_them(text: str | int, value: Decimal | int) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize("text", ["", "two", "4 Gi", "4GiB", "m", "1.2.3"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        parse_quantity(text)
