"""A training job against a real API server and controller manager, without nodes: its user stops, changes and
deletes it, and its pod ends in each of the ways that count.
"""

from __future__ import annotations

from typing import Any

import pytest
from eventually import eventually
from integration.training_jobs import condition, finish, pod_of, read, training_job
from tessera.controllers.operator import Operator
from tessera.kube.client import KubeClient
from tessera.kube.conditions import find_condition
from tessera.kube.errors import NotFound
from tessera.kube.resources import HETEROGENEOUS_TRAINING_JOBS, JOBS, PODS, RESOURCE_CLAIM_TEMPLATES

pytestmark = pytest.mark.integration


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

    await eventually("the Job has the new limits", changed)
    assert (await pod_of(admin, namespace))["metadata"]["uid"] == pod["metadata"]["uid"]


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

    await eventually("the job and its children go", gone)


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

    await eventually("another pod is made although backoffLimit is 0", replaced)

    async def counted() -> Any:
        return (await read(admin, namespace)).get("status", {}).get("restarts") == 1

    await eventually("the restart is counted", counted)
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

    await eventually("nothing of the job is left", gone)
