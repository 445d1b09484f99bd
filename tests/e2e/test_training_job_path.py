"""From `kubectl apply` to a trained model: one job on one slice, and the errors a user makes."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from as_a_user import SYSTEM, Kubectl, claimed_pod, condition, training_job, wait_for
from tessera.local.stack import Stack


def finished(kubectl: Kubectl, name: str, seconds: float = 120) -> dict[str, Any]:
    def probe() -> dict[str, Any] | None:
        job = kubectl.get("htj", name)
        done = any(condition(job, t).get("status") == "True" for t in ("Complete", "Failed"))
        return job if done else None

    return dict(wait_for(f"job {name} to end", probe, seconds=seconds))


def test_a_job_trains_on_its_slice_which_is_warm_for_the_next_one_afterwards(
    kubectl: Kubectl, stack: Stack
) -> None:
    kubectl.apply(training_job("train", profile="2g.20gb"))
    job = finished(kubectl, "train")
    assert condition(job, "Complete")["status"] == "True", job["status"]
    placement = job["status"]["placement"]
    assert placement["profile"] == "2g.20gb"
    assert placement["start"] in (0, 2, 4)
    if stack.real_node:
        assert job["status"]["progress"]["step"] == job["status"]["progress"]["steps"]
        assert job["status"]["result"]["metrics"]
    reasons = {e["reason"] for e in kubectl.items("events.events.k8s.io")}
    assert "Placed" in reasons
    device = placement["device"]

    def freed() -> bool:
        claims = kubectl.items("resourceclaims")
        return all("allocation" not in (c.get("status") or {}) for c in claims)

    wait_for("the claim to be freed", freed)

    def warm() -> bool:
        nodes = kubectl.items("gpunodes")
        instances = [i for n in nodes for g in n["status"]["gpus"] for i in g.get("instances", [])]
        return [i["state"] for i in instances if i["device"] == device] == ["Warm"]

    wait_for(f"{device} to be warm", warm)


def test_a_job_that_fits_nowhere_says_what_would_make_it_fit(kubectl: Kubectl) -> None:
    kubectl.apply(training_job("other-gpu", profile="7g.141gb"))

    def told() -> dict[str, Any] | None:
        placed = condition(kubectl.get("htj", "other-gpu"), "Placed")
        return placed if placed.get("reason") == "UnknownProfile" else None

    placed = wait_for("the condition", told)
    assert "7g.141gb" in placed["message"]
    assert "7g.80gb" in placed["message"], "the message must name what is offered"
    wait_for(
        "the event",
        lambda: [
            e
            for e in kubectl.items("events.events.k8s.io")
            if e["type"] == "Warning" and "7g.141gb" in e.get("note", "")
        ],
    )


def test_a_full_gpu_is_named_with_its_free_room_and_the_job_runs_when_there_is_room(
    kubectl: Kubectl, real_node: Stack
) -> None:
    held = {"left": "4g.40gb", "right": "3g.40gb", "other": "1g.10gb"}
    for name, profile in held.items():
        kubectl.apply(*claimed_pod(name, profile=profile, image=real_node.worker_image, sleeps_seconds=3600))
    for name in held:
        wait_for(
            f"{name} to run",
            lambda name=name: (kubectl.get("pod", name) or {}).get("status", {}).get("phase") == "Running",
        )
    kubectl.apply(training_job("whole", profile="7g.80gb"))

    def told() -> str | None:
        placed = condition(kubectl.get("htj", "whole"), "Placed")
        return placed["message"] if placed.get("reason") == "Unplaceable" else None

    message = wait_for("the condition", told)
    assert "no GPU has room for 7g.80gb" in message
    assert "free" in message, "the message must name the free room"
    assert "freeing" in message, "the message must name what would make room"
    kubectl.run("delete", "pod", *held, "--wait=true", "--timeout=60s")
    job = finished(kubectl, "whole")
    assert condition(job, "Complete")["status"] == "True", job["status"]


def test_an_unknown_workload_fails_once_with_the_nearest_name(kubectl: Kubectl, real_node: Stack) -> None:
    kubectl.apply(training_job("typo", workload="noisr"))
    job = finished(kubectl, "typo")
    failed = condition(job, "Failed")
    assert failed["status"] == "True"
    assert failed["reason"] == "InvalidWorkload"
    assert "noiser" in failed["message"]
    assert len(kubectl.items("pods")) <= 1, "a user's mistake is not retried"


def test_an_unknown_parameter_fails_once_with_the_nearest_name(kubectl: Kubectl, real_node: Stack) -> None:
    kubectl.apply(training_job("parameter", parameters={"stepz": 10}))
    failed = condition(finished(kubectl, "parameter"), "Failed")
    assert failed["reason"] == "InvalidWorkload"
    assert "steps" in failed["message"]


def test_suspend_keeps_the_checkpoint_and_resume_goes_on(kubectl: Kubectl, real_node: Stack) -> None:
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "out"},
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "storageClassName": "",
                "volumeName": "t-" + kubectl.namespace,
                "resources": {"requests": {"storage": "1Gi"}},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "t-" + kubectl.namespace},
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "capacity": {"storage": "1Gi"},
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": str(real_node.output_directory), "type": "Directory"},
            },
        },
    )
    parameters = {"steps": 1500, "hidden": 16}
    kubectl.apply(
        training_job(
            "pause",
            parameters=parameters,
            output={"persistentVolumeClaim": "out"},
            checkpoint={"everySteps": 100},
        )
    )
    wait_for(
        "some progress",
        lambda: (
            ((kubectl.get("htj", "pause") or {}).get("status", {}).get("progress") or {}).get("step", 0) > 100
        ),
    )
    kubectl.run("patch", "htj", "pause", "--type=merge", "-p", json.dumps({"spec": {"suspend": True}}))
    wait_for("Suspended", lambda: condition(kubectl.get("htj", "pause"), "Suspended").get("status") == "True")
    wait_for("its pods to go", lambda: not kubectl.items("pods"))
    kubectl.run("patch", "htj", "pause", "--type=merge", "-p", json.dumps({"spec": {"suspend": False}}))
    job = finished(kubectl, "pause", seconds=150)
    assert condition(job, "Complete")["status"] == "True", job["status"]
    result = json.loads((real_node.output_directory / "pause" / "result.json").read_text())
    assert result["resumedFrom"], "the second run must start from the checkpoint of the first"


def test_every_process_serves_its_metrics(kubectl: Kubectl, real_node: Stack) -> None:
    expected = {
        "operator": "tessera_reconcile_total",
        "scheduler": "tessera_placement_seconds",
        "agent": "tessera_prepare_seconds",
    }
    pods = kubectl.in_namespace(SYSTEM).items("pods")
    for component, metric in expected.items():
        mine = [p for p in pods if p["metadata"]["labels"].get("app.kubernetes.io/component") == component]
        assert mine, f"no pod of component {component}"
        bodies = []
        for pod in mine:
            with urllib.request.urlopen(f"http://{pod['status']['podIP']}:8080/metrics", timeout=5) as answer:
                bodies.append(answer.read().decode())
        assert any(metric in body for body in bodies), f"{component} does not export {metric}"
