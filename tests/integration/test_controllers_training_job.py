"""A training job against a real API server and controller manager, without nodes: its children, and what it
says while it waits.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from background import in_background
from eventually import eventually
from integration.training_jobs import claim_of, condition, place, pod_of, say, training_job
from tessera.api import names
from tessera.controllers.operator import Operator, OperatorSettings
from tessera.controllers.worker_pod import WorkerSettings
from tessera.kube.client import KubeClient
from tessera.kube.resources import (
    EVENTS,
    GPU_NODES,
    HETEROGENEOUS_TRAINING_JOBS,
    JOBS,
    NODES,
    RESOURCE_CLAIM_TEMPLATES,
)
from tessera.local.control_plane import ControlPlane

pytestmark = pytest.mark.integration


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

    told = await eventually("an event tells it", events)
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


async def test_a_slice_that_the_agent_cannot_cut_reaches_the_condition_in_the_agents_words(
    operator: Operator, admin: KubeClient, namespace: str
) -> None:
    node = f"node-of-{namespace}"
    gpu_node = {"apiVersion": names.API_VERSION, "kind": "GPUNode", "metadata": {"name": node}}
    await admin.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
    await admin.create(GPU_NODES, gpu_node)
    await admin.create(HETEROGENEOUS_TRAINING_JOBS, training_job(namespace))
    claim = await place(admin, namespace, node)
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
