"""A Job whose pods may be moved must be able to stand it: it is refused where evictions would count as
failures, and where no replacement could be recognised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from integration.chart.installation import refused
from integration.chart.objects import Object, marked_job
from tessera.api import names
from tessera.api.heterogeneous_training_job import HeterogeneousTrainingJobSpec
from tessera.controllers.worker_pod import WorkerSettings, training_job
from tessera.kube.client import KubeClient
from tessera.kube.resources import JOBS

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
NOT_INDEXED = "add completionMode Indexed"
NOT_IGNORED = (
    "podFailurePolicy {rules: [{action: Ignore, "
    'onPodConditions: [{type: DisruptionTarget, status: "True"}]}]}'
)
DISRUPTED: Object = {"type": "DisruptionTarget"}
IGNORED: Object = {"action": "Ignore", "onPodConditions": [DISRUPTED]}
Change = Callable[[Object], Any]


def movable_job() -> Object:
    """As docs/moves.md says that it should be."""
    job = marked_job("train")
    job["spec"] |= {"completionMode": "Indexed", "completions": 2, "podFailurePolicy": {"rules": [IGNORED]}}
    return job


def with_rules(*rules: Object) -> Change:
    return lambda job: job["spec"]["podFailurePolicy"].update(rules=list(rules))


def on_exit(action: str) -> Object:
    return {"action": action, "onExitCodes": {"operator": "In", "values": [42]}}


def unmarked(job: Object) -> None:
    """A Job like most: nothing of what a movable one needs."""
    del job["spec"]["template"]["metadata"], job["spec"]["completionMode"], job["spec"]["podFailurePolicy"]


def says_no(job: Object) -> None:
    unmarked(job)
    job["spec"]["template"]["metadata"] = {"annotations": {names.MOVABLE_ANNOTATION: "false"}}


def annotated_otherwise(job: Object) -> None:
    unmarked(job)
    job["spec"]["template"]["metadata"] = {"annotations": {"example.com/note": "mine"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda job: job["spec"].pop("completionMode"), NOT_INDEXED),
        (lambda job: job["spec"].update(completionMode="NonIndexed"), NOT_INDEXED),
        (lambda job: job["spec"].pop("podFailurePolicy"), NOT_IGNORED),
        (with_rules(), NOT_IGNORED),
        (with_rules(on_exit("Ignore")), NOT_IGNORED),
        (with_rules({**IGNORED, "action": "Count"}), NOT_IGNORED),
        (with_rules({**IGNORED, "onPodConditions": [{"type": "ConfigIssue"}]}), NOT_IGNORED),
        (with_rules({**IGNORED, "onPodConditions": [{**DISRUPTED, "status": "False"}]}), NOT_IGNORED),
    ],
)
async def test_a_movable_job_that_an_eviction_would_fail_is_refused(
    chart_admin: KubeClient, chart_namespace: str, change: Change, message: str
) -> None:
    job = movable_job()
    change(job)
    await refused(chart_admin.create(JOBS, job, namespace=chart_namespace, dry_run=True), message=message)


@pytest.mark.parametrize(
    "change",
    [
        lambda job: None,
        with_rules(on_exit("FailJob"), IGNORED),
        with_rules({**IGNORED, "onPodConditions": [{"type": "ConfigIssue"}, DISRUPTED]}),
        unmarked,
        says_no,
        annotated_otherwise,
    ],
)
async def test_other_jobs_pass(chart_admin: KubeClient, chart_namespace: str, change: Change) -> None:
    job = movable_job()
    change(job)
    await chart_admin.create(JOBS, job, namespace=chart_namespace, dry_run=True)


@pytest.mark.parametrize("movable", [False, True])
async def test_the_jobs_of_training_jobs_pass_also_when_they_are_marked(
    chart_admin: KubeClient, chart_namespace: str, movable: bool
) -> None:
    spec = HeterogeneousTrainingJobSpec.model_validate(
        {"workload": {"name": "noiser"}, "resources": {"slice": {"profile": "1g.10gb"}}}
    )
    owner = {
        "apiVersion": names.API_VERSION,
        "kind": "HeterogeneousTrainingJob",
        "metadata": {"name": "train", "namespace": chart_namespace, "uid": "1"},
    }
    job = training_job(owner, spec, WorkerSettings(image="worker:1"))
    if movable:
        job["spec"]["template"]["metadata"]["annotations"] = {names.MOVABLE_ANNOTATION: "true"}
    await chart_admin.create(JOBS, job, namespace=chart_namespace, dry_run=True)
