"""A training job against a real API server and controller manager, without nodes: its children, its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from background import in_background
from integration.operator_process import eventually
from tessera.api import names
from tessera.controllers.operator import Operator, OperatorSettings
from tessera.controllers.worker_pod import WorkerSettings
from tessera.kube.client import KubeClient
from tessera.kube.conditions import find_condition
from tessera.kube.errors import NotFound
from tessera.kube.resources import (
    EVENTS,
    GPU_NODES,
    HETEROGENEOUS_TRAINING_JOBS,
    JOBS,
    NODES,
    PODS,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_CLAIMS,
)
from tessera.local.control_plane import ControlPlane

pytestmark = pytest.mark.integration

Object = dict[str, Any]


@pytest.fixture
async def operator(control_plane: ControlPlane) -> AsyncIterator[Operator]:
    """A running operator of this test's own."""
    async with await KubeClient.connect(
        kubeconfig=control_plane.kubeconfig, field_manager=names.OPERATOR_FIELD_MANAGER
    ) as client:
        running = Operator(
            client,
            OperatorSettings(
                worker=WorkerSettings(image="tessera/worker:test"), kubeconfig=control_plane.kubeconfig
            ),
        )
        async with in_background(running.run()):
            yield running


def training_job(namespace: str, name: str = "train", **spec: Any) -> Object:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "HeterogeneousTrainingJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "workload": {"name": "noiser", "parameters": {"image": "astronaut", "steps": 50, "rate": 0.01}},
            "resources": {"slice": {"profile": "2g.20gb"}},
            **spec,
        },
    }


async def read(admin: KubeClient, namespace: str, name: str = "train") -> Object:
    return await admin.get(HETEROGENEOUS_TRAINING_JOBS, name, namespace)


async def condition(admin: KubeClient, namespace: str, type: str, reason: str, name: str = "train") -> Object:
    """The condition of that type, once it has that reason."""

    async def look() -> Any:
        obj = await read(admin, namespace, name)
        found = find_condition((obj.get("status") or {}).get("conditions"), type)
        return found if found and found["reason"] == reason else None

    found: Object = await eventually(look, f"{type} gets reason {reason}")
    return found


async def pod_of(admin: KubeClient, namespace: str) -> Object:
    async def look() -> Any:
        pods = await admin.list(PODS, namespace, label_selector=f"{names.TRAINING_JOB_LABEL}=train")
        return pods.items[0] if pods.items else None

    found: Object = await eventually(look, "the Job makes a pod")
    return found


async def claim_of(admin: KubeClient, namespace: str) -> Object:
    async def look() -> Any:
        claims = await admin.list(RESOURCE_CLAIMS, namespace)
        return claims.items[0] if claims.items else None

    found: Object = await eventually(look, "the claim is made")
    return found


async def say(admin: KubeClient, claim: Object, said: str) -> None:
    """Tell why the claim waits, as the scheduler does."""
    await admin.patch(
        RESOURCE_CLAIMS,
        claim["metadata"]["name"],
        namespace=claim["metadata"]["namespace"],
        body={"metadata": {"annotations": {names.PLACEMENT_MESSAGE_ANNOTATION: said}}},
    )


async def test_a_training_job_gets_a_job_a_claim_and_a_gated_pod(
    operator: Operator, admin: KubeClient, namespace: str
) -> None:
    made = await admin.create(HETEROGENEOUS_TRAINING_JOBS, training_job(namespace), strict=True)

    await condition(admin, namespace, "Admitted", "Admitted")
    job = await admin.get(JOBS, "train", namespace)
    template = await admin.get(RESOURCE_CLAIM_TEMPLATES, "train", namespace)
    for child in (job, template):
        owner = child["metadata"]["ownerReferences"][0]
        assert (owner["uid"], owner["controller"]) == (made["metadata"]["uid"], True)
    pod = await pod_of(admin, namespace)
    assert pod["spec"]["schedulingGates"] == [{"name": "tessera.dev/placement"}]
    ready = await condition(admin, namespace, "Ready", "AwaitingPlacement")
    assert ready["status"] == "False"


async def test_what_the_scheduler_says_reaches_the_condition_and_one_event(
    operator: Operator, admin: KubeClient, namespace: str
) -> None:
    await admin.create(HETEROGENEOUS_TRAINING_JOBS, training_job(namespace))
    await pod_of(admin, namespace)

    claim = await claim_of(admin, namespace)
    await say(
        admin,
        claim,
        '{"reason": "Unplaceable", "message": "2g.20gb fits on none of 2 GPUs: wait for train-1 to end"}',
    )

    placed = await condition(admin, namespace, "Placed", "Unplaceable")
    assert placed["message"] == "2g.20gb fits on none of 2 GPUs: wait for train-1 to end"
    ready = await condition(admin, namespace, "Ready", "Unplaceable")
    assert ready["status"] == "False"

    async def events() -> Any:
        found = await admin.list(EVENTS, namespace, field_selector="regarding.kind=HeterogeneousTrainingJob")
        return [event for event in found.items if event["reason"] == "Unplaceable"]

    told = await eventually(events, "an event tells it")
    assert len(told) == 1
    assert told[0]["type"] == "Warning"


async def test_a_job_that_finds_no_gpu_at_all_has_the_reason_of_a_node_without_a_driver(
    operator: Operator, admin: KubeClient, namespace: str
) -> None:
    node = f"0-of-{namespace}"  # the first by name, whatever other tests have left
    gpu_node = {"apiVersion": names.API_VERSION, "kind": "GPUNode", "metadata": {"name": node}}
    await admin.create(GPU_NODES, gpu_node)
    why = {
        "type": "Ready",
        "status": "False",
        "reason": "DriverMissing",
        "message": "install the NVIDIA driver",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    await admin.apply(GPU_NODES, {**gpu_node, "status": {"conditions": [why]}}, subresource="status")
    await admin.create(HETEROGENEOUS_TRAINING_JOBS, training_job(namespace))
    await pod_of(admin, namespace)
    claim = await claim_of(admin, namespace)
    await say(admin, claim, '{"reason": "NoGPUs", "message": "no GPU is published in this cluster"}')
    ready = await condition(admin, namespace, "Ready", "DriverMissing")
    assert f"no GPU is published in this cluster; node {node}: install the NVIDIA driver" in ready["message"]
    await admin.delete(GPU_NODES, node)


async def bind(control_plane: ControlPlane, admin: KubeClient, namespace: str, node: str) -> Object:
    """Play both schedulers: the job's claim holds a device of the node and its pod is bound; the claim."""
    pod = await pod_of(admin, namespace)

    async def claim_named() -> Any:
        found = await admin.get(PODS, pod["metadata"]["name"], namespace)
        return (found.get("status") or {}).get("resourceClaimStatuses")

    (named,) = await eventually(claim_named, "the pod names its claim")
    claim = await admin.get(RESOURCE_CLAIMS, named["resourceClaimName"], namespace)
    request = claim["spec"]["devices"]["requests"][0]["name"]
    result = {"request": request, "driver": names.DRIVER, "pool": node, "device": "gpu-1f3c9a2e-2g-20gb-4"}
    consumer = {"resource": "pods", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
    await admin.patch(
        RESOURCE_CLAIMS,
        named["resourceClaimName"],
        namespace=namespace,
        subresource="status",
        body={"status": {"allocation": {"devices": {"results": [result]}}, "reservedFor": [consumer]}},
    )
    await admin.patch(
        PODS, pod["metadata"]["name"], namespace=namespace, body={"spec": {"schedulingGates": None}}
    )
    binding = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": pod["metadata"]["name"]},
        "target": {"kind": "Node", "name": node},
    }
    path = f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}/binding"
    control_plane.kubectl("create", "--raw", path, "-f", "-", input_text=json.dumps(binding))
    return claim


async def test_a_slice_that_the_agent_cannot_cut_reaches_the_condition_in_the_agents_words(
    operator: Operator, admin: KubeClient, control_plane: ControlPlane, namespace: str
) -> None:
    node = f"node-of-{namespace}"
    gpu_node = {"apiVersion": names.API_VERSION, "kind": "GPUNode", "metadata": {"name": node}}
    await admin.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
    await admin.create(GPU_NODES, gpu_node)
    await admin.create(HETEROGENEOUS_TRAINING_JOBS, training_job(namespace))
    claim = await bind(control_plane, admin, namespace, node)
    await condition(admin, namespace, "Ready", "Starting")

    identity = {key: claim["metadata"][key] for key in ("namespace", "name", "uid")}
    why = "claim x: nvmlDeviceCreateGpuInstanceWithPlacement failed: IN_USE; reset the GPU"
    failure = {"claim": identity, "message": why, "since": "2026-01-01T00:00:00Z"}
    told = {"observedGeneration": 1, "prepareFailures": [failure]}
    await admin.apply(GPU_NODES, {**gpu_node, "status": told}, subresource="status")
    ready = await condition(admin, namespace, "Ready", "PrepareFailed")
    assert ready["status"] == "False"
    assert why in ready["message"]

    await admin.apply(GPU_NODES, {**gpu_node, "status": {"observedGeneration": 1}}, subresource="status")
    await condition(admin, namespace, "Ready", "Starting")
    await admin.delete(GPU_NODES, node)
    await admin.delete(NODES, node)


async def test_suspend_stops_the_pod_and_resume_makes_another(
    operator: Operator, admin: KubeClient, namespace: str
) -> None:
    await admin.create(HETEROGENEOUS_TRAINING_JOBS, training_job(namespace))
    first = await pod_of(admin, namespace)

    await admin.patch(
        HETEROGENEOUS_TRAINING_JOBS, "train", namespace=namespace, body={"spec": {"suspend": True}}
    )
    suspended = await condition(admin, namespace, "Suspended", "Suspended")
    assert suspended["status"] == "True"
    assert (await admin.list(PODS, namespace)).items == []
    assert (await admin.get(JOBS, "train", namespace))["spec"]["suspend"] is True

    await admin.patch(
        HETEROGENEOUS_TRAINING_JOBS, "train", namespace=namespace, body={"spec": {"suspend": False}}
    )
    await condition(admin, namespace, "Suspended", "Resumed")
    second = await pod_of(admin, namespace)
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    assert second["spec"]["containers"][0]["args"] == first["spec"]["containers"][0]["args"]


async def test_a_change_of_limits_reaches_the_running_job(
    operator: Operator, admin: KubeClient, namespace: str
) -> None:
    await admin.create(HETEROGENEOUS_TRAINING_JOBS, training_job(namespace, activeDeadlineSeconds=3000))
    pod = await pod_of(admin, namespace)

    await admin.patch(
        HETEROGENEOUS_TRAINING_JOBS,
        "train",
        namespace=namespace,
        body={"spec": {"backoffLimit": 7, "activeDeadlineSeconds": None}},
    )

    async def changed() -> Any:
        spec = (await admin.get(JOBS, "train", namespace))["spec"]
        return spec["backoffLimit"] == 7 and "activeDeadlineSeconds" not in spec

    await eventually(changed, "the Job has the new limits")
    assert (await pod_of(admin, namespace))["metadata"]["uid"] == pod["metadata"]["uid"]


async def finish(admin: KubeClient, namespace: str, *, exit_code: int, message: str) -> None:
    """Play the kubelet: the job's pod ends."""
    pod = await pod_of(admin, namespace)
    ended = {
        "name": names.WORKER_CONTAINER,
        "image": "x",
        "imageID": "x",
        "ready": False,
        "restartCount": 0,
        "state": {
            "terminated": {
                "exitCode": exit_code,
                "reason": "Completed" if exit_code == 0 else "Error",
                "message": message,
                "finishedAt": "2026-01-01T00:00:00Z",
            }
        },
    }
    await admin.patch(
        PODS,
        pod["metadata"]["name"],
        namespace=namespace,
        subresource="status",
        body={
            "status": {
                "phase": "Succeeded" if exit_code == 0 else "Failed",
                "containerStatuses": [ended],
            }
        },
    )


async def test_a_finished_job_shows_its_result_and_goes_after_its_time_to_live(
    operator: Operator, admin: KubeClient, namespace: str
) -> None:
    await admin.create(HETEROGENEOUS_TRAINING_JOBS, training_job(namespace, ttlSecondsAfterFinished=4))
    said = (
        '{"outcome":"complete","step":50,"steps":50,"checks":{"passed":4,"failed":0},'
        '"metrics":{"ssim_gain":0.41},"resultPath":"/output/train/result.json"}'
    )
    await finish(admin, namespace, exit_code=0, message=said)

    complete = await condition(admin, namespace, "Complete", "Complete")
    assert complete["message"] == (
        "the worker finished and 4 of 4 checks held; results are in /output/train/result.json"
    )
    status = (await read(admin, namespace))["status"]
    assert status["result"]["metrics"] == {"ssim_gain": 0.41}
    assert status["progress"]["step"] == 50

    async def gone() -> Any:
        for resource in (HETEROGENEOUS_TRAINING_JOBS, JOBS, RESOURCE_CLAIM_TEMPLATES):
            try:
                await admin.get(resource, "train", namespace)
            except NotFound:
                continue
            return False
        return True

    await eventually(gone, "the job and its children go")


async def test_an_unknown_parameter_fails_the_job_at_once_with_the_workers_words(
    operator: Operator, admin: KubeClient, namespace: str
) -> None:
    await admin.create(HETEROGENEOUS_TRAINING_JOBS, training_job(namespace))
    said = '{"outcome":"invalid","message":"noiser has no parameter stepz; did you mean steps?"}'
    await finish(admin, namespace, exit_code=2, message=said)

    failed = await condition(admin, namespace, "Failed", "InvalidWorkload")
    assert failed["status"] == "True"
    assert failed["message"].startswith("noiser has no parameter stepz; did you mean steps?")
    pods = await admin.list(PODS, namespace)
    assert len(pods.items) == 1, "an invalid workload is never retried"


async def test_a_preempted_pod_is_replaced_and_counts_as_a_restart_not_as_a_failure(
    operator: Operator, admin: KubeClient, namespace: str
) -> None:
    await admin.create(HETEROGENEOUS_TRAINING_JOBS, training_job(namespace, backoffLimit=0))
    first = await pod_of(admin, namespace)
    await finish(admin, namespace, exit_code=143, message='{"outcome":"preempted","step":20,"steps":50}')

    async def replaced() -> Any:
        pods = await admin.list(PODS, namespace, field_selector="status.phase=Pending")
        return [pod for pod in pods.items if pod["metadata"]["uid"] != first["metadata"]["uid"]]

    await eventually(replaced, "another pod is made although backoffLimit is 0")

    async def counted() -> Any:
        return (await read(admin, namespace)).get("status", {}).get("restarts") == 1

    await eventually(counted, "the restart is counted")
    failed = find_condition((await read(admin, namespace))["status"]["conditions"], "Failed")
    assert failed is not None
    assert failed["status"] == "False"


async def test_deleting_the_job_deletes_its_children(
    operator: Operator, admin: KubeClient, namespace: str
) -> None:
    await admin.create(HETEROGENEOUS_TRAINING_JOBS, training_job(namespace))
    await pod_of(admin, namespace)

    await admin.delete(HETEROGENEOUS_TRAINING_JOBS, "train", namespace=namespace, propagation="Foreground")

    async def gone() -> Any:
        for resource in (HETEROGENEOUS_TRAINING_JOBS, JOBS, RESOURCE_CLAIM_TEMPLATES, PODS):
            if (await admin.list(resource, namespace)).items:
                return False
        return True

    await eventually(gone, "nothing of the job is left")


async def test_a_foreign_job_of_that_name_is_left_alone(
    operator: Operator, admin: KubeClient, namespace: str
) -> None:
    foreign = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "train", "namespace": namespace},
        "spec": {
            "suspend": True,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "other"}]}},
        },
    }
    before = await admin.create(JOBS, foreign)
    await admin.create(HETEROGENEOUS_TRAINING_JOBS, training_job(namespace))

    admitted = await condition(admin, namespace, "Admitted", "NameTaken")
    assert "give this object another name" in admitted["message"]
    after = await admin.get(JOBS, "train", namespace)
    assert after["spec"] == before["spec"]
    assert "ownerReferences" not in after["metadata"]


async def test_a_parameter_that_is_a_list_is_refused_without_a_pod(
    operator: Operator, admin: KubeClient, namespace: str
) -> None:
    job = training_job(namespace)
    job["spec"]["workload"]["parameters"] = {"images": ["astronaut", "coffee"]}
    await admin.create(HETEROGENEOUS_TRAINING_JOBS, job)

    failed = await condition(admin, namespace, "Failed", "InvalidWorkload")
    assert (
        "spec.workload.parameters.images: a parameter is a string, a number or a boolean, not a list"
        in (failed["message"])
    )
    assert (await admin.list(JOBS, namespace)).items == []


async def test_a_job_is_found_even_when_no_event_of_it_was_heard(
    control_plane: ControlPlane, admin: KubeClient, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def deaf(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("tessera.controllers.operator.run_kopf", deaf)
    async with await KubeClient.connect(
        kubeconfig=control_plane.kubeconfig, field_manager=names.OPERATOR_FIELD_MANAGER
    ) as client:
        settings = OperatorSettings(worker=WorkerSettings(image="tessera/worker:test"), resync_seconds=0.2)
        async with in_background(Operator(client, settings).run()):
            await admin.create(HETEROGENEOUS_TRAINING_JOBS, training_job(namespace))
            await condition(admin, namespace, "Admitted", "Admitted")
