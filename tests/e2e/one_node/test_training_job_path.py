"""From `kubectl apply` to a trained model: one job on one slice, and the errors a user makes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from as_a_user import Kubectl, claimed_pod, condition, hold_slices, training_job, wait_for
from scraped_metrics import Process, scrape, total, values, wait_until_true
from tessera.gpu.simulator.faults import Fault, FaultInjector
from tessera.kube.resources import EVENTS, GPU_NODES, HETEROGENEOUS_TRAINING_JOBS, PODS, RESOURCE_CLAIMS
from tessera.local.stack import Stack

# Every wait has its own limit, which names what did not come; this one is for what hangs.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


def finished(kubectl: Kubectl, name: str, seconds: float = 120) -> dict[str, Any]:
    def probe() -> dict[str, Any] | None:
        job = kubectl.get(HETEROGENEOUS_TRAINING_JOBS, name)
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
    reasons = {e["reason"] for e in kubectl.items(EVENTS)}
    assert "Placed" in reasons
    device = placement["device"]

    def freed() -> bool:
        claims = kubectl.items(RESOURCE_CLAIMS)
        return all("allocation" not in (c.get("status") or {}) for c in claims)

    wait_for("the claim to be freed", freed)

    def warm() -> bool:
        nodes = kubectl.items(GPU_NODES)
        instances = [i for n in nodes for g in n["status"]["gpus"] for i in g.get("instances", [])]
        return [i["state"] for i in instances if i["device"] == device] == ["Warm"]

    wait_for(f"{device} to be warm", warm)


def test_a_job_that_fits_nowhere_says_what_would_make_it_fit(kubectl: Kubectl) -> None:
    kubectl.apply(training_job("other-gpu", profile="7g.141gb"))

    def told() -> dict[str, Any] | None:
        placed = condition(kubectl.get(HETEROGENEOUS_TRAINING_JOBS, "other-gpu"), "Placed")
        return placed if placed.get("reason") == "UnknownProfile" else None

    placed = wait_for("the condition", told)
    assert "7g.141gb" in placed["message"]
    assert "7g.80gb" in placed["message"], "the message must name what is offered"
    wait_for(
        "the event",
        lambda: [
            e for e in kubectl.items(EVENTS) if e["type"] == "Warning" and "7g.141gb" in e.get("note", "")
        ],
    )


def test_a_full_gpu_is_named_with_its_free_room_and_the_job_runs_when_there_is_room(
    kubectl: Kubectl, real_node: Stack
) -> None:
    held = {"left": "4g.40gb", "right": "3g.40gb", "other": "1g.10gb"}
    hold_slices(kubectl, held, image=real_node.worker_image)
    kubectl.apply(training_job("whole", profile="7g.80gb"))

    def told() -> str | None:
        placed = condition(kubectl.get(HETEROGENEOUS_TRAINING_JOBS, "whole"), "Placed")
        return placed["message"] if placed.get("reason") == "Unplaceable" else None

    message = wait_for("the condition", told)
    assert "no GPU has room for 7g.80gb" in message
    assert "free" in message, "the message must name the free room"
    assert "freeing" in message, "the message must name what would make room"
    notes = [e["note"] for e in kubectl.items(EVENTS) if e["type"] == "Warning"]
    for words in ("no GPU has room for 7g.80gb", "free", "freeing"):
        assert any(words in note for note in notes), f"an event must say {words!r}; they say {notes}"
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
    assert len(kubectl.items(PODS)) <= 1, "a user's mistake is not retried"


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

    def status() -> dict[str, Any]:
        return dict((kubectl.get(HETEROGENEOUS_TRAINING_JOBS, "pause") or {}).get("status", {}))

    wait_for("some progress", lambda: (status().get("progress") or {}).get("step", 0) > 100)
    kubectl.run("patch", "htj", "pause", "--type=merge", "-p", json.dumps({"spec": {"suspend": True}}))
    wait_for("Suspended", lambda: condition({"status": status()}, "Suspended").get("status") == "True")
    wait_for("its pods to go", lambda: not kubectl.items(PODS))
    kubectl.run("patch", "htj", "pause", "--type=merge", "-p", json.dumps({"spec": {"suspend": False}}))
    job = finished(kubectl, "pause", seconds=150)
    assert condition(job, "Complete")["status"] == "True", job["status"]
    result = json.loads((real_node.output_directory / "pause" / "result.json").read_text())
    assert result["resumedFrom"], "the second run must start from the checkpoint of the first"


def test_every_process_shows_in_its_metrics_what_it_does(
    kubectl: Kubectl, real_node: Stack, faults: FaultInjector
) -> None:
    """Both GPUs are half full and a job waits for a whole one; a slice cannot be cut; then the job runs."""
    before = total(scrape(kubectl, "agent"), "tessera_prepare_errors_total")
    holders = {"left": "4g.40gb", "right": "4g.40gb"}
    hold_slices(kubectl, holders, image=real_node.worker_image)
    # It runs for longer than the operator waits between two questions: the loss is told while it runs only.
    kubectl.apply(training_job("measured", profile="7g.80gb", parameters={"steps": 1200, "hidden": 16}))
    wait_until_true(lambda: scrape(kubectl, "scheduler"), SCHEDULER_WHILE_A_JOB_WAITS)
    wait_until_true(lambda: scrape(kubectl, "agent"), AGENT_WHILE_TWO_SLICES_ARE_HELD)

    # No other test uses this profile, so no warm slice spares the driver's call.
    refused = claimed_pod("refused", profile="1g.10gb+me", image=real_node.worker_image)
    faults.set([Fault("nvmlDeviceCreateGpuInstanceWithPlacement", times=0)])
    kubectl.apply(*refused)
    wait_until_true(
        lambda: scrape(kubectl, "agent"),
        {
            "tessera_prepare_errors_total counts the refused attempt": lambda agent: (
                total(agent, "tessera_prepare_errors_total") > before
            )
        },
    )
    faults.set([])
    kubectl.run("delete", "pod", "refused", *holders, "--wait=true", "--timeout=60s")
    job = finished(kubectl, "measured")
    assert condition(job, "Complete")["status"] == "True", job["status"]
    training = {"namespace": kubectl.namespace, "job": "measured"}
    steps = float(job["status"]["progress"]["steps"])
    wait_until_true(
        lambda: scrape(kubectl, "operator"),
        {
            **OPERATOR_AFTER_A_JOB,
            "tessera_training_step is the last one": lambda o: (
                values(o, "tessera_training_step", **training) == [steps]
            ),
            "tessera_training_steps is their number": lambda o: (
                values(o, "tessera_training_steps", **training) == [steps]
            ),
            "tessera_training_loss is there": lambda o: total(o, "tessera_training_loss", **training) > 0,
        },
    )


def one_of_two_leads(process: Process) -> bool:
    return sorted(values(process, "tessera_leader")) == [0.0, 1.0]


Wanted = Mapping[str, Callable[[Process], bool]]

SCHEDULER_WHILE_A_JOB_WAITS: Wanted = {
    "tessera_leader is 1 in one replica and 0 in the other": one_of_two_leads,
    "tessera_queue_depth has the job": lambda s: values(s, "tessera_queue_depth", profile="7g.80gb") == [1],
    "tessera_allocated_slices has both": lambda s: (
        values(s, "tessera_allocated_slices", profile="4g.40gb") == [2]
    ),
    "tessera_largest_placeable_profile_slices is what is left": lambda s: (
        values(s, "tessera_largest_placeable_profile_slices") == [4, 4]
    ),
    "tessera_fragmentation_ratio of half a GPU": lambda s: (
        [0 < ratio < 1 for ratio in values(s, "tessera_fragmentation_ratio")] == [True, True]
    ),
    "tessera_placement_seconds_count counts": lambda s: total(s, "tessera_placement_seconds_count") > 0,
    "tessera_placement_seconds_sum grows": lambda s: total(s, "tessera_placement_seconds_sum") > 0,
    "tessera_placements_total has both": lambda s: (
        total(s, "tessera_placements_total", result="Placed", profile="4g.40gb") >= 2
    ),
}
AGENT_WHILE_TWO_SLICES_ARE_HELD: Wanted = {
    "tessera_slices has both": lambda a: (
        total(a, "tessera_slices", profile="4g.40gb", state="InUse") == 2
        and total(a, "tessera_slices", state="InUse") == 2
    ),
    "tessera_prepare_seconds_count has both": lambda a: total(a, "tessera_prepare_seconds_count") >= 2,
    "tessera_prepare_seconds_sum grows": lambda a: total(a, "tessera_prepare_seconds_sum") > 0,
}
OPERATOR_AFTER_A_JOB: Wanted = {
    "tessera_leader is 1 in one replica and 0 in the other": one_of_two_leads,
    "tessera_reconcile_total counts": lambda o: (
        total(o, "tessera_reconcile_total", kind="HeterogeneousTrainingJob") > 0
    ),
    "tessera_reconcile_seconds_count counts": lambda o: (
        total(o, "tessera_reconcile_seconds_count", kind="HeterogeneousTrainingJob") > 0
    ),
    "tessera_reconcile_seconds_sum grows": lambda o: total(o, "tessera_reconcile_seconds_sum") > 0,
    "tessera_workqueue_depth is there": lambda o: values(o, "tessera_workqueue_depth") != [],
    "tessera_workqueue_adds_total counts": lambda o: total(o, "tessera_workqueue_adds_total") > 0,
}
