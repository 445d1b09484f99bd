"""Training jobs and what belongs to them, as the API server would show them, and a look at one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tessera.controllers.plan import Plan
from tessera.controllers.training_job import reconcile
from tessera.controllers.training_view import TrainingView
from tessera.controllers.worker_pod import WorkerSettings
from unit.controllers.plan_words import NOW

SETTINGS = WorkerSettings(image="tessera/worker:1")
CONDITIONS = ["Ready", "Admitted", "Placed", "Running", "Suspended", "Complete", "Failed"]

Object = dict[str, Any]


def training_job(status: Mapping[str, Any] | None = None, **spec: Any) -> Object:
    return {
        "apiVersion": "tessera.dev/v1alpha1",
        "kind": "HeterogeneousTrainingJob",
        "metadata": {"name": "train", "namespace": "default", "uid": "htj-uid", "generation": 2},
        "spec": {"workload": {"name": "noiser"}, "resources": {"slice": {"profile": "2g.20gb"}}, **spec},
        **({"status": status} if status else {}),
    }


def job(*, ended: str | None = None, reason: str = "", started: str | None = None, **spec: Any) -> Object:
    conditions = []
    if ended:
        conditions.append(
            {"type": ended, "status": "True", "reason": reason, "lastTransitionTime": "2026-01-02T03:00:00Z"}
        )
    return {
        "metadata": {"name": "train", "namespace": "default", "uid": "job-uid"},
        "spec": {"suspend": False, "backoffLimit": 3, **spec},
        "status": {"conditions": conditions, **({"startTime": started} if started else {})},
    }


TEMPLATE: Object = {"metadata": {"name": "train", "namespace": "default"}}


def pod(
    *,
    uid: str = "pod-1",
    phase: str = "Pending",
    state: Mapping[str, Any] | None = None,
    node: str | None = None,
    scheduled: tuple[str, str, str] | None = None,
    created: str = "2026-01-02T03:00:00Z",
    deleting: bool = False,
) -> Object:
    status: Object = {"phase": phase}
    if state is not None:
        status["containerStatuses"] = [{"name": "worker", "state": dict(state)}]
    if scheduled is not None:
        value, reason, message = scheduled
        status["conditions"] = [
            {"type": "PodScheduled", "status": value, "reason": reason, "message": message}
        ]
    metadata: Object = {"name": uid, "namespace": "default", "uid": uid, "creationTimestamp": created}
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-02T03:01:00Z"
    return {"metadata": metadata, "spec": {"nodeName": node} if node else {}, "status": status}


def ended_pod(exit_code: int, message: object = "", *, reason: str = "Error", uid: str = "pod-1") -> Object:
    text = message if isinstance(message, str) else json.dumps(message)
    return pod(
        uid=uid,
        phase="Succeeded" if exit_code == 0 else "Failed",
        node="n1",
        state={
            "terminated": {
                "exitCode": exit_code,
                "reason": reason,
                "message": text,
                "finishedAt": "2026-01-02T03:00:00Z",
            }
        },
    )


def claim(*, device: str | None = None, said: str | None = None, owner: str = "pod-1") -> Object:
    metadata: Object = {
        "name": "train-0-slice-x",
        "namespace": "default",
        "uid": "claim-uid",
        "ownerReferences": [{"uid": owner}],
        "annotations": {"tessera.dev/placement-message": said} if said is not None else {},
    }
    status: Object = {}
    if device is not None:
        results = [{"request": "slice", "driver": "gpu.tessera.dev", "pool": "n1", "device": device}]
        status = {"allocation": {"devices": {"results": results}}}
    return {"metadata": metadata, "status": status}


DEVICE = "gpu-1f3c9a2e-2g-20gb-4"
DEVICES: dict[tuple[str, str], Mapping[str, Any]] = {
    ("n1", DEVICE): {
        "name": DEVICE,
        "attributes": {
            "gpuUUID": {"string": "GPU-1f3c9a2e"},
            "profile": {"string": "2g.20gb"},
            "start": {"int": 4},
        },
    }
}


def look(obj: Object, **view: Any) -> Plan:
    known = {"job": job(), "template": TEMPLATE, "devices": DEVICES, **view}
    return reconcile(obj, TrainingView(**known), settings=SETTINGS, now=NOW)
