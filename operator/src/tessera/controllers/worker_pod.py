"""The children of a training job: an Indexed Job and the template of the claim that its pod makes.

The Job has one index, so the claim and the output directory of a replacement are found again. A pod that is
disturbed (evicted, preempted with its checkpoint saved) does not count as a failure; one that says that
trying again is useless (exit codes 2, 3, 42) ends the Job at once; everything else counts against
``backoffLimit``. The pod asks for no more rights than the restricted Pod Security Standard leaves it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tessera.api import names
from tessera.api.heterogeneous_training_job import HeterogeneousTrainingJobSpec
from tessera.api.meta import Quantity

EXIT_COMPLETE = 0
EXIT_INVALID = 2
EXIT_CHECK_FAILED = 3
EXIT_GPU_OUT_OF_MEMORY = 42
EXIT_PREEMPTED = 143

GRACE_SECONDS = 60
WORKER_USER_ID = 65532
"""The user of the worker image (Dockerfile)."""

_QUANTITY = re.compile(r"([+-]?[0-9]*\.?[0-9]+|[+-]?[0-9]+\.)([eE][+-]?[0-9]+|[numkMGTPE]|[KMGTPE]i)?")
_DECIMAL_EXPONENTS = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY_EXPONENTS = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What every worker pod of this cluster shares."""

    image: str
    """The image of jobs that name none."""
    local_environment_path: str | None = None
    """A directory of the node with the worker's libraries, mounted read-only. For local clusters, where an
    image with torch would be 5 GB; a namespace that enforces restricted Pod Security refuses such pods."""


def parse_quantity(quantity: Quantity) -> Decimal:
    """A Kubernetes quantity as a number.

    Raises:
        ValueError: not a quantity.
    """
    text = str(quantity)
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a quantity; write it as Kubernetes does, such as 2, 500m or 4Gi")
    digits, suffix = match.group(1), match.group(2) or ""
    if suffix in _BINARY_EXPONENTS:
        return Decimal(digits) * Decimal(2) ** _BINARY_EXPONENTS[suffix]
    if suffix in _DECIMAL_EXPONENTS:
        return Decimal(digits).scaleb(_DECIMAL_EXPONENTS[suffix])
    return Decimal(digits + suffix)


def argument_of(value: object) -> str:
    """A parameter's value as it stands behind ``--set key=``.

    Raises:
        TypeError: the value is a list, an object or nothing.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return json.dumps(value)
    if isinstance(value, str):
        return value
    raise TypeError(f"a parameter is a string, a number or a boolean, not {_shape(value)}")


def _shape(value: object) -> str:
    if value is None:
        return "nothing (null)"
    return (
        "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else "of another type"
    )


def worker_arguments(name: str, spec: HeterogeneousTrainingJobSpec) -> list[str]:
    """The worker's command line, ready for a container's ``args`` (there ``$`` must be doubled)."""
    arguments = ["train", spec.workload.name]
    for key, value in sorted(spec.workload.parameters.items()):
        arguments += ["--set", f"{key}={argument_of(value)}"]
    arguments += ["--seed", str(spec.seed), "--size", spec.workload.size]
    if spec.checkpoint is not None:
        arguments += ["--checkpoint-every", str(spec.checkpoint.every_steps)]
    arguments += ["--out", f"{names.WORKER_OUTPUT_DIRECTORY}/{name}"]
    return [argument.replace("$", "$$") for argument in arguments]


def owner_reference(owner: Mapping[str, Any]) -> dict[str, Any]:
    """The controller reference by which a child goes when its owner goes."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def labels_of(name: str, spec: HeterogeneousTrainingJobSpec) -> dict[str, str]:
    """Labels of every child and grandchild; the operator's watches select by them."""
    return {
        "app.kubernetes.io/name": "tessera-worker",
        "app.kubernetes.io/instance": name,
        names.MANAGED_BY_LABEL: names.MANAGED_BY_VALUE,
        names.TRAINING_JOB_LABEL: name,
        names.WORKLOAD_LABEL: spec.workload.name,
    }


def claim_template(owner: Mapping[str, Any], spec: HeterogeneousTrainingJobSpec) -> dict[str, Any]:
    """The ResourceClaimTemplate: one device of our class with the job's profile."""
    metadata = owner["metadata"]
    labels = labels_of(metadata["name"], spec)
    selector = (
        f'device.attributes["{names.DRIVER}"].{names.ATTRIBUTE_PROFILE} == "{spec.resources.slice.profile}"'
    )
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "labels": labels,
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": {
            "metadata": {"labels": labels},
            "spec": {
                "devices": {
                    "requests": [
                        {
                            "name": names.CLAIM_REQUEST_NAME,
                            "exactly": {
                                "deviceClassName": names.DEVICE_CLASS,
                                "allocationMode": "ExactCount",
                                "count": 1,
                                "selectors": [{"cel": {"expression": selector}}],
                            },
                        }
                    ]
                }
            },
        },
    }


def training_job(
    owner: Mapping[str, Any], spec: HeterogeneousTrainingJobSpec, settings: WorkerSettings
) -> dict[str, Any]:
    """The Indexed Job."""
    metadata = owner["metadata"]
    labels = labels_of(metadata["name"], spec)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "labels": labels,
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": 1,
            "parallelism": 1,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _failure_rules()},
            **run_limits(spec),
            "template": {"metadata": {"labels": labels}, "spec": _pod_spec(metadata["name"], spec, settings)},
        },
    }


def run_limits(spec: HeterogeneousTrainingJobSpec) -> dict[str, Any]:
    """The fields of a Job's spec that may change while it exists."""
    limits: dict[str, Any] = {"suspend": spec.suspend, "backoffLimit": spec.backoff_limit}
    if spec.active_deadline_seconds is not None:
        limits["activeDeadlineSeconds"] = spec.active_deadline_seconds
    return limits


def _failure_rules() -> list[dict[str, Any]]:
    def on_exit(code: int, action: str) -> dict[str, Any]:
        return {
            "action": action,
            "onExitCodes": {"containerName": names.WORKER_CONTAINER, "operator": "In", "values": [code]},
        }

    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        on_exit(EXIT_PREEMPTED, "Ignore"),
        on_exit(EXIT_INVALID, "FailJob"),
        on_exit(EXIT_CHECK_FAILED, "FailJob"),
        on_exit(EXIT_GPU_OUT_OF_MEMORY, "FailJob"),
    ]


def _pod_spec(name: str, spec: HeterogeneousTrainingJobSpec, settings: WorkerSettings) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = [
        {"name": "tmp", "emptyDir": {}},
        {"name": "output", "emptyDir": {}}
        if spec.output is None
        else {
            "name": "output",
            "persistentVolumeClaim": {"claimName": spec.output.persistent_volume_claim},
        },
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "output", "mountPath": names.WORKER_OUTPUT_DIRECTORY},
    ]
    if settings.local_environment_path is not None:
        volumes.append(
            {
                "name": "local-environment",
                "hostPath": {"path": settings.local_environment_path, "type": "Directory"},
            }
        )
        mounts.append(
            {
                "name": "local-environment",
                "mountPath": names.WORKER_LOCAL_ENVIRONMENT_DIRECTORY,
                "readOnly": True,
            }
        )
    return {
        "restartPolicy": "Never",
        "schedulingGates": [{"name": names.PLACEMENT_GATE}],
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # The kernel drops a SIGTERM to process 1 that has no handler yet: a worker that is asked to stop in
        # its first moments would train to its end. So the pod's sandbox is process 1.
        "shareProcessNamespace": True,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": WORKER_USER_ID,
            "runAsGroup": WORKER_USER_ID,
            "fsGroup": WORKER_USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "resourceClaims": [{"name": names.POD_CLAIM_NAME, "resourceClaimTemplateName": name}],
        "containers": [_container(name, spec, settings, mounts)],
        "volumes": volumes,
    }


def _container(
    name: str,
    spec: HeterogeneousTrainingJobSpec,
    settings: WorkerSettings,
    mounts: list[dict[str, Any]],
) -> dict[str, Any]:
    cpus = parse_quantity(spec.resources.cpu)
    limits = {"memory": str(spec.resources.host_memory)}
    if cpus == cpus.to_integral_value():
        limits["cpu"] = str(spec.resources.cpu)
    return {
        "name": names.WORKER_CONTAINER,
        "image": spec.image or settings.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["tessera-worker"],
        "args": worker_arguments(name, spec),
        "env": [
            {"name": "OMP_NUM_THREADS", "value": str(max(1, math.ceil(cpus)))},
            {"name": "HOME", "value": "/tmp"},
        ],
        "ports": [
            {"name": "metrics", "containerPort": names.WORKER_METRICS_PORT, "protocol": "TCP"},
        ],
        "resources": {
            "requests": {"cpu": str(spec.resources.cpu), "memory": str(spec.resources.host_memory)},
            "limits": limits,
            "claims": [{"name": names.POD_CLAIM_NAME}],
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": names.WORKER_TERMINATION_MESSAGE_PATH,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }
